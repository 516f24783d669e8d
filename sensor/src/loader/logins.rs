//! The object `logins` in the loader: uprobes in the libraries that logins pass through, those of this host and
//! those of each container.
//!
//! # Who is believed
//! Any process can call a library's function with any text. The kernel says who did:
//! - **A user** (real user id not 0, in the initial user namespace): never believed but for a local failure of
//!   a set-user-id program (`su`), which is shown and bans nobody. Root of a container with user ids of its own is
//!   such a user too.
//! - **Root of this host** (in the host's mount namespace): believed. It can do worse than lie.
//! - **Root elsewhere**, in a container or a service with a mount namespace of its own: its word on an address
//!   counts only while that address has a TCP connection that [`vouch`] finds. It can still blame whoever talks to it
//!   just then, can lie about account and service, can keep silent, and can fill the ring of the doubted, whose
//!   losses are counted; that ring is not the host's. It cannot accuse an address that is not connected to it.
//!
//! A container's library files are its own to forge. The privileged loader looks at nothing but regular files of
//! bounded size on local file systems, within the container's root ([`roots`]), reads no more of them than
//! tables of bounded size ([`elf`](super::elf)), and lets go of them when the container's last process ends.
//!
//! # Libraries that are replaced
//! The kernel probes an inode, and a library that is upgraded is a new one. Its folders are watched ([`folders`]), so
//! that the new file is probed at once; processes that run on with the old one are found in /proc ([`survey`]), and
//! that stays probed until none is left ([`files`]).

mod files;
mod folders;
mod holder;
mod hook;
mod library;
mod mounts;
mod probe;
mod roots;
mod shown;
mod survey;
pub mod vouch;

pub use probe::LoginsPart;

use crate::channel::logins::{Verdicts, WantedLogins};
