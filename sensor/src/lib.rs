//! Atalaya's sensor: notices failed logins in the kernel and in logs, decides in its jails which
//! addresses offend, and reports the offences to the enforcer.
//!
//! Data flows one way: [`source`] → [`detector`] ([`filter`], [`jail`]) → at once [`local_drop`], this host's own, and
//! [`uplink`], which brings the enforcer offences and [reports](uplink::report), and brings back what became of them and
//! the [fleet's bans](uplink::fleet_bans). [`service`] wires these, against the flow, so that nothing is noticed before
//! it can be kept.
//!
//! A folder imports folders to the right of it alone (the test `structure` of `tests/end-to-end` holds it, and says what
//! to do instead): `cli, service > control > uplink > detector, config > fail2ban, store, local_drop > jail > source >
//! kernel > channel > pinned, filter > confine, date > rfc5424, count`. Settings live with the room that they set; [`config`] reads them from the
//! file. What a source is, [`jail::source::JailSource`] says alone.
//!
//! # The two processes
//!
//! The **loader** is the room `loader` and nothing else. It may load and trace, and reads nothing that an attacker wrote.
//! The **worker** is all the rest, and reads what attackers wrote. It starts the loader, and neither's code knows the
//! other's: both know [`channel`], what they say to each other over a socket pair (what is to be loaded, whose maps come
//! back; who listens on a port; whether the word of a process on an address counts), [`pinned`], what stands in the kernel
//! for both to open, and [`confine`]. Either process ends with the other.
//!
//! # What runs in the worker
//!
//! A reload ends and begins anew what reads files, the journal and syslog; the rest goes on. At the end of the sensor
//! each has a second.
//!
//! | task or thread | does | hears through |
//! |---|---|---|
//! | the thread `store` ([`store`]) | writes offences, positions, counters and bans to SQLite, in the order in which they were told; what the disk refuses it keeps, and tries again every second | an unbounded queue of orders; of offences that wait, 1,000,000 at most on disk, 100,000 for a disk that refuses them |
//! | the thread `files` ([`source::files`]) | follows log files and hands whole lines to the detector | inotify, and a look every two seconds |
//! | the thread `loader` (`kernel/process.rs`) | hears what the loader says, and wakes who asked | the socket pair |
//! | the thread `journal` ([`source::journal`]) | follows the files of systemd's journals and hands their entries to the detector | inotify, and a look every two seconds |
//! | `syslog`: a task for each socket and each connection | hands messages to the detector | the sockets |
//! | `logins`, `connections`, `syslog_calls` of the service | hand what the kernel programs tell to the detector | their rings; `Notify` where the jails changed |
//! | `Doubts::run` | asks the loader whether a container's record is believed | its ring; 256 answers go back to `logins` |
//! | `ask_commands`, and at most 16 tasks | asks a jail's ignorecommand before its offence goes out | a queue of 10,000 offences |
//! | `send` of `service/enforcer.rs`: five loops in one task | sends offences and reports, reads the allow list, follows the fleet's bans, sends bans again that a new ledger lacks | the outbox's `Notify`; `watch`es of the ledger, and of whether the fleet's bans are wanted; a queue of 1,000 changes |
//! | `keep` | saves what changed, every second; looks up who is protected, every minute | the clock |
//! | `tell_drops` | warns of what was lost, every ten seconds | the clock |
//! | `LocalDrop::keep` | takes bans that are over out of the maps, every ten seconds; looks for the lifelines again, every minute | the clock |
//! | `control::serve`, and a task for each command | passes commands of this host to the loop of [`service::run`] | a Unix socket; a queue of 16 |
//!
//! # Who locks what
//!
//! No lock is held over an `await`, nor while a disk is written. Locks are taken in the order of this table.
//!
//! | lock | guards | taken by |
//! |---|---|---|
//! | `Watch` of [`service`] | the detector, and which positions and counters are not saved yet: lines and what came of them are one step | every source for each block of lines, message or record; commands; `keep`; what the enforcer answers |
//! | `LocalDrop::state` | the table of bans that this host drops, and the maps | an offence under `Watch`; the stream of the fleet's bans; commands |
//! | `LocalDrop::trusted` | from where somebody logged in lately | successful logins under `Watch`, offences under `LocalDrop::state` |
//! | the outbox's queue | offences that wait, and their numbers | an offence under `Watch`; the uplink |
//! | the loader's `Heard` | who waits for an answer of the loader | the thread `loader`, whoever asks; the question is sent under it where answers come in the order of the questions |
//! | `Link`, the rate of lines, an ignorecommand's answers | themselves alone | commands, `keep`, `ask_commands` |

pub mod carrier;
pub mod channel;
pub mod cli;
pub mod config;
pub mod confine;
pub mod control;
pub mod date;
pub mod detector;
pub mod fail2ban;
pub mod filter;
pub mod jail;
pub mod json;
pub mod kernel;
#[cfg(feature = "kernel")]
pub mod loader;
pub mod local_drop;
pub mod pinned;
pub mod rfc5424;
pub mod service;
pub mod source;
pub mod store;
pub mod uplink;
