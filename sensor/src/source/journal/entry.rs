//! An entry of the journal, as a log line would have it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::WantedJournal;
use super::place::JournalPlace;

/// An entry, as a log line would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was logged.
    pub time: Timestamp,
    /// Host, program and message, as syslog writes them: `host sshd[123]: message`.
    pub text: Vec<u8>,
    /// Whether journald of this host wrote it, or one whose word is taken like this host's.
    pub is_local: bool,
    /// The journals that it is in, of those that are read.
    pub places: Arc<[JournalPlace]>,
    /// Where in the text the message begins.
    message: usize,
    /// `NAME=value` each; one that is set twice is there twice.
    fields: Vec<Arc<[u8]>>,
}

/// What a program in a container wrote, in an entry of its engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedEntry<'a> {
    /// The container's name; its id where the engine tells no name.
    pub container: &'a str,
    /// The program's line, without what syslog would have put before it.
    pub text: &'a [u8],
}

/// A piece of a line that a program in a container wrote, or a whole one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPiece<'a> {
    /// What the pieces of one line have in common: whose engine, which container, which of its two outputs.
    pub stream: String,
    /// Whether root's engine wrote it.
    pub is_roots: bool,
    /// What the program wrote.
    pub text: &'a [u8],
    /// Whether the program's line ends with it.
    pub ends: bool,
}

// === impl Entry ===

impl Entry {
    /// Makes one of its fields; `written` is when journald wrote it. `None` where it has no message.
    pub fn new(written: Timestamp, fields: Vec<Arc<[u8]>>) -> Option<Self> {
        let values = |name: &'static str| {
            fields.iter().filter_map(move |field| field.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        };
        let text = |name| values(name).next().map(String::from_utf8_lossy);
        let messages: Vec<&[u8]> = values("MESSAGE").collect();
        if messages.is_empty() {
            return None;
        }
        let message = messages.join(&b' ');
        let source = text("_SOURCE_REALTIME_TIMESTAMP").and_then(|micros| micros.parse().ok());
        let source = source.and_then(|micros| Timestamp::from_microsecond(micros).ok());
        let mut line = String::new();
        if let Some(host) = text("_HOSTNAME") {
            line.push_str(&host);
            line.push(' ');
        }
        if let Some(program) = text("SYSLOG_IDENTIFIER").or_else(|| text("_COMM")) {
            line.push_str(&program);
            if let Some(pid) = text("SYSLOG_PID").or_else(|| text("_PID")) {
                line.push_str(&format!("[{pid}]"));
            }
            line.push_str(": ");
        }
        let mut entry = Self {
            time: source.unwrap_or(written),
            message: line.len(),
            text: line.into_bytes(),
            is_local: false,
            places: [].into(),
            fields,
        };
        entry.set_message(&message);
        // A line of a log has no line ends in it, wherever they came from.
        blank_line_ends(&mut entry.text);
        Some(entry)
    }

    /// The same entry with another message.
    pub fn set_message(&mut self, message: &[u8]) {
        // What is written to a container's output keeps its line end, where syslog's messages have none.
        let ended =
            message.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
        self.text.truncate(self.message);
        self.text.extend_from_slice(&message[..ended]);
        blank_line_ends(&mut self.text[self.message..]);
    }

    /// What a program in a container wrote, where a container engine put it into the journal. Who did is what journald
    /// found, and root's.
    pub fn carried(&self) -> Option<CarriedEntry<'_>> {
        let engine = self.field("_COMM")?;
        if self.field("_UID")? != "0" || !matches!(engine, "conmon" | "dockerd") {
            return None;
        }
        let container = self.field("CONTAINER_NAME").or_else(|| self.field("CONTAINER_ID_FULL"))?;
        Some(CarriedEntry { container, text: self.text.get(self.message..)? })
    }

    /// What of a program's line a container engine put into this entry: engines part a long line. Any user's engine,
    /// for nobody's piece may pass for a line.
    pub fn piece(&self) -> Option<ContainerPiece<'_>> {
        let engine = self.field("_COMM").filter(|engine| matches!(*engine, "conmon" | "dockerd"))?;
        let container = self.field("CONTAINER_ID_FULL")?;
        let user = self.field("_UID")?;
        // Each output has a priority of its own; the machine, for journals of several hosts.
        let [priority, machine] =
            ["PRIORITY", "_MACHINE_ID"].map(|name| self.field(name).unwrap_or_default());
        Some(ContainerPiece {
            stream: format!("{machine} {user} {engine} {container} {priority}"),
            is_roots: user == "0",
            text: self.text.get(self.message..)?,
            ends: self.field("CONTAINER_PARTIAL_MESSAGE") != Some("true"),
        })
    }

    /// From where sshd let which account in, where this entry says so. Only root's sshd on this host is believed:
    /// user and program are what journald found, and no message of sshd's begins with a stranger's text.
    pub fn good_login(&self) -> Option<(IpAddr, &str)> {
        let program = Path::new(self.field("_EXE")?).file_name()?;
        if !self.is_local || self.field("_UID")? != "0" || program != "sshd" && program != "sshd-session" {
            return None;
        }
        let (_method, rest) = self.field("MESSAGE")?.strip_prefix("Accepted ")?.split_once(" for ")?;
        let (account, rest) = rest.split_once(" from ")?;
        let (address, _port) = rest.split_once(" port ")?;
        Some((address.parse().ok()?, account))
    }

    /// Whether a jail wants it that reads this.
    pub fn is_wanted(&self, wanted: &WantedJournal) -> bool {
        self.places.contains(&wanted.place) && wanted.entries.wants(&self.fields)
    }

    /// The value of a field that is set once.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let value =
            |field: &'_ Arc<[u8]>| field.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::len);
        let mut set = self.fields.iter().filter(|field| value(field).is_some());
        let (one, None) = (set.next()?, set.next()) else { return None };
        std::str::from_utf8(&one[name.len() + 1..]).ok()
    }
}

