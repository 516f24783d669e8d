//! The object `connections`. On the host this is an empty program, so that the whole workspace checks.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "kernel programs read the kernel's memory through offsets and helpers")
)]

#[cfg(target_arch = "bpf")]
mod closed;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod state;
#[cfg(target_arch = "bpf")]
mod syns;
#[cfg(target_arch = "bpf")]
mod unanswered;
#[cfg(target_arch = "bpf")]
atalaya_sensor_ebpf::object!();

#[cfg(not(target_arch = "bpf"))]
fn main() {}
