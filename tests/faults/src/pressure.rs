//! How busy this machine is with other things: what waits for a processor is late through no fault of its own.

/// By how much longer things may take here than on a machine with nothing else to do: 1 to 3.
///
/// Source: the kernel's Documentation/accounting/psi.rst. Where it is not told, 1.
pub fn patience() -> f64 {
    let told = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    1.0 + 2.0 * waiting(&told) / 100.0
}

/// The share of the last ten seconds in which something waited, in percent.
fn waiting(told: &str) -> f64 {
    let some = told.lines().find_map(|line| line.strip_prefix("some avg10="));
    some.and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok()).unwrap_or_default().clamp(0.0, 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_last_ten_seconds_is_read() {
        let told = "some avg10=12.50 avg60=3.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert!((waiting(told) - 12.5).abs() < f64::EPSILON);
        assert!(waiting("").abs() < f64::EPSILON);
    }
}
