//! One verdict as the kernel saw it, read from the ring's bytes without trust: whoever calls the
//! probed function chose the texts.

use std::borrow::Cow;
use std::mem::{offset_of, size_of};

use atalaya_sensor_ebpf::{
    LoginRecord, PRESENT, TEXT_LONG, TEXT_PROGRAM, TEXT_SHORT, Text, USER_ACCT, USER_AUTH, USER_ERR,
    USER_LOGIN,
};
use jiff::Timestamp;

/// A call of `audit_log_acct_message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, by the wall clock.
    pub time: Timestamp,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// What the verdict is about.
    pub kind: Kind,
    /// Whether it is a success.
    pub success: bool,
    /// The calling thread.
    pub pid: u32,
    /// The calling process.
    pub tgid: u32,
    /// The caller's real user id.
    pub uid: u32,
    /// The caller's effective user id and parent process, from `/proc`; `None` where it was gone.
    pub caller: Option<Caller>,
    /// The remote host, a name or an address; `None` where the caller gave NULL.
    pub host: Option<String>,
    /// The remote address.
    pub addr: Option<String>,
    /// The account's name, at most 63 bytes.
    pub account: Option<String>,
    /// The operation.
    pub op: Option<String>,
    /// The terminal.
    pub tty: Option<String>,
    /// The program's name (`comm`), at most 15 bytes.
    pub program: String,
}

/// The audit message types that matter here (linux/audit.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 1100: PAM's verdict on a password.
    Auth,
    /// 1101: whether the account may log in.
    Account,
    /// 1109: a PAM session that ended before any verdict.
    Error,
    /// 1112: the login program's own verdict.
    Login,
}

/// What `/proc` says about a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its effective user id.
    pub euid: u32,
    /// Its parent process.
    pub parent: u32,
}

/// Why the bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A wrong size.
    #[error("a login record has {0} bytes where {size} are expected", size = size_of::<LoginRecord>())]
    Size(usize),
    /// A type that the kernel program does not send.
    #[error("a login record has the unknown type {0}")]
    Kind(u32),
}

// === impl Record ===

impl Record {
    /// Reads a record; `wall` turns its monotonic nanoseconds into the wall clock's time.
    pub fn decode(bytes: &[u8], wall: impl FnOnce(u64) -> Timestamp) -> Result<Self, RecordError> {
        let bytes: &[u8; size_of::<LoginRecord>()] =
            bytes.try_into().map_err(|_| RecordError::Size(bytes.len()))?;
        let kind = match u32::from_ne_bytes(field(bytes, offset_of!(LoginRecord, kind))) {
            USER_AUTH => Kind::Auth,
            USER_ACCT => Kind::Account,
            USER_ERR => Kind::Error,
            USER_LOGIN => Kind::Login,
            kind => return Err(RecordError::Kind(kind)),
        };
        let time_ns = u64::from_ne_bytes(field(bytes, offset_of!(LoginRecord, time_ns)));
        let texts = u32::from_ne_bytes(field(bytes, offset_of!(LoginRecord, texts)));
        let text = |which: Text, bytes: &[u8]| (texts & which.shift(PRESENT) != 0).then(|| until_nul(bytes));
        let long = |offset| field::<TEXT_LONG>(bytes, offset);
        let short = |offset| field::<TEXT_SHORT>(bytes, offset);
        Ok(Self {
            time: wall(time_ns),
            time_ns,
            kind,
            success: i32::from_ne_bytes(field(bytes, offset_of!(LoginRecord, result))) == 1,
            pid: u32::from_ne_bytes(field(bytes, offset_of!(LoginRecord, pid))),
            tgid: u32::from_ne_bytes(field(bytes, offset_of!(LoginRecord, tgid))),
            uid: u32::from_ne_bytes(field(bytes, offset_of!(LoginRecord, uid))),
            caller: None,
            host: text(Text::Host, &long(offset_of!(LoginRecord, host))),
            addr: text(Text::Addr, &long(offset_of!(LoginRecord, addr))),
            account: text(Text::Account, &long(offset_of!(LoginRecord, account))),
            op: text(Text::Op, &short(offset_of!(LoginRecord, op))),
            tty: text(Text::Tty, &short(offset_of!(LoginRecord, tty))),
            program: until_nul(&field::<TEXT_PROGRAM>(bytes, offset_of!(LoginRecord, program))),
        })
    }

    /// The service as jails name it: the processes of one daemon go by the daemon's name
    /// (`sshd-session` since OpenSSH 9.8, `sshd-auth` since 10.0).
    pub fn service(&self) -> &str {
        match self.program.as_str() {
            "sshd-session" | "sshd-auth" => "sshd",
            program => program,
        }
    }
}

/// `N` bytes at an offset inside the record; the ABI's assertions hold the offsets.
fn field<const N: usize>(bytes: &[u8; size_of::<LoginRecord>()], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(bytes) = bytes.get(offset..offset + N) {
        field.copy_from_slice(bytes);
    }
    field
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    match String::from_utf8_lossy(&bytes[..end]) {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(text) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> [u8; size_of::<LoginRecord>()] {
        let mut bytes = [0; size_of::<LoginRecord>()];
        let mut put =
            |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(offset_of!(LoginRecord, time_ns), &5_u64.to_ne_bytes());
        put(offset_of!(LoginRecord, kind), &1100_u32.to_ne_bytes());
        put(offset_of!(LoginRecord, tgid), &77_u32.to_ne_bytes());
        put(
            offset_of!(LoginRecord, texts),
            &(Text::Host.shift(PRESENT) | Text::Tty.shift(PRESENT)).to_ne_bytes(),
        );
        put(offset_of!(LoginRecord, host), b"192.0.2.1\0rest");
        put(offset_of!(LoginRecord, addr), b"not present");
        put(offset_of!(LoginRecord, program), b"sshd-session\0");
        bytes
    }

    #[test]
    fn a_null_text_differs_from_an_empty_one() {
        let record = Record::decode(&bytes(), |_| Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(record.host.as_deref(), Some("192.0.2.1"));
        assert_eq!(record.addr, None);
        assert_eq!(record.tty.as_deref(), Some(""));
        assert_eq!((record.kind, record.success, record.tgid, record.time_ns), (Kind::Auth, false, 77, 5));
        assert_eq!(record.service(), "sshd");
    }

    #[test]
    fn bytes_of_another_size_or_type_are_refused() {
        let good = bytes();
        assert_eq!(Record::decode(&good[1..], |_| Timestamp::UNIX_EPOCH), Err(RecordError::Size(303)));
        let mut bad = good;
        bad[offset_of!(LoginRecord, kind)] = 0;
        assert!(matches!(Record::decode(&bad, |_| Timestamp::UNIX_EPOCH), Err(RecordError::Kind(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 304)) {
            let mut bytes = bytes;
            bytes[8..12].copy_from_slice(&1112_u32.to_ne_bytes());
            let record = Record::decode(&bytes, |_| Timestamp::UNIX_EPOCH).unwrap();
            proptest::prop_assert!(record.program.chars().count() <= 16);
        }
    }
}
