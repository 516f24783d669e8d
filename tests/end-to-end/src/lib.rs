//! What end-to-end tests, the demo and the benchmarks share: a network namespace, a private sshd,
//! and Atalaya's programs as real processes. Nothing here knows how those programs work inside.

pub mod container;
pub mod namespace;
pub mod own_host;
pub mod packets;
pub mod process;
pub mod small_disk;
pub mod sshd;
pub mod stage;
pub mod structure;
mod tokens;
pub mod verdicts;
