//! The object `logins`: verdicts on logins, as libraries of the host's programs are called with them, and what
//! helps to understand them: who a process talks to, and what it says to syslog.
//!
//! A library can be called by anyone with anything. So the kernel says with each record who called, and keeps
//! what root's programs of this host said apart from all else: [`LOGINS_MAP`] and [`DOUBTED_MAP`].

use core::mem::{offset_of, size_of};

/// The program on `libaudit.so.1:audit_log_acct_message`.
pub const AUDIT_PROGRAM: &str = "audit_log_acct_message";
/// The same for kernels that allow it only to a program that may sleep.
pub const AUDIT_SLEEPABLE_PROGRAM: &str = "audit_log_acct_message_sleepable";
/// The programs on libpam's functions of the same names: the first two say what a verdict is about, the others what it
/// was.
pub const PAM_PROGRAMS: [&str; 7] = [
    "pam_start",
    "pam_set_item",
    "pam_authenticate",
    "pam_set_data",
    "pam_acct_mgmt",
    "pam_setcred",
    "pam_end",
];
/// The program on libc's `getpeername`.
pub const PEERS_PROGRAM: &str = "getpeername";
/// The programs on libc's `syslog` and `__syslog_chk`.
pub const SYSLOG_PROGRAMS: [&str; 2] = ["syslog", "syslog_chk"];
/// The program on the tracepoint `sched_process_exec`.
pub const ARRIVALS_PROGRAM: &str = "sched_process_exec";

/// The ring of [`LoginRecord`]s of root's programs of this host; its own, so that nothing else can starve them.
pub const LOGINS_MAP: &str = "LOGINS";
/// The size of that ring in bytes: room for about 1500 records.
pub const LOGINS_BYTES: u32 = 512 * 1024;
/// The ring of [`LoginRecord`]s of all others: of users, and of programs that live in other mount namespaces.
pub const DOUBTED_MAP: &str = "DOUBTED";
/// The size of that ring in bytes: room for about 180 records.
pub const DOUBTED_BYTES: u32 = 64 * 1024;
/// The ring of [`SyslogCall`]s.
pub const SYSLOG_MAP: &str = "SYSLOG";
/// The size of that ring in bytes: room for about 150 calls.
pub const SYSLOG_BYTES: u32 = 512 * 1024;
/// The ring of [`Arrival`]s, for the loader alone.
pub const ARRIVALS_MAP: &str = "ARRIVALS";
/// The size of that ring in bytes.
pub const ARRIVALS_BYTES: u32 = 4096;
/// How many processes' PAM items and peers are kept; beyond, the least used go.
pub const PROCESSES: u32 = 4096;

/// Globals that the loader sets, all of them `u32`: offsets in the kernel's structures in bytes, and whether they are
/// known; and the host's mount namespace.
pub const GLOBALS: [&str; 9] = [
    "KNOWN",
    "HOST_MOUNTS",
    "TASK_NAMESPACES",
    "TASK_PARENT",
    "TASK_LEADER",
    "TASK_TGID",
    "TASK_STARTED",
    "NAMESPACES_MOUNTS",
    "MOUNTS_NUMBER",
];

/// Globals that the loader sets for [`PEERS_PROGRAM`], all of them `u32`: offsets in the kernel's structures in bytes,
/// on the way from a task and a descriptor to a socket's remote address.
pub const SOCKET_GLOBALS: [&str; 11] = [
    "TASK_FILES",
    "FILES_TABLE",
    "TABLE_FILES",
    "TABLE_SIZE",
    "FILE_INODE",
    "INODE_MODE",
    "FILE_SOCKET",
    "SOCKET_SOCK",
    "SOCK_FAMILY",
    "SOCK_REMOTE4",
    "SOCK_REMOTE6",
];

/// `AUDIT_USER_AUTH` of linux/audit.h: PAM's verdict on a password.
pub const USER_AUTH: u32 = 1100;
/// `AUDIT_USER_ACCT`: the account may or may not log in.
pub const USER_ACCT: u32 = 1101;
/// `AUDIT_USER_ERR`: a PAM session that ended before any verdict.
pub const USER_ERR: u32 = 1109;
/// `AUDIT_USER_LOGIN`: the login program's own verdict.
pub const USER_LOGIN: u32 = 1112;
/// No message of audit's: one module of PAM refused. Others may still let in; what its caller does next says so as
/// [`USER_AUTH`], some two seconds later where all refuse, or nothing does.
pub const MODULE_AUTH: u32 = 1;

/// A record of what libaudit was told.
pub const SOURCE_AUDIT: u32 = 0;
/// A record of what was called of PAM after its verdict.
pub const SOURCE_PAM: u32 = 1;

/// The longest address, host, account and so on that a record holds, in bytes, with the final NUL.
pub const TEXT_LONG: usize = 64;
/// As [`TEXT_LONG`], for an operation or a terminal.
pub const TEXT_SHORT: usize = 32;
/// The size of a thread's name with its NUL: `TASK_COMM_LEN` of linux/sched.h.
pub const TEXT_PROGRAM: usize = 16;

