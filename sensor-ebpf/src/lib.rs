//! The ABI between the kernel programs and user space: the records in the rings, the counters and the
//! names of programs and maps. Plain memory only: fixed sizes, no padding, no pointers, and both sides
//! assert the layout, so that a change on one side alone does not compile.
//!
//! A module here is an object, which the kernel loads or refuses as one; its programs are in `bin/`, a file
//! each, and their twin in the sensor's `loader/` has the same name.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(target_arch = "bpf"), forbid(unsafe_code))]

pub mod connections;
pub mod local_drop;
pub mod logins;
pub mod losses;
#[cfg(target_arch = "bpf")]
pub mod object;
#[cfg(target_arch = "bpf")]
pub mod user;
pub mod window;
