//! What the loader is asked of the object `logins`.

use serde::{Deserialize, Serialize};

/// What of it is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedLogins {
    /// Verdicts on logins, and whose.
    pub verdicts: Option<Verdicts>,
    /// Whom root's programs talk to.
    pub peers: bool,
    /// What root's programs say to syslog.
    pub syslog: bool,
}

/// Whose verdicts on logins are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdicts {
    /// Audit's where PAM reports to libaudit, else PAM's own; for each container by itself.
    #[default]
    Auto,
    /// What PAM and sshd report to libaudit.
    Audit,
    /// What PAM itself returns to the program that asks it, also of programs without support for libaudit.
    Pam,
}