/// One verdict, as the kernel saw it. Texts end with a NUL or are cut at their field's size less one; what follows
/// the NUL is zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LoginRecord {
    /// When, in nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// The caller's cgroup: the inode of its folder.
    pub cgroup: u64,
    /// The audit message type: [`USER_AUTH`], [`USER_ACCT`], [`USER_ERR`] or [`USER_LOGIN`]; or [`MODULE_AUTH`].
    pub kind: u32,
    /// 1 for success, 0 for failure, as the caller gave it.
    pub result: i32,
    /// The calling thread, in the initial process namespace (user space's thread id).
    pub pid: u32,
    /// The calling process, in the initial process namespace (user space's process id).
    pub tgid: u32,
    /// The caller's real user id, in the initial user namespace.
    pub uid: u32,
    /// The number of the caller's mount namespace; 0 where the kernel's layout is not known.
    pub mounts: u32,
    /// Two bits a text, in the order of [`Text`]: [`PRESENT`] and [`UNREADABLE`]. Neither: NULL.
    pub texts: u32,
    /// Who gave the verdict: [`SOURCE_AUDIT`] or [`SOURCE_PAM`].
    pub source: u32,
    /// The one remote peer that the caller, or its parent, asked `getpeername` for: IPv6, or IPv4 mapped into it;
    /// zeroes where there was none, or more than one.
    pub peer: [u8; 16],
    /// The remote host as the program knows it: a name or an address.
    pub host: [u8; TEXT_LONG],
    /// The remote address as the program wrote it, mostly a literal one.
    pub addr: [u8; TEXT_LONG],
    /// The account as it was typed: an attacker's text.
    pub account: [u8; TEXT_LONG],
    /// The operation, such as `PAM:authentication` or `login`; of a verdict of PAM's the service, such as `sshd`.
    pub op: [u8; TEXT_SHORT],
    /// The terminal or what stands for it, such as `ssh`.
    pub tty: [u8; TEXT_SHORT],
    /// The calling thread's name (`comm`).
    pub program: [u8; TEXT_PROGRAM],
    /// The process that the calling one is a child of, numbered as it; 0 where the kernel's layout is not known.
    pub parent: u32,
    /// Always zero: a record has no padding.
    pub reserved: u32,
}

/// A program that was started in another mount namespace than the host's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The process that came, in the initial process namespace.
    pub tgid: u32,
    /// The number of its mount namespace.
    pub mounts: u32,
}

/// How many arguments of a [`SyslogCall`] are kept.
pub const ARGUMENTS: usize = 6;
/// The longest format, in bytes, with the final NUL.
pub const FORMAT: usize = 128;
/// The longest text of an argument, in bytes, with the final NUL: sshd's own limit is 500.
pub const ARGUMENT: usize = 512;

/// One call of `syslog`. What follows a text's NUL is not said.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SyslogCall {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The calling process, in the initial process namespace (user space's process id).
    pub tgid: u32,
    /// The caller's `errno`, for `%m`, is out of reach: always zero.
    pub zero: u32,
    /// The calling thread's name (`comm`).
    pub program: [u8; TEXT_PROGRAM],
    /// The arguments as they were passed.
    pub values: [u64; ARGUMENTS],
    /// How many bytes the text behind each argument has with its NUL; negative where it is no readable text.
    pub lengths: [i32; ARGUMENTS],
    /// As [`Self::lengths`], of the format.
    pub format_length: i32,
    /// Padding, so that the record has no bytes that are not set: always zero.
    pub zero_too: u32,
    /// The format, as printf(3) takes it; not more of it than there is room for.
    pub format: [u8; FORMAT],
    /// The texts behind the arguments.
    pub texts: [[u8; ARGUMENT]; ARGUMENTS],
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
    assert!(size_of::<LoginRecord>() == 344);
    assert!(align_of::<LoginRecord>() == 8);
    assert!(offset_of!(LoginRecord, time_ns) == 0);
    assert!(offset_of!(LoginRecord, cgroup) == 8);
    assert!(offset_of!(LoginRecord, kind) == 16);
    assert!(offset_of!(LoginRecord, texts) == 40);
    assert!(offset_of!(LoginRecord, peer) == 48);
    assert!(offset_of!(LoginRecord, host) == 64);
    assert!(offset_of!(LoginRecord, addr) == 128);
    assert!(offset_of!(LoginRecord, account) == 192);
    assert!(offset_of!(LoginRecord, op) == 256);
    assert!(offset_of!(LoginRecord, tty) == 288);
    assert!(offset_of!(LoginRecord, program) == 320);
    assert!(offset_of!(LoginRecord, parent) == 336);
    assert!(size_of::<Arrival>() == 8);
    assert!(size_of::<SyslogCall>() == 3312);
    assert!(offset_of!(SyslogCall, values) == 32);
    assert!(offset_of!(SyslogCall, lengths) == 80);
    assert!(offset_of!(SyslogCall, format_length) == 104);
    assert!(offset_of!(SyslogCall, format) == 112);
    assert!(offset_of!(SyslogCall, texts) == 240);
};