fn blank_line_ends(text: &mut [u8]) {
    text.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &str = "_HOSTNAME=web|SYSLOG_IDENTIFIER=sshd|_PID=77|_COMM=sshd|_SYSTEMD_UNIT=ssh.service";
    const FAILED: &[u8] = b"Failed password for root from 192.0.2.1 port 2 ssh2";

    fn entry(fields: &str, messages: &[&[u8]]) -> Option<Entry> {
        let fields = fields.split('|').map(|field| field.as_bytes().into());
        let messages = messages.iter().map(|message| [b"MESSAGE=", *message].concat().into());
        Entry::new(
            Timestamp::from_microsecond(1_757_081_852_500_000).unwrap(),
            fields.chain(messages).collect(),
        )
    }

    #[test]
    fn an_entry_reads_like_a_line_of_syslog() {
        let one = entry(FIELDS, &[FAILED]).unwrap();
        assert_eq!(one.text, b"web sshd[77]: Failed password for root from 192.0.2.1 port 2 ssh2");
        assert_eq!(one.time.to_string(), "2025-09-05T14:17:32.5Z");
        for (messages, text) in [
            (&[&b"A\n\xff"[..]][..], &b"A \xff"[..]),
            (&[b"ends twice\n\r\n"], b"ends twice"),
            (&[b"two\nlines\n"], b"two lines"),
            (&[b"set", b"twice"], b"set twice"),
            (&[b"set", b"t\n\xff", b"thrice\n"], b"set t \xff thrice"),
            (&[b"\n"], b""),
        ] {
            assert_eq!(entry(FIELDS, messages).unwrap().text, [b"web sshd[77]: ", text].concat());
        }
        assert_eq!(entry(FIELDS, &[]), None);
        let forged = entry("SYSLOG_IDENTIFIER=a\nb", &[FAILED]).unwrap();
        assert!(forged.text.starts_with(b"a b: Failed"), "{forged:?}");
    }

    #[test]
    fn a_good_login_is_told_by_roots_sshd_alone() {
        let entry = |exe: &str, uid: &str, message: &str| {
            let one = entry(&format!("_EXE={exe}|_UID={uid}"), &[message.as_bytes()]).unwrap();
            Entry { is_local: true, ..one }
        };
        let let_in = "Accepted publickey for anna from 2001:db8::1 port 2 ssh2: ED25519-CERT ID x from 192.0.2.9 port 1 (serial 0)";
        for exe in ["/usr/sbin/sshd", "/usr/lib/openssh/sshd-session"] {
            let good = entry(exe, "0", let_in);
            assert_eq!(good.good_login(), Some(("2001:db8::1".parse().unwrap(), "anna")), "{exe}");
            assert_eq!(Entry { is_local: false, ..good }.good_login(), None, "another host's {exe}");
        }
        for (exe, uid, message) in [
            ("/usr/sbin/sshd", "1000", let_in),
            ("/usr/sbin/sshd", "0|_UID=0", let_in),
            ("/usr/bin/sudo", "0", let_in),
            ("/usr/sbin/sshd", "0", "Failed password for Accepted x for y from 192.0.2.1 port 2 ssh2"),
            ("/usr/sbin/sshd", "0", "Accepted password for anna from host.example port 2 ssh2"),
            ("/usr/sbin/sshd", "0", "Accepted password for anna"),
        ] {
            assert_eq!(entry(exe, uid, message).good_login(), None, "{exe} {uid} {message}");
        }
    }
}
