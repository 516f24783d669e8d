//! The object `logins`: verdicts on logins, as libraries of the host's programs are called with them.

use core::mem::{offset_of, size_of};

/// The program on `libaudit.so.1:audit_log_acct_message`.
pub const AUDIT_PROGRAM: &str = "audit_log_acct_message";
/// The ring of [`LoginRecord`]s; its own, so that no other traffic can starve authentication.
pub const LOGINS_MAP: &str = "LOGINS";
/// The size of that ring in bytes: room for about 1700 records.
pub const LOGINS_BYTES: u32 = 512 * 1024;

/// `AUDIT_USER_AUTH` of linux/audit.h: PAM's verdict on a password.
pub const USER_AUTH: u32 = 1100;
/// `AUDIT_USER_ACCT`: the account may or may not log in.
pub const USER_ACCT: u32 = 1101;
/// `AUDIT_USER_ERR`: a PAM session that ended before any verdict.
pub const USER_ERR: u32 = 1109;
/// `AUDIT_USER_LOGIN`: the login program's own verdict.
pub const USER_LOGIN: u32 = 1112;

/// The longest address, host, account and so on that a record holds, in bytes, with the final NUL.
pub const TEXT_LONG: usize = 64;
/// As [`TEXT_LONG`], for an operation or a terminal.
pub const TEXT_SHORT: usize = 32;
/// `TASK_COMM_LEN` of linux/sched.h.
pub const TEXT_PROGRAM: usize = 16;

/// One call of `audit_log_acct_message`, as the kernel saw it. Texts end with a NUL or are cut at
/// their field's size less one; what follows the NUL is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LoginRecord {
    /// When, in nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// The audit message type: [`USER_AUTH`], [`USER_ACCT`], [`USER_ERR`] or [`USER_LOGIN`].
    pub kind: u32,
    /// 1 for success, 0 for failure, as the caller gave it.
    pub result: i32,
    /// The calling thread.
    pub pid: u32,
    /// The calling process.
    pub tgid: u32,
    /// The caller's real user id, in the initial user namespace.
    pub uid: u32,
    /// Two bits a text, in the order of [`Text`]: [`PRESENT`] and [`UNREADABLE`]. Neither: NULL.
    pub texts: u32,
    /// The remote host as the program knows it: a name or an address.
    pub host: [u8; TEXT_LONG],
    /// The remote address.
    pub addr: [u8; TEXT_LONG],
    /// The account's name.
    pub account: [u8; TEXT_LONG],
    /// The operation, such as `PAM:authentication` or `login`.
    pub op: [u8; TEXT_SHORT],
    /// The terminal.
    pub tty: [u8; TEXT_SHORT],
    /// The calling thread's name (`comm`).
    pub program: [u8; TEXT_PROGRAM],
}

/// The texts of a [`LoginRecord`] that may be NULL, for [`LoginRecord::texts`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// [`LoginRecord::host`].
    Host = 0,
    /// [`LoginRecord::addr`].
    Addr = 1,
    /// [`LoginRecord::account`].
    Account = 2,
    /// [`LoginRecord::op`].
    Op = 3,
    /// [`LoginRecord::tty`].
    Tty = 4,
}

/// The text was there and was copied.
pub const PRESENT: u32 = 1;
/// The text's pointer was not NULL, and could not be read.
pub const UNREADABLE: u32 = 2;

// === impl Text ===

impl Text {
    /// The bits of this text in [`LoginRecord::texts`].
    pub const fn shift(self, bits: u32) -> u32 {
        bits << (self as u32 * 2)
    }
}

/// Compiled on both sides: for the BPF target and for the host.
const _: () = {
    assert!(size_of::<LoginRecord>() == 304);
    assert!(align_of::<LoginRecord>() == 8);
    assert!(offset_of!(LoginRecord, time_ns) == 0);
    assert!(offset_of!(LoginRecord, kind) == 8);
    assert!(offset_of!(LoginRecord, result) == 12);
    assert!(offset_of!(LoginRecord, pid) == 16);
    assert!(offset_of!(LoginRecord, tgid) == 20);
    assert!(offset_of!(LoginRecord, uid) == 24);
    assert!(offset_of!(LoginRecord, texts) == 28);
    assert!(offset_of!(LoginRecord, host) == 32);
    assert!(offset_of!(LoginRecord, addr) == 96);
    assert!(offset_of!(LoginRecord, account) == 160);
    assert!(offset_of!(LoginRecord, op) == 224);
    assert!(offset_of!(LoginRecord, tty) == 256);
    assert!(offset_of!(LoginRecord, program) == 288);
};
