//! Login verdicts without a login: root, or another user, calls the function of libaudit that PAM and
//! sshd report to. It is the real function in the real library; only the caller is a script.

use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::output;

/// One call an address, 10.9.0.1 and on. Prints the address and the time just before each call.
const SCRIPT: &str = r"
import ctypes, sys, time
libaudit = ctypes.CDLL('libaudit.so.1')
count, pause = int(sys.argv[1]), float(sys.argv[2])
for number in range(count):
    address = b'10.9.%d.%d' % (number // 250, number % 250 + 1)
    before = time.time_ns()
    libaudit.audit_log_acct_message(-1, 1100, None, b'PAM:authentication', b'nobody', -1, address, None, b'ssh', 0)
    if pause:
        print(address.decode(), before, flush=True)
        time.sleep(pause)
";

/// Reports so many failed passwords, each of another address, as the given user; where there is a
/// pause between them, returns when each was reported, in nanoseconds since the epoch.
pub fn report(count: u32, pause: Duration, user: u32) -> Result<Vec<(IpAddr, u128)>> {
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT, &count.to_string(), &pause.as_secs_f64().to_string()]);
    if user != 0 {
        python.uid(user);
    }
    output(&mut python)?
        .lines()
        .map(|line| {
            let (address, at) = line.split_once(' ').context("unexpected output")?;
            Ok((address.parse()?, at.parse()?))
        })
        .collect()
}
