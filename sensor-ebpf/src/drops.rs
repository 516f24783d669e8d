//! Counts what the kernel programs had to leave out. User space never sees a failed reserve, so it
//! is counted here, on each CPU without contention.

use atalaya_sensor_ebpf::{DROPS as COUNTERS, Drop};
use aya_ebpf::{macros::map, maps::PerCpuArray};

#[map]
static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Adds one to a counter of this CPU.
pub fn count(drop: Drop) {
    if let Some(counter) = DROPS.get_ptr_mut(drop as u32) {
        // SAFETY: the map gave the pointer, and only this CPU writes the value behind it; a probe that
        // interrupts another on the same CPU may lose one count.
        unsafe { *counter += 1 };
    }
}
