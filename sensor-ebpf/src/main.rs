//! Atalaya's kernel programs. One file a program; the sensor has a file of the same noun on its side
//! of the ABI in `lib.rs`. On the host this is an empty program, so that the whole workspace checks.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "kernel programs read raw memory through helpers")
)]

#[cfg(target_arch = "bpf")]
mod drops;
#[cfg(target_arch = "bpf")]
mod login;

/// The kernel lets a program call GPL-only helpers if this section names a compatible licence.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this can be reached.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
