//! Where failures are noticed: the kernel ([`logins`]), log files ([`files`]) and syslog messages
//! ([`syslog`]). Each source runs on its own; one that cannot run says why, and the others go on.

pub mod files;
#[cfg(feature = "kernel")]
pub mod logins;
pub mod syslog;
