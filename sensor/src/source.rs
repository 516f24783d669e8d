//! Where failures are noticed: the kernel ([`logins`], [`connections`]), log files ([`files`]), systemd's journal
//! ([`journal`]), what programs say to libc's syslog (`syslog_calls`) and syslog messages ([`syslog`]). Each source
//! runs on its own; one that cannot run says why, and the others go on.

pub mod connections;
pub mod files;
pub mod journal;
pub mod logins;
pub mod syslog;
pub mod syslog_calls;
