//! The object `logins`. On the host this is an empty program, so that the whole workspace checks.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "kernel programs read raw memory through helpers")
)]

#[cfg(target_arch = "bpf")]
mod arrivals;
#[cfg(target_arch = "bpf")]
mod audit;
#[cfg(target_arch = "bpf")]
mod caller;
#[cfg(target_arch = "bpf")]
mod pam;
#[cfg(target_arch = "bpf")]
mod peers;
#[cfg(target_arch = "bpf")]
mod record;
#[cfg(target_arch = "bpf")]
mod syslog;
#[cfg(target_arch = "bpf")]
atalaya_sensor_ebpf::object!();

#[cfg(not(target_arch = "bpf"))]
fn main() {}
