//! When processes were started: their numbers do not tell, as they begin anew at the bottom once the highest was
//! given (`kernel.pid_max`), on a busy host several times a day.

use rustix::time::{ClockId, clock_gettime};

const SECOND: i128 = 1_000_000_000;
/// What /proc counts in: `USER_HZ`, a hundredth of a second, in nanoseconds.
pub(super) const TICK: i128 = SECOND / 100;

/// When a process was started, in ticks of [`TICK`] since the host's start; `None` where it is gone.
pub(super) fn ticks(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // proc_pid_stat(5): the name may hold anything, and the start is the twentieth field behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// When a process was started, in nanoseconds since 1970, exact to a tick; `None` where it is gone.
pub(super) fn started(process: u32) -> Option<i128> {
    let now = |clock| {
        let now = clock_gettime(clock);
        i128::from(now.tv_sec) * SECOND + i128::from(now.tv_nsec)
    };
    Some(now(ClockId::Realtime) - now(ClockId::Boottime) + i128::from(ticks(process)?) * TICK)
}

/// What processes are sorted by, so that the oldest is the first and what is gone is the last. Of two that were
/// started in one tick the one of the lower number counts as the older, which it nearly always is.
pub(super) fn age(process: u32) -> (u64, u32) {
    (ticks(process).unwrap_or(u64::MAX), process)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Starts a process that ends with its standard input, and is given the next free number.
    fn start_after(number: u32) -> Child {
        // pid_namespaces(7)
        std::fs::write("/proc/sys/kernel/ns_last_pid", number.to_string()).expect("needs root");
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn end(mut process: Child) {
        drop(process.stdin.take());
        process.wait().unwrap();
    }

    #[test]
    fn the_older_of_two_processes_is_the_first_though_its_number_is_higher() {
        let older = start_after(20_000);
        let younger = loop {
            let younger = start_after(400);
            if ticks(younger.id()) > ticks(older.id()) {
                break younger;
            }
            end(younger);
        };
        let (old, young) = (older.id(), younger.id());
        assert!(young < old, "the kernel gave {young} behind 400 and {old} behind 20,000");
        let mut processes = [young, old];
        processes.sort_by_key(|process| age(*process));
        assert_eq!(processes, [old, young]);
        end(older);
        assert_eq!(age(old), (u64::MAX, old));
        end(younger);
    }
}
