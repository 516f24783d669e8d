//! What can go wrong on demand.

/// A fault, for one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The command and all later ones of its session get no answer, and the connection stays open.
    Stall,
    /// The command is carried out, and the connection closes in the middle of the answer.
    CloseMidReply,
    /// The command is carried out, and the connection closes before the answer.
    DropReply,
    /// The command is refused.
    Trap {
        /// The message.
        message: String,
        /// The category, where the router says one.
        category: Option<u8>,
    },
    /// The router reboots before the command.
    Reboot,
}

/// A fault that waits for its command.
#[derive(Clone, Debug)]
pub(crate) struct Armed {
    pub(crate) fault: Fault,
    /// The beginning of the command's path.
    pub(crate) path: String,
    /// How many such commands pass first.
    pub(crate) after: usize,
}
