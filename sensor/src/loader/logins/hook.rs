//! Which program goes where: the functions of libraries that are probed, and what they are probed for.

use atalaya_sensor_ebpf::logins::{
    AUDIT_PROGRAM, AUDIT_SLEEPABLE_PROGRAM, PAM_PROGRAMS, PEERS_PROGRAM, SYSLOG_PROGRAMS,
};

use super::{Verdicts, WantedLogins};

/// What is learned, each shown as one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// Verdicts, as audit hears them.
    Audit,
    /// Verdicts, as PAM gives them.
    Pam,
    /// Whom a process talks to.
    Peers,
    /// What they hand to syslog(3).
    Syslog,
}

/// A library whose functions are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Library {
    Audit,
    Pam,
    C,
}

/// A program on a function.
#[derive(Debug)]
pub(super) struct Hook {
    pub subject: Subject,
    pub program: &'static str,
    /// Where the kernel refuses that one: one that does the same in another way.
    pub instead: Option<&'static str>,
    pub library: Library,
    pub function: &'static str,
}

/// All of them. Those that remember come before those that use what is remembered. None is on a function's return: a
/// kernel was seen to stop while returns were probed, as docs/kernel.md says.
pub(super) static HOOKS: [Hook; 11] = [
    Hook::new(Subject::Peers, PEERS_PROGRAM, Library::C, PEERS_PROGRAM),
    Hook {
        instead: Some(AUDIT_SLEEPABLE_PROGRAM),
        ..Hook::new(Subject::Audit, AUDIT_PROGRAM, Library::Audit, "audit_log_acct_message")
    },
    Hook::pam(0),
    Hook::pam(1),
    Hook::pam(2),
    Hook::pam(3),
    Hook::pam(4),
    Hook::pam(5),
    Hook::pam(6),
    Hook::new(Subject::Syslog, SYSLOG_PROGRAMS[0], Library::C, "syslog"),
    Hook::new(Subject::Syslog, SYSLOG_PROGRAMS[1], Library::C, "__syslog_chk"),
];

// === impl Hook ===

impl Hook {
    const fn new(subject: Subject, program: &'static str, library: Library, function: &'static str) -> Self {
        Self { subject, program, instead: None, library, function }
    }

    /// A program on the function of libpam's that has its name.
    const fn pam(number: usize) -> Self {
        Self::new(Subject::Pam, PAM_PROGRAMS[number], Library::Pam, PAM_PROGRAMS[number])
    }
}

// === impl Subject ===

impl Subject {
    pub(super) const ALL: [Self; 4] = [Self::Audit, Self::Pam, Self::Peers, Self::Syslog];

    /// The program as it is shown.
    pub(super) const fn shown(self) -> &'static str {
        match self {
            Self::Audit => "logins: audit",
            Self::Pam => "logins: pam",
            Self::Peers => "logins: peers",
            Self::Syslog => "logins: syslog",
        }
    }

    /// The function of the program that is shown for it.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Audit => AUDIT_PROGRAM,
            Self::Pam => PAM_PROGRAMS[2],
            Self::Peers => PEERS_PROGRAM,
            Self::Syslog => SYSLOG_PROGRAMS[1],
        }
    }

    /// Whether it is to be learned in a root: `reports` says whether PAM there reports to libaudit. Never both
    /// of audit and PAM, so that one attempt is not two.
    pub(super) fn wanted(self, wanted: WantedLogins, host: bool, reports: bool) -> bool {
        match self {
            Self::Audit => match wanted.verdicts {
                None | Some(Verdicts::Pam) => false,
                // sshd may report to it where PAM does not.
                Some(Verdicts::Auto | Verdicts::Audit) => true,
            },
            Self::Pam => match wanted.verdicts {
                None | Some(Verdicts::Audit) => false,
                Some(Verdicts::Pam) => true,
                Some(Verdicts::Auto) => !reports,
            },
            Self::Peers => wanted.peers,
            // What a container says to syslog is its own text, which no connection can vouch for.
            Self::Syslog => wanted.syslog && host,
        }
    }

    /// Why it is off, where nothing asks for it.
    pub(super) fn why_off(self, wanted: WantedLogins) -> &'static str {
        match self {
            Self::Audit | Self::Pam if wanted.verdicts.is_none() => "no jail has the source `logins`",
            Self::Audit => "`verdicts = \"pam\"` is set",
            Self::Pam if wanted.verdicts == Some(Verdicts::Audit) => "`verdicts = \"audit\"` is set",
            Self::Pam => "PAM reports to libaudit, which is probed instead",
            Self::Peers => "`peers` in `[logins]` is not set",
            Self::Syslog => "no jail has the source `syslog-calls`",
        }
    }
}

// === impl Library ===

impl Library {
    pub(super) const ALL: [Self; 3] = [Self::Audit, Self::Pam, Self::C];

    /// Its file's names below a folder of libraries.
    pub(super) const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Audit => &["libaudit.so.1"],
            Self::Pam => &["libpam.so.0"],
            // Alpine's libc has its processor in the name.
            Self::C => &["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1"],
        }
    }

    /// How the names of the files begin that these names lead to, below a folder of libraries: `libaudit.so.1.0.0`.
    const fn beginnings(self) -> &'static [&'static str] {
        match self {
            Self::Audit | Self::Pam => self.names(),
            // libc had its release in the name before 2.34; musl's is its loader too.
            Self::C => &["libc.so.6", "libc-2.", "libc.musl-", "ld-musl-"],
        }
    }

    /// The library that a file is by its path below a folder of libraries, whatever its release.
    pub(super) fn of(path: &str) -> Option<Self> {
        let is = |library: &Self| library.beginnings().iter().any(|beginning| path.starts_with(beginning));
        Self::ALL.into_iter().find(is)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Verdicts::Auto, true, true, false)]
    #[case(Verdicts::Auto, false, true, true)]
    #[case(Verdicts::Audit, false, true, false)]
    #[case(Verdicts::Pam, true, false, true)]
    fn verdicts_of_pam_come_from_one_place(
        #[case] verdicts: Verdicts,
        #[case] reports: bool,
        #[case] audit: bool,
        #[case] pam: bool,
    ) {
        let wanted = WantedLogins { verdicts: Some(verdicts), ..WantedLogins::default() };
        assert_eq!(Subject::Audit.wanted(wanted, true, reports), audit);
        assert_eq!(Subject::Pam.wanted(wanted, true, reports), pam);
        assert!(Subject::ALL.iter().all(|subject| !subject.wanted(WantedLogins::default(), true, reports)));
    }
}
