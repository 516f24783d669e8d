//! The object `local_drop`. On the host this is an empty program, so that the whole workspace checks.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "kernel programs read packets and maps through pointers")
)]

#[cfg(target_arch = "bpf")]
mod xdp;
#[cfg(target_arch = "bpf")]
atalaya_sensor_ebpf::object!();

#[cfg(not(target_arch = "bpf"))]
fn main() {}
