//! Atalaya's sensor: notices failed logins in the kernel and in logs, decides in its jails which
//! addresses offend, and reports the offences to the enforcer.
//!
//! Data flows one way: [`source`] → [`detector`] ([`filter`], [`jail`]) → [`uplink`].
//! Beside it the enforcer hears of failures and good logins in [`uplink::report`]s, and tells of the fleet's bans in
//! [`uplink::fleet_bans`].
//! `service.rs` wires these in that order.

pub mod cli;
pub mod config;
pub mod confine;
pub mod control;
pub mod date;
pub mod detector;
pub mod fail2ban;
pub mod filter;
pub mod jail;
pub mod kernel;
pub mod local_drop;
pub mod service;
pub mod source;
pub mod store;
pub mod uplink;
