//! Atalaya's enforcer: takes offences from sensors, keeps the bans in its ledger, and holds every
//! MikroTik router's address list to them.
//!
//! Data flows one way: [`https`] → [`intake`] → [`bans`], where [`policy`] decides → [`ledger`] and
//! [`router`] at once, and to sensors that drop by themselves, the [`followers`]. `service.rs` wires these.

pub mod allow;
pub mod backup;
pub mod bans;
pub mod clock;
pub mod config;
pub mod control;
mod database;
pub mod enrolment;
pub mod fleet;
pub mod followers;
pub mod https;
pub mod intake;
pub mod ledger;
pub mod policy;
pub mod prefixes;
pub mod protect;
pub mod rates;
pub mod recovery;
pub mod reports;
pub mod router;
pub mod service;
pub mod skew;
pub mod state;
pub mod tls;
pub mod widen;
