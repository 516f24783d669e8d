//! Atalaya's enforcer: takes offences from sensors, keeps the bans in its ledger, and holds every
//! MikroTik router's address list to them.
//!
//! Data flows one way: [`intake`] → [`bans`] → [`ledger`] and
//! [`router`] at once, and to sensors that drop by themselves, the [`followers`](intake::followers). `service.rs` wires these.

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
