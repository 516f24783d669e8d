//! How a daemon is installed, started and tried, and what is expected of the sensor: plain data. The recipes themselves are
//! in [`super::recipes`].

use crate::suite::Suite;

/// One daemon, set up in one way.
#[derive(Debug)]
pub struct Recipe {
    /// As on the command line and in the tables.
    pub name: &'static str,
    /// What is not as Debian installs it, for users. May be empty.
    pub setup: &'static str,
    /// The first and the last suite that it is for.
    pub suites: (Suite, Suite),
    /// Recipes with the same packages share one installation of them, by this name.
    pub layer: &'static str,
    /// Debian's, without what they recommend.
    pub packages: &'static [&'static str],
    /// Others in their place, from a suite on.
    pub packages_since: Option<(Suite, &'static [&'static str])>,
    /// Whether clients' addresses have names there.
    pub names: bool,
    /// Whether the sensor looks for the peer where PAM is told a name.
    pub peers: bool,
    /// Whether clients come one after another, where they would disturb each other.
    pub in_turn: bool,
    /// Shell, run on the daemon's host before anything starts there.
    pub prepare: &'static str,
    /// Shell that starts it and stays while it runs.
    pub start: &'static str,
    /// Where it listens, once it is up.
    pub listens: &'static [Port],
    /// Our filter, and the log that it reads; where there is none, nothing is expected of a log.
    pub log: Option<(&'static str, &'static str)>,
    /// What is tried on it, over IPv4 and over IPv6.
    pub cases: &'static [Case],
    /// For users: which source to choose, and why. Sentences.
    pub choose: &'static str,
}

/// What a daemon waits on.
#[derive(Clone, Copy, Debug)]
pub enum Port {
    /// For connections.
    Tcp(u16),
    /// For datagrams.
    Udp(u16),
}

/// What one client tries.
#[derive(Debug)]
pub struct Case {
    /// In words, for the tables.
    pub name: &'static str,
    /// Shell, run among the attackers: `$TO` is the daemon's address, `$URL` the same with
    /// brackets around IPv6, `$WORK` a folder with what clients need.
    pub client: &'static str,
    /// Where its programs are.
    pub tools: Tools,
    /// What it must have been told in the end; else it did not get as far as the daemon's verdict.
    pub told: &'static str,
    /// How many passwords or keys were refused, from all that is known.
    pub refused: u32,
    /// How many logins succeeded.
    pub let_in: u32,
    /// What is seen of it, over IPv4 and IPv6 alike. The last row that fits the suite holds.
    pub expected: &'static [Expectation],
    /// Why that is less than all, or more; for users. May be empty.
    pub note: &'static str,
}

/// Whose programs a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tools {
    /// This machine's: ssh, curl, python3.
    Machine,
    /// Those of the daemon's own file root.
    Root,
}

/// What is expected from a suite on.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    since: Suite,
    seen: Seen,
}

/// The version of the internet protocol that a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 4
    V4,
    /// 6
    V6,
}

/// What the sensor made of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Failures of the client's address by the kernel's source.
    pub kernel: u32,
    /// Good logins from that address, by the same.
    pub logins: u32,
    /// Failures of that address in the log.
    pub log: u32,
    /// Failed logins that the kernel's source saw and could give to no address.
    pub nameless: u32,
}

// === impl Recipe ===

impl Recipe {
    /// What a recipe is unless it says otherwise.
    pub const DEFAULT: Self = Self {
        name: "",
        setup: "",
        suites: (Suite::Bookworm, Suite::Sid),
        layer: "",
        packages: &[],
        packages_since: None,
        names: false,
        peers: false,
        in_turn: false,
        prepare: "",
        start: "",
        listens: &[],
        log: None,
        cases: &[],
        choose: "",
    };

    /// What is installed in a suite.
    pub fn packages(&self, suite: Suite) -> &'static [&'static str] {
        match self.packages_since {
            Some((since, packages)) if since <= suite => packages,
            _ => self.packages,
        }
    }

    /// Whether it can be run in a suite.
    pub fn is_for(&self, suite: Suite) -> bool {
        (self.suites.0..=self.suites.1).contains(&suite)
    }
}

// === impl Case ===

impl Case {
    /// What a case is unless it says otherwise.
    pub const DEFAULT: Self = Self {
        name: "",
        client: "",
        tools: Tools::Machine,
        told: "",
        refused: 0,
        let_in: 0,
        expected: &[],
        note: "",
    };

    /// What is to be seen of it.
    pub fn expected(&self, suite: Suite) -> Seen {
        let fits = |row: &&Expectation| row.since <= suite;
        self.expected.iter().rfind(fits).map(|row| row.seen).unwrap_or_default()
    }
}

// === impl Expectation ===

impl Expectation {
    /// From this suite on.
    pub const fn since(mut self, suite: Suite) -> Self {
        self.since = suite;
        self
    }

    /// And so many good logins.
    pub const fn and_logins(mut self, logins: u32) -> Self {
        self.seen.logins = logins;
        self
    }

    /// And so many failed logins without an address.
    pub const fn nameless(mut self, nameless: u32) -> Self {
        self.seen.nameless = nameless;
        self
    }
}

/// So many failures by the kernel's source, and in the log.
pub const fn failures(kernel: u32, log: u32) -> Expectation {
    let seen = Seen { kernel, logins: 0, log, nameless: 0 };
    Expectation { since: Suite::Bookworm, seen }
}

/// So many good logins by the kernel's source.
pub const fn logins(logins: u32) -> Expectation {
    let seen = Seen { kernel: 0, logins, log: 0, nameless: 0 };
    Expectation { since: Suite::Bookworm, seen }
}

// === impl Family ===

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// As the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_that_fits_the_suite_holds() {
        const CASE: Case = Case {
            expected: &[failures(0, 1).nameless(1), failures(2, 1).since(Suite::Trixie)],
            ..Case::DEFAULT
        };
        assert_eq!(CASE.expected(Suite::Bookworm).nameless, 1);
        assert_eq!(CASE.expected(Suite::Trixie).kernel, 2);
        assert_eq!(CASE.expected(Suite::Sid).kernel, 2);
        assert_eq!(Case::DEFAULT.expected(Suite::Sid), Seen::default());
    }
}
