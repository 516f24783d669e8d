//! A sliding window in eight buckets, small enough for an entry of a kernel map and counted up without a
//! lock: plain functions, which the kernel programs and the tests run alike.
//!
//! A bucket is an eighth of the window. Each holds the number of its eighth (the upper half of the word)
//! beside what was counted in it (the lower half), so that an old bucket is known as old by itself. **The bounds**:
//! what is counted lies within the window's time, always, so that never more is counted than happened; and all that
//! lies within the last seven eighths of it is counted. Where two processors count at the very same moment one
//! of the two may be lost; none is counted twice.

/// How many buckets a window has.
pub const BUCKETS: usize = 8;

/// The buckets of one window. All zero is an empty one.
pub type Window = [u64; BUCKETS];

/// The number of the eighth that a time is in. Both are nanoseconds; eighths of no length are all one.
#[inline]
pub const fn eighth(time_ns: u64, bucket_ns: u64) -> u32 {
    match time_ns.checked_div(bucket_ns) {
        Some(number) => number as u32,
        None => 0,
    }
}

/// Counts an event in the bucket of this eighth, which is emptied first where it is of an earlier round.
#[inline]
pub fn add(window: &mut Window, eighth: u32) {
    let bucket = &mut window[eighth as usize % BUCKETS];
    let before = counted(*bucket, eighth);
    *bucket = pack(eighth, before.saturating_add(1));
}

/// Notes one of up to 32 marks, as [`mark`] gives them.
#[inline]
pub fn note(window: &mut Window, eighth: u32, mark: u32) {
    let bucket = &mut window[eighth as usize % BUCKETS];
    let before = counted(*bucket, eighth);
    *bucket = pack(eighth, before | mark);
}

/// How many were counted in the window that ends with this eighth.
#[inline]
pub fn count(window: &Window, eighth: u32) -> u32 {
    let mut sum: u64 = 0;
    for bucket in window {
        sum += u64::from(within(*bucket, eighth));
    }
    // Less is no lie, and no such limit is allowed.
    sum.min(u64::from(u32::MAX)) as u32
}

/// How many different marks were noted in the window that ends with this eighth.
#[inline]
pub fn distinct(window: &Window, eighth: u32) -> u32 {
    let mut marks: u32 = 0;
    for bucket in window {
        marks |= within(*bucket, eighth);
    }
    marks.count_ones()
}

/// The mark of a port. Ports that have the same mark count as one: of 10 ports 1 or 2 have, so that a limit
/// of 10 is reached with 12, as a rule, and never with fewer than 10.
#[inline]
pub const fn mark(port: u16) -> u32 {
    // Knuth's multiplicative hash: neighbouring ports, which scanners touch, lie apart.
    1 << ((port as u32).wrapping_mul(0x9E37_79B1) >> 27)
}

/// What a bucket counted, where it is of this very eighth.
#[inline]
const fn counted(bucket: u64, eighth: u32) -> u32 {
    if (bucket >> 32) as u32 == eighth { bucket as u32 } else { 0 }
}

/// What a bucket counted, where it is of this eighth or of one of the seven before.
#[inline]
const fn within(bucket: u64, eighth: u32) -> u32 {
    if eighth.wrapping_sub((bucket >> 32) as u32) < BUCKETS as u32 { bucket as u32 } else { 0 }
}

#[inline]
const fn pack(eighth: u32, value: u32) -> u64 {
    (eighth as u64) << 32 | value as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUCKET: u64 = 125_000_000;
    const WINDOW: u64 = BUCKET * BUCKETS as u64;

    /// Times in order: dense ones, gaps, and such that the buckets wrap around.
    fn times() -> impl Strategy<Value = Vec<u64>> {
        let gap = prop_oneof![0..3u64, 0..BUCKET, 0..WINDOW, 0..20 * WINDOW];
        (0..u64::MAX / 2, prop::collection::vec(gap, 1..200)).prop_map(|(start, gaps)| {
            let mut now = start;
            gaps.into_iter()
                .map(|gap| {
                    now += gap;
                    now
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn never_more_is_counted_than_the_window_holds_and_never_less_than_seven_eighths_of_it(times in times()) {
            let mut window = Window::default();
            for (index, now) in times.iter().enumerate() {
                let eighth = eighth(*now, BUCKET);
                add(&mut window, eighth);
                let since = |age: u64| times[..=index].iter().filter(|time| *now - **time < age).count() as u32;
                let counted = count(&window, eighth);
                prop_assert!(counted <= since(WINDOW), "{counted} of {}", since(WINDOW));
                prop_assert!(counted >= since(WINDOW - BUCKET), "{counted} of {}", since(WINDOW - BUCKET));
            }
        }

        #[test]
        fn never_more_ports_are_counted_than_were_touched_within_the_window(
            times in times(), ports in prop::collection::vec(any::<u16>(), 200),
        ) {
            let mut window = Window::default();
            for (index, (now, port)) in times.iter().zip(&ports).enumerate() {
                let eighth = eighth(*now, BUCKET);
                note(&mut window, eighth, mark(*port));
                let touched: std::collections::HashSet<u16> = times[..=index]
                    .iter()
                    .zip(&ports)
                    .filter(|(time, _)| *now - **time < WINDOW)
                    .map(|(_, port)| *port)
                    .collect();
                let counted = distinct(&window, eighth) as usize;
                prop_assert!((1..=touched.len()).contains(&counted), "{counted} of {}", touched.len());
            }
        }
    }

    #[test]
    fn a_limit_of_ten_ports_is_reached_with_few_more_whichever_ports_a_scanner_takes() {
        for first in (0..60_000).step_by(7) {
            let reached = (0..64).position(|more| {
                let mut window = Window::default();
                (0..=more).for_each(|port| note(&mut window, 1, mark(first + port)));
                distinct(&window, 1) >= 10
            });
            assert!(reached.is_some_and(|most| most < 16), "from port {first}: {reached:?}");
        }
    }
}
