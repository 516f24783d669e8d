//! What a verdict on a login costs its caller, what the ring of logins carries, and what asking for a peer at the system
//! call instead of in libc would cost every other one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use atalaya_end_to_end::process::{Process, output};
use serde_json::Value;

use super::{KernelBench, end, median};

/// How many calls of the probed function a round makes.
pub const CALLS: u32 = 20_000;
const ROUNDS: usize = 7;
/// Records a second that the ring is offered, each for so many seconds.
const PACES: [u32; 6] = [5_000, 10_000, 20_000, 50_000, 100_000, 0];
const SECONDS: f64 = 2.0;
/// The lost ones are told every ten seconds.
const TOLD: Duration = Duration::from_secs(25);

/// Calls libaudit's function so often, so many a second (0: without a pause). Prints the nanoseconds that it took.
const CALLER: &str = r"
import ctypes, sys, time
function = ctypes.CDLL('libaudit.so.1').audit_log_acct_message
count, pace = int(sys.argv[1]), float(sys.argv[2])
addresses = [b'10.9.%d.%d' % (number // 250, number % 250 + 1) for number in range(250)]
start = time.perf_counter_ns()
for number in range(count):
    if pace:
        due = start + number * 1e9 / pace
        while time.perf_counter_ns() < due: pass
    function(-1, 1100, None, b'PAM:authentication', b'nobody', -1, addresses[number % 250], None, b'ssh', 0)
print(time.perf_counter_ns() - start)
";

/// As [`CALLER`] of a system call that does next to nothing.
const SYSTEM_CALLER: &str = r"
import ctypes, time
getppid = ctypes.CDLL(None).getppid
count = 200000
start = time.perf_counter_ns()
for _ in range(count): getppid()
print((time.perf_counter_ns() - start) / count)
";

/// So many calls without a pause; the nanoseconds each took.
pub fn calls(count: u32) -> Result<f64> {
    Ok(paced(count, 0)? / f64::from(count))
}

fn paced(count: u32, pace: u32) -> Result<f64> {
    let mut python = Command::new("python3");
    let printed = output(python.args(["-c", CALLER, &count.to_string(), &pace.to_string()]))?;
    printed.trim().parse().with_context(|| printed.clone())
}

/// The whole price of a record, the trap into the kernel included.
pub fn cost_of_a_call(bench: &KernelBench) -> Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let sensor = bench.sensor()?;
        with.push(calls(CALLS)?);
        end(sensor)?;
        without.push(calls(CALLS)?);
    }
    let (with, without) = (median(with), median(without));
    println!("  a verdict on a login at its caller, the way into the kernel included");
    println!(
        "    {without:.0} ns without the sensor, {with:.0} ns with it: {:+.0} ns (budget: under 1000 ns)\n",
        with - without
    );
    Ok(())
}

/// What is given up: a tracepoint of the system call getpeername, enabled, taxes every system call.
pub fn cost_of_a_system_call() -> Result<()> {
    let switch = Path::new("/sys/kernel/tracing/events/syscalls/sys_exit_getpeername/enable");
    println!(
        "  any system call (getppid), for a peer that is asked for at the system call instead of in libc"
    );
    if !switch.exists() {
        println!("    not measured: {} is not there (tracefs is not mounted?)\n", switch.display());
        return Ok(());
    }
    let call = || -> Result<f64> {
        let printed = output(Command::new("python3").args(["-c", SYSTEM_CALLER]))?;
        printed.trim().parse().with_context(|| printed.clone())
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        fs::write(switch, "1").with_context(|| switch.display().to_string())?;
        let traced = call();
        fs::write(switch, "0").with_context(|| switch.display().to_string())?;
        with.push(traced?);
        without.push(call()?);
    }
    let (with, without) = (median(with), median(without));
    println!(
        "    {without:.0} ns, {with:.0} ns with a tracepoint of getpeername: {:+.0} ns\n",
        with - without
    );
    Ok(())
}

/// What the ring carries without loss, and what is lost beyond.
pub fn ring(bench: &KernelBench) -> Result<()> {
    println!(
        "  the ring of logins: records offered for {SECONDS} s, each read, judged and counted by a jail"
    );
    for pace in PACES {
        let sensor = bench.sensor()?;
        let count = if pace == 0 { 400_000 } else { (f64::from(pace) * SECONDS) as u32 };
        let nanoseconds = paced(count, pace)?;
        let lost = lost(sensor)?;
        println!(
            "    {:8.0} a second ({count} records): {lost} lost ({:.2} %)",
            f64::from(count) / nanoseconds * 1e9,
            lost as f64 * 100.0 / f64::from(count)
        );
    }
    println!();
    Ok(())
}

/// How many the sensor tells of as lost.
fn lost(mut sensor: Process) -> Result<u64> {
    let told = sensor.wait_for("tell what was lost", TOLD, |line| line.contains("login records lost"));
    let lost = match told {
        Ok(line) => {
            let event: Value = serde_json::from_str(&line.text)?;
            event["ring_full"].as_u64().context("it does not say how many")?
        }
        // Nothing to tell.
        Err(_) => 0,
    };
    end(sensor)?;
    Ok(lost)
}
