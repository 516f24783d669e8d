//! What each kernel program is expected to be on each kernel, in one table; whatever differs is a failure. A row holds
//! from its kernel series on, until a later row of the same program.

use kernel_init::{Program, State};

use State::{Off, On, Refused};

/// The kernel's lockdown: what it keeps even from root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Lockdown {
    /// Off: root may do everything
    None,
    /// Changing the running kernel
    Integrity,
    /// Reading the kernel's memory too: tracefs and the helper that reads it
    Confidentiality,
}

struct Row {
    program: &'static str,
    since: (u32, u32),
    /// With lockdown none, integrity and confidentiality.
    states: [State; 3],
}

const EXPECTED: &[Row] = &[
    // Confidentiality allows what reads a process's memory, and aya does not: it takes a kernel that lets nobody read its
    // own memory for one older than the helper for a process's, and puts one in its place that reads both. The
    // program that stands in for audit's sleeps, and uses another helper.
    Row { program: "logins: audit", since: (5, 8), states: [On, On, Refused] },
    Row { program: "logins: audit", since: (6, 0), states: [On, On, On] },
    // PAM reports to libaudit here.
    Row { program: "logins: pam", since: (5, 8), states: [Off, Off, Off] },
    Row { program: "logins: peers", since: (5, 8), states: [On, On, Refused] },
    Row { program: "logins: syslog", since: (5, 8), states: [On, On, Refused] },
    Row { program: "logins: arrivals", since: (5, 11), states: [On, On, On] },
    Row { program: "connections: state", since: (5, 8), states: [On, On, On] },
    // tcp_send_reset tells of closed ports since 6.10; before that kfree_skb does. Both need tracefs, which
    // confidentiality denies.
    Row { program: "scans: resets", since: (5, 8), states: [Off, Off, Refused] },
    Row { program: "scans: resets", since: (6, 10), states: [On, On, Refused] },
    Row { program: "scans: drops", since: (5, 8), states: [On, On, Refused] },
    Row { program: "scans: drops", since: (6, 10), states: [Off, Off, Refused] },
    // No jail names an interface for it.
    Row { program: "scans: syns", since: (5, 8), states: [Off, Off, Off] },
    Row { program: "local drop: xdp", since: (5, 9), states: [On, On, On] },
];

/// What differs from what is expected, in sentences.
pub fn deviations(series: (u32, u32), lockdown: Lockdown, programs: &[Program]) -> Vec<String> {
    let mut different = Vec::new();
    for (name, expected) in expected(EXPECTED, series, lockdown) {
        let found: Vec<_> = programs.iter().filter(|program| program.name == name).collect();
        match found[..] {
            [] => different.push(format!("{name} is not in the status; expected it {expected}")),
            [program] if program.state != expected => different
                .push(format!("{name} is {}, expected it {expected}: {}", program.state, program.reason)),
            [Program { state: Refused, reason, .. }] if reason.is_empty() => {
                different.push(format!("{name} is refused for no reason"));
            }
            [_] => {}
            _ => different.push(format!("{name} is in the status {} times", found.len())),
        }
    }
    for program in programs {
        if !EXPECTED.iter().any(|row| row.program == program.name) {
            different.push(format!(
                "{} is {}, and xtask/src/vm/expectation.rs does not know it",
                program.name, program.state
            ));
        }
    }
    different
}

fn expected(table: &'static [Row], series: (u32, u32), lockdown: Lockdown) -> Vec<(&'static str, State)> {
    let mut expected: Vec<(&str, (u32, u32), State)> = Vec::new();
    for row in table {
        let state = if row.since <= series { row.states[lockdown as usize] } else { Off };
        match expected.iter_mut().find(|(name, ..)| *name == row.program) {
            Some(earlier) if row.since <= series && earlier.1 <= row.since => {
                *earlier = (row.program, row.since, state);
            }
            Some(_) => {}
            None => expected.push((row.program, row.since, state)),
        }
    }
    expected.into_iter().map(|(name, _, state)| (name, state)).collect()
}

// === impl Lockdown ===

impl Lockdown {
    /// From the least to the most that is kept from root.
    pub const ALL: [Self; 3] = [Self::None, Self::Integrity, Self::Confidentiality];

    /// For the kernel's command line, which has no word for none.
    pub fn argument(self) -> Option<&'static str> {
        (self != Self::None).then(|| self.name())
    }

    /// As securityfs names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Row] = &[
        Row { program: "scans: reset", since: (5, 8), states: [Off, Off, Off] },
        Row { program: "scans: reset", since: (6, 12), states: [On, On, Refused] },
    ];

    #[test]
    fn a_later_row_holds_from_its_series_on() {
        for (series, lockdown, state) in [
            ((6, 1), Lockdown::None, Off),
            ((6, 12), Lockdown::None, On),
            ((7, 0), Lockdown::Confidentiality, Refused),
        ] {
            assert_eq!(expected(TABLE, series, lockdown), [("scans: reset", state)]);
        }
    }

    #[test]
    fn a_program_that_is_missing_unknown_or_in_another_state_is_told() {
        let program = |name: &str, state| Program {
            name: name.to_owned(),
            state,
            reason: String::new(),
            instructions: None,
        };
        let differs = |programs: &[Program]| deviations((6, 1), Lockdown::None, programs);
        let all_on: Vec<_> = expected(EXPECTED, (6, 1), Lockdown::None)
            .into_iter()
            .map(|(name, state)| program(name, state))
            .collect();
        assert!(differs(&all_on).is_empty(), "{:?}", differs(&all_on));
        assert!(differs(&[])[0].contains("not in the status"));
        assert!(differs(&[program("logins: audit", Refused)])[0].contains("is refused, expected it on"));
        let mut more = all_on;
        more.push(program("surprise", On));
        assert!(differs(&more)[0].contains("does not know it"));
    }
}
