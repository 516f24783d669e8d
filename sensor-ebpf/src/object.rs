//! What every object needs: a licence, a panic handler, and the counters of what it left out.
#![expect(unsafe_code, reason = "the counters are reached through a pointer of the map's")]

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::losses::{LOSSES as COUNTERS, Loss};

#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Adds one to a counter of this CPU.
pub fn lose(loss: Loss) {
    if let Some(counter) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: the map gave the pointer, and only this CPU writes the value behind it; a probe that
        // interrupts another on the same CPU may lose one count.
        unsafe { *counter += 1 };
    }
}

/// Makes a binary an object: to be said once in its `main.rs`.
#[macro_export]
macro_rules! object {
    () => {
        /// The kernel lets a program call GPL-only helpers if this section names a compatible licence.
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            // The verifier refuses a program in which this can be reached.
            loop {}
        }
    };
}
