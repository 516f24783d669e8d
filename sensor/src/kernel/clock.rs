//! The clock by which the kernel programs date what they tell.

use jiff::SignedDuration;

/// Nanoseconds of `CLOCK_MONOTONIC`, which stands still while the host sleeps.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// How long ago a moment of this clock was; nothing for one that is still to come.
pub fn age(time_ns: u64) -> SignedDuration {
    SignedDuration::from_nanos(i64::try_from(monotonic_ns().saturating_sub(time_ns)).unwrap_or(0))
}
