//! Faults that a test asks for: what goes wrong, and at which command.

/// What goes wrong at a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The session neither reads nor answers from here on, this command included, until
    /// [`resume`](crate::Router::resume), a reboot, or the end of the router.
    Stall,
    /// The command is carried out; half of the reply's bytes are sent, then the connection closes.
    CloseMidReply,
    /// The command is carried out; its reply is lost and the connection closes.
    DropReply,
    /// The command gets no answer, while the session lives and answers all others.
    Swallow {
        /// Whether it is carried out all the same.
        applied: bool,
    },
    /// The command, a print, is answered with rows that never end.
    EndlessRows,
    /// The command is not carried out and answered with this trap.
    Trap {
        /// The text, such as `failure: out of memory`.
        message: String,
        /// The category, 0 to 7, where the router says one.
        category: Option<u8>,
    },
    /// The router reboots instead: every session and every dynamic entry is gone.
    Reboot,
}

/// The faults still to come.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    planned: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    fault: Fault,
    /// The beginning of the path of the commands that count.
    path: String,
    /// How many such commands pass first.
    after: usize,
}

impl Faults {
    pub(crate) fn plan(&mut self, fault: Fault, path: &str, after: usize) {
        self.planned.push(Planned { fault, path: path.to_owned(), after });
    }

    /// How many are still to come.
    pub(crate) fn to_come(&self) -> usize {
        self.planned.len()
    }

    /// Forgets those that are still to come.
    pub(crate) fn forget(&mut self) {
        self.planned.clear();
    }

    /// The fault that strikes at this command, if one does: one a command, the first planned first.
    pub(crate) fn strike(&mut self, path: &[u8]) -> Option<Fault> {
        let mut struck = None;
        self.planned.retain_mut(|planned| {
            if !path.starts_with(planned.path.as_bytes()) {
                return true;
            }
            if planned.after > 0 {
                planned.after -= 1;
            } else if struck.is_none() {
                struck = Some(planned.fault.clone());
                return false;
            }
            true
        });
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_once_at_the_command_it_waits_for() {
        let mut faults = Faults::default();
        faults.plan(Fault::Stall, "/ip/firewall", 1);
        faults.plan(Fault::DropReply, "/ip/firewall", 1);
        let struck = ["/ip/firewall/a", "/ipv6/b", "/ip/firewall/c", "/ip/firewall/d", "/ip/firewall/e"]
            .map(|path| faults.strike(path.as_bytes()));
        assert_eq!(struck, [None, None, Some(Fault::Stall), Some(Fault::DropReply), None]);
    }
}
