//! Who calls: what the kernel itself knows of the current process, whatever the process says. Where the kernel
//! has no type information most of it is zero, and nobody is taken for a program of this host.

use core::ptr::read_volatile;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_uid_gid, generated::bpf_get_current_task_btf,
};

/// What the loader sets, see `GLOBALS` in the ABI.
macro_rules! globals {
    ($($name:ident),+) => {
        $(#[unsafe(no_mangle)] static $name: u32 = 0;)+
    };
}
globals!(KNOWN, HOST_MOUNTS, TASK_NAMESPACES, TASK_PARENT, TASK_LEADER, TASK_TGID, TASK_STARTED);
globals!(NAMESPACES_MOUNTS, MOUNTS_NUMBER);

/// A process for as long as the host runs: numbers of processes come again, with another start.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Process {
    /// When it began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
    pub tgid: u64,
}

/// A task that the kernel lends.
#[derive(Clone, Copy)]
pub struct Task(*const u8);

/// Whether the caller is root, in the initial user namespace, and not by a set-user-id program.
#[inline(always)]
pub fn is_root() -> bool {
    bpf_get_current_uid_gid() as u32 == 0
}

/// The number of the host's mount namespace; 0 where it is not known.
#[inline(always)]
pub fn host_mounts() -> u32 {
    global(&raw const HOST_MOUNTS)
}

/// The calling process; with no start where the kernel's layout is not known.
#[inline(always)]
pub fn process() -> Process {
    current().map_or(Process { started: 0, tgid: bpf_get_current_pid_tgid() >> 32 }, Task::process)
}

/// `None` where the kernel's layout is not known.
#[inline(always)]
pub fn parent() -> Option<Process> {
    Some(current()?.parent().process())
}

/// The number of the caller's mount namespace; 0 where it is not known.
#[inline(always)]
pub fn mounts() -> u32 {
    current().map_or(0, Task::mounts)
}

/// Where the calling task lies in the kernel's memory; `None` where the kernel's layout is not known.
#[inline(always)]
pub fn address() -> Option<u64> {
    Some(current()?.0 as u64)
}

/// The calling task, where the kernel's layout is known.
#[inline(always)]
fn current() -> Option<Task> {
    if global(&raw const KNOWN) == 0 {
        return None;
    }
    // SAFETY: a helper without arguments; where the kernel does not have it, KNOWN is zero and the verifier
    // does not come here.
    Some(Task(unsafe { bpf_get_current_task_btf() }.cast()))
}

#[inline(always)]
pub fn global(place: *const u32) -> u32 {
    // SAFETY: a static of this object; volatile, because the loader sets it after compilation.
    unsafe { read_volatile(place) }
}

// === impl Task ===

impl Task {
    /// A task that a program was called with.
    #[inline(always)]
    pub fn lent(task: *const u8) -> Self {
        Self(task)
    }

    #[inline(always)]
    pub fn mounts(self) -> u32 {
        let namespaces = self.pointer(self.0, &raw const TASK_NAMESPACES);
        let mounts = self.pointer(namespaces, &raw const NAMESPACES_MOUNTS);
        // SAFETY: the verifier knows the type behind the pointer, and a bad address reads as zero.
        unsafe { read_volatile(mounts.add(global(&raw const MOUNTS_NUMBER) as usize).cast()) }
    }

    #[inline(always)]
    pub fn process(self) -> Process {
        let leader = self.pointer(self.0, &raw const TASK_LEADER);
        // SAFETY: as in `mounts`.
        unsafe {
            Process {
                started: read_volatile(leader.add(global(&raw const TASK_STARTED) as usize).cast()),
                tgid: u64::from(read_volatile(
                    self.0.add(global(&raw const TASK_TGID) as usize).cast::<u32>(),
                )),
            }
        }
    }

    #[inline(always)]
    fn parent(self) -> Self {
        Self(self.pointer(self.0, &raw const TASK_PARENT))
    }

    #[inline(always)]
    fn pointer(self, from: *const u8, offset: *const u32) -> *const u8 {
        // SAFETY: as in `mounts`.
        unsafe { read_volatile(from.add(global(offset) as usize).cast()) }
    }
}
