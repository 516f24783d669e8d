//! The clocks of the kernel programs: by one they date what they tell, by the other bans end.

use jiff::SignedDuration;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, which stands still while the host sleeps.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Nanoseconds of `CLOCK_BOOTTIME`, which goes on while the host sleeps.
pub fn boot_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// How long ago a moment of this clock was; nothing for one that is still to come.
pub fn age(time_ns: u64) -> SignedDuration {
    SignedDuration::from_nanos(i64::try_from(monotonic_ns().saturating_sub(time_ns)).unwrap_or(0))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
