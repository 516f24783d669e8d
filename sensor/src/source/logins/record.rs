//! One record of the ring, read safely: the bytes are the kernel program's, the texts in them anyone's.

use std::net::{IpAddr, Ipv6Addr};

use atalaya_sensor_ebpf::logins::{LoginRecord, PRESENT, SOURCE_PAM, Text};

/// A record with its texts taken out. `None` stands for a NULL pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The audit message type.
    pub kind: u32,
    /// Whether the verdict was a success.
    pub success: bool,
    /// The calling process, as this host numbers it (the kernel's `tgid`).
    pub tgid: u32,
    /// The process that the calling one is a child of; 0 where that is not known.
    pub parent: u32,
    /// The caller's real user id.
    pub uid: u32,
    /// Whether a user runs the caller as root, as `su` and `sudo` are run (set-user-id).
    pub set_user_id: bool,
    /// The remote host as the program knows it.
    pub host: Option<String>,
    /// The remote address as the program wrote it; a literal or not.
    pub addr: Option<String>,
    /// The account as it was typed: an attacker's text.
    pub account: Option<String>,
    /// PAM's name of the service, where the verdict is PAM's own.
    pub service: Option<String>,
    /// The one remote peer that the process, or its parent, asked the kernel for.
    pub asked: Option<IpAddr>,
    /// The program's name (`comm`).
    pub program: String,
}

// === impl Record ===

impl Record {
    /// Reads a record; `None` where the bytes are not exactly one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<LoginRecord>() {
            return None;
        }
        #[expect(unsafe_code, reason = "the record is the ABI of sensor-ebpf, shared with the kernel")]
        // SAFETY: there are as many bytes as the record has, any bytes are a valid record (integers and
        // arrays of bytes without padding), and reading unaligned asks nothing of their address.
        let raw = unsafe { bytes.as_ptr().cast::<LoginRecord>().read_unaligned() };
        let text = |text: Text, field: &[u8]| {
            let bits = (raw.texts >> text.shift_bits()) & 3;
            (bits & PRESENT != 0).then(|| until_nul(field))
        };
        Some(Self {
            time_ns: raw.time_ns,
            kind: raw.kind,
            success: raw.result == 1,
            tgid: raw.tgid,
            parent: raw.parent,
            uid: raw.uid,
            set_user_id: false,
            host: text(Text::Host, &raw.host),
            addr: text(Text::Addr, &raw.addr),
            account: text(Text::Account, &raw.account),
            service: text(Text::Op, &raw.op).filter(|_| raw.source == SOURCE_PAM),
            asked: Some(atalaya_wire::canonical(Ipv6Addr::from(raw.peer).into()))
                .filter(|address| !address.is_unspecified()),
            program: until_nul(&raw.program),
        })
    }

    /// Looks up what the kernel program cannot tell: whether a user's process runs as root. Only a
    /// local login needs it, and is only shown, so that a process that is gone by now harms nothing.
    pub fn look_up_owner(&mut self) {
        if self.uid != 0 && self.peer().is_none() {
            self.set_user_id = effective_uid(self.tgid) == Some(0);
        }
    }

    /// The peer: a literal address in `addr`, else one in `host`; where only a name is said, the one that the
    /// process asked the kernel for.
    pub fn peer(&self) -> Option<IpAddr> {
        let literal = [&self.addr, &self.host].into_iter().flatten().find_map(|text| literal(text));
        literal.or_else(|| self.asked.filter(|_| self.names_remote())).map(atalaya_wire::canonical)
    }

    /// Whether the record says anything of a remote host.
    pub fn names_remote(&self) -> bool {
        [&self.addr, &self.host].into_iter().flatten().any(|text| !text.is_empty() && text != "?")
    }

    /// The service: PAM's name of it, else the program's.
    pub fn service(&self) -> &str {
        match self.program.as_str() {
            // Its privileged process is `sshd`, and since 9.8 `sshd-session`.
            sshd if sshd.starts_with("sshd") => "sshd",
            // The process of dovecot's that asks PAM, for IMAP, POP3 and whoever else asks dovecot.
            "auth" => "dovecot",
            program => self.service.as_deref().filter(|service| !service.is_empty()).unwrap_or(program),
        }
    }
}

/// The address that a text is: also `[v1.2001:db8::7]`, as CUPS writes IPv6 (RFC 3986's `IPvFuture`), with `+eth0` after
/// an address of one link.
fn literal(text: &str) -> Option<IpAddr> {
    if let Some(inside) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let inside = inside.strip_prefix("v1.").unwrap_or(inside);
        let address = inside.split(['+', '%']).next()?;
        return address.parse().ok().map(IpAddr::V6);
    }
    text.parse().ok()
}

/// The effective user id of a process, where it still runs.
fn effective_uid(process: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// Where a text's bits are in `LoginRecord::texts`.
trait ShiftBits {
    fn shift_bits(self) -> u32;
}

impl ShiftBits for Text {
    fn shift_bits(self) -> u32 {
        self as u32 * 2
    }
}

fn until_nul(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("192.0.2.7", Some("192.0.2.7"))]
    #[case("::ffff:192.0.2.7", Some("::ffff:192.0.2.7"))]
    #[case::cups("[v1.2001:db8::7]", Some("2001:db8::7"))]
    #[case::cups_on_a_link("[v1.fe80::1+eth0]", Some("fe80::1"))]
    #[case("[2001:db8::7]", Some("2001:db8::7"))]
    #[case("[v1.192.0.2.7]", None)]
    #[case("[v2.2001:db8::7]", None)]
    #[case("[v1.2001:db8::7", None)]
    #[case("evil.example", None)]
    #[case("[", None)]
    fn an_address_is_read_in_the_forms_that_daemons_give_it(
        #[case] text: &str,
        #[case] address: Option<&str>,
    ) {
        assert_eq!(literal(text), address.map(|address| address.parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), size_of::<LoginRecord>())) {
            prop_assert!(Record::read(&bytes).is_some());
            prop_assert!(Record::read(&bytes[1..]).is_none());
        }
    }
}
