//! The tracepoint `sched_process_exec`, for the loader: a program was started in another mount namespace than
//! the host's, so that there may be libraries to attach to. Only a hint: the loader looks around by itself too.

use atalaya_sensor_ebpf::logins::{ARRIVALS_BYTES, Arrival};
use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, map},
    maps::{LruHashMap, RingBuf},
    programs::BtfTracePointContext,
};

use crate::caller::{self, Task};

#[map]
static ARRIVALS: RingBuf = RingBuf::with_byte_size(ARRIVALS_BYTES, 0);
/// Mount namespaces: how many programs were told of each, and when last.
#[map]
static MOUNTS: LruHashMap<u32, Told> = LruHashMap::with_max_entries(1024, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Told {
    last_ns: u64,
    count: u64,
}

/// A container that begins starts several programs: all of these are told.
const FIRST: u64 = 16;
/// After them one in so many nanoseconds: 0.1 s.
const PAUSE: u64 = 100_000_000;

#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Task::lent(ctx.arg(0));
    let mounts = task.mounts();
    if mounts == 0 || mounts == caller::host_mounts() {
        return 0;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(told) = MOUNTS.get_ptr_mut(&mounts) {
        // SAFETY: the map gave the pointer; counts that two CPUs write at once may be one too low.
        let told = unsafe { &mut *told };
        if told.count >= FIRST && now.saturating_sub(told.last_ns) < PAUSE {
            return 0;
        }
        told.count += 1;
        told.last_ns = now;
    } else {
        let _ = MOUNTS.insert(&mounts, &Told { last_ns: now, count: 1 }, 0);
    }
    if let Some(mut entry) = ARRIVALS.reserve::<Arrival>(0) {
        entry.write(Arrival { tgid: task.process().tgid as u32, mounts });
        entry.submit(0);
    }
    0
}
