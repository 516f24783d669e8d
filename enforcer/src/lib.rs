//! Atalaya's enforcer: takes offences from sensors, keeps the bans in its ledger, and holds every
//! MikroTik router's address list to them.
//!
//! Data flows one way: [`intake`] → [`bans`], which decides → [`ledger`], and at once [`desired`] → [`router`], and the
//! [followers](intake::followers), sensors that drop by themselves. [`service`] wires these in that order.
//!
//! A folder imports folders to the right of it alone (the test `structure` of `tests/end-to-end` holds it):
//! `cli > service > config, control > intake > bans, router > ledger > desired > enrolment, tls >
//! prefixes, clock, count, database, state`. [`bans`] and [`router`] know nothing of each other: they meet in [`desired`].
//!
//! # What runs
//!
//! All of it ends within two seconds of [`Service::stop`](service::Service::stop); "every" is how often it wakes by itself.
//!
//! | task or thread | does | hears through |
//! |---|---|---|
//! | the thread `ledger` ([`ledger`], `writer.rs`) | commits all orders that wait in one transaction | an unbounded queue of orders; answers each by a oneshot, the [`Receipt`](ledger::Receipt) |
//! | the thread `ledger-check` | once after a start: reads the whole file for damage | nothing |
//! | the thread `aside` (`intake/aside.rs`) | understands large bodies and writes long answers, nicer than all others | a queue of at most one work of each sensor |
//! | a worker for each router ([`router::spawn`]) | keeps the router's lists as [`desired::Desired`] says | a [`Subscription`](desired::Subscription) of at most 65,536 prefixes; 64 questions; tells its status by a `watch` |
//! | `https::accept`, and a task for each connection | takes offences and reports, answers | the sockets; as many connections as [`intake::entrance`] lets in |
//! | a task for each follower's stream | tells a sensor the bans | a `watch` of the [`Journal`](desired::journal::Journal); 10 MB remembered |
//! | the commands' socket ([`control`]) | answers the commands of this host | a Unix socket |
//! | `expire` | ends what is over, every 250 ms | the clock |
//! | `names::keep` | looks up the DNS names on the allow list | the names' times to live, and a `Notify` when the list changes |
//! | `keep_own_addresses`, `keep_enrolled`, `keep_rates` | routers' and this host's addresses every 30 s; who is enrolled, and the rates, every second | the clock |
//! | `Reloader::serve` | reads the configuration again and goes on with it, one reload after the other | a queue of 16 reloads, from the commands' socket and from SIGHUP |
//! | `recovery::keep` | after the loss of a ledger only: ends when every router was read | the routers' statuses |
//!
//! # Who locks what
//!
//! No lock is held over an `await`, but for a sensor's turns, and none but the last two while a disk is read or written.
//!
//! | lock | guards | taken by |
//! |---|---|---|
//! | `Bans::book` | the bans that stand, the allow list, who is protected | intake, commands, `expire`, `names::keep`, recovery; inside it `Desired::bans` is taken, and an order put in the ledger's queue, so that memory, routers and disk see one order |
//! | `Desired::bans` | what routers should hold | writers under `Bans::book`; workers and followers to read a prefix |
//! | `Desired::subscribers`, and one for each mailbox | which prefixes changed | whoever sets a ban, after `Desired::bans` is free again; the worker |
//! | `Bans::{allow, rules}`, `Enrolled::known`, `RouterSet::crew`, `Presented::current` | an `Arc` that is replaced as a whole | readers for the time of a clone |
//! | `Intake::{through, seen, refusals}`, the limits and shares in `intake/share.rs`, `Reports::{fleet, through}`, `Control::rates` | counters, and what they are counted against | their own room; none inside another |
//! | the insides of [`Entrance`](intake::entrance::Entrance) and [`Origins`](intake::origins::Origins) | who is connected, and from where sensors came | `https::accept`, each first request of a connection; none inside another |
//! | a sensor's turns, in `intake/share.rs` | that one of its bodies is read at a time, and one of its batches is decided; held over an `await`, and waited for by that sensor's requests alone | its own requests: the batch's before the body's |
//! | `Ledger::reader` | a connection for looking up earlier bans, before `Bans::book` is taken | threads for blocking work |
//! | `Enrolled::source` | the connection to the enrolled sensors | threads for blocking work |

pub mod bans;
pub mod clock;
pub mod config;
pub mod control;
mod database;
pub mod desired;
pub mod enrolment;
pub mod intake;
pub mod ledger;
pub mod prefixes;
pub mod router;
pub mod service;
pub mod state;
pub mod tls;
