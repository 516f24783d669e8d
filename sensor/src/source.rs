//! Where failures are noticed: the kernel ([`logins`]), log files ([`files`]), systemd's journal ([`journal`])
//! and syslog messages ([`syslog`]). Each source runs on its own; one that cannot run says why, and the others go on.

pub mod files;
pub mod journal;
#[cfg(feature = "kernel")]
pub mod logins;
pub mod syslog;
#[cfg(feature = "kernel")]
pub mod syslog_calls;
