//! What sensors tell beside offences: every failure that a jail counted, and successful logins.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Name;

/// What a sensor posts every second while there is anything to tell. One that got no answer is posted again
/// under its number, which changes nothing where it was taken; one that gets lost is no harm, so that nothing
/// of it waits on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The protocol's [`VERSION`](crate::VERSION); the enforcer refuses a report of another.
    pub version: u32,
    /// The sensor's outbox, as in a [`Batch`](crate::Batch).
    pub outbox: Name,
    /// Grows from report to report, also across restarts: milliseconds since 1970, say.
    pub sequence: u64,
    /// The sensor's clock at the moment of sending.
    pub sent: Timestamp,
    /// Failures since the last report, summed up by jail and address. Each counted one is told once, whether
    /// or not an offence came of it: who counts these counts all, and leaves out what offences say.
    #[serde(default)]
    pub failures: Vec<Failures>,
    /// Logins that succeeded, the last one of each address.
    #[serde(default)]
    pub logins: Vec<Login>,
}

/// Failures of one address in one jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// The jail that counted them.
    pub jail: Name,
    /// Who failed, in its [canonical](crate::canonical) form.
    pub address: IpAddr,
    /// Those that no report before told.
    pub count: u32,
    /// When the last of them happened.
    pub last: Timestamp,
}

/// A login that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Where it came from, in its [canonical](crate::canonical) form.
    pub address: IpAddr,
    /// The service that let it in, such as `sshd`; at most [`Login::LONGEST`] bytes count.
    pub service: String,
    /// The account; at most [`Login::LONGEST`] bytes count.
    pub account: String,
    /// When it succeeded, by the sensor's clock.
    pub time: Timestamp,
}

// === impl Login ===

impl Login {
    /// The longest service and account, in bytes.
    pub const LONGEST: usize = 64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_plain_json_that_a_shell_script_can_write() {
        let report: Report = serde_json::from_str(
            r#"{"version":1,"outbox":"curl","sequence":1,"sent":"2026-11-24T10:00:00Z",
                "failures":[{"jail":"smtp","address":"192.0.2.1","count":2,"last":"2026-11-24T10:00:00Z"}]}"#,
        )
        .unwrap();
        assert_eq!((report.failures[0].count, report.logins.len()), (2, 0));
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again, report);
    }
}
