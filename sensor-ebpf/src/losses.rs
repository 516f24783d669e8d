//! What the programs of an object had to leave out: user space never sees a failed reserve.

/// The per-CPU array of `u64` counters that each object has, indexed by [`Loss`].
pub const LOSSES_MAP: &str = "LOSSES";
/// How many counters [`LOSSES_MAP`] has.
pub const LOSSES: u32 = 4;

/// What the kernel programs count, each on its CPU, in [`LOSSES_MAP`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Records for which the ring had no room.
    RingFull = 0,
    /// Calls whose arguments could not be read.
    Unreadable = 1,
    /// Records of callers who are not believed at once, for which their own ring had no room.
    DoubtedRingFull = 2,
    /// Calls of syslog for which their ring had no room.
    SyslogRingFull = 3,
}
