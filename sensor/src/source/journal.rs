//! systemd's journal, read through `journalctl`: every entry once, in the order of its time, from the cursor where
//! reading stood. One `journalctl` reads for all jails; which of them want an entry is told here.
//!
//! What it does not do: `journalctl --follow --merge` never shows an entry that is dated before the last one shown
//! (systemd 252; a script in `findings/` shows it). Where journals of several hosts are collected, what arrives late or
//! from a clock that is behind is missed, and cannot be counted here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio_util::sync::CancellationToken;

/// The longest entry that is read, in bytes of journalctl's JSON; of a longer one the message is lost.
const LONGEST_ENTRY: u64 = 4 << 20;
/// How long to wait before journalctl is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(2);

/// The last entry that was taken, from which reading goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// journald's `__CURSOR` of it, opaque; see systemd.journal-fields(7).
    pub cursor: String,
    /// When that entry was written, for a journal that no longer has it.
    pub time: Timestamp,
}

/// What a jail wants of the journal: one of these groups, in which each field has one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalMatch {
    /// Empty where every entry is wanted.
    groups: Vec<Vec<(String, String)>>,
}

/// An entry, as a log line would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where reading goes on after it.
    pub cursor: Cursor,
    /// When it was logged.
    pub time: Timestamp,
    /// Host, program and message, as syslog writes them: `host sshd[123]: message`.
    pub text: Vec<u8>,
    /// Whether journald of this host wrote it, or one whose word is taken like this host's.
    pub is_local: bool,
    /// Where in the text the message begins.
    message: usize,
    /// A field that is set twice has several values.
    fields: HashMap<String, Vec<String>>,
}

/// What a program in a container wrote, in an entry of its engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedEntry<'a> {
    /// The container's name; its id where the engine tells no name.
    pub container: &'a str,
    /// The program's line, without what syslog would have put before it.
    pub text: &'a [u8],
}

/// Which journal to read.
#[derive(Clone, Debug, Default)]
pub struct JournalOptions {
    /// A folder of journal files; the system's journal where there is none. Of either the entries of all hosts
    /// and boots are read; logins at other hosts are believed only where the folder is named.
    pub folder: Option<PathBuf>,
}

// === impl JournalMatch ===

impl JournalMatch {
    /// Reads matches as journalctl takes them, such as `_SYSTEMD_UNIT=ssh.service + _COMM=sshd`; several
    /// texts are alternatives.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut groups = Vec::new();
        for text in texts {
            let mut group = Vec::new();
            for word in words(text)? {
                if word == "+" {
                    groups.push(std::mem::take(&mut group));
                    continue;
                }
                let (field, value) = word.split_once('=').ok_or_else(|| {
                    format!("`{word}` is no match of the journal: write FIELD=value, such as _SYSTEMD_UNIT=ssh.service")
                })?;
                let is_field = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
                if field.is_empty() || !field.chars().all(is_field) {
                    return Err(format!(
                        "`{field}` is no field of the journal: they are in capitals, such as _COMM"
                    ));
                }
                group.push((field.to_owned(), value.to_owned()));
            }
            groups.push(group);
        }
        groups.retain(|group| !group.is_empty());
        Ok(Self { groups })
    }

    /// Whether an entry is wanted.
    pub fn wants(&self, entry: &Entry) -> bool {
        let fits = |group: &Vec<(String, String)>| {
            group.iter().all(|(field, _)| {
                let mut values = group.iter().filter(|(other, _)| other == field);
                entry.fields.get(field).is_some_and(|found| values.any(|(_, value)| found.contains(value)))
            })
        };
        self.groups.is_empty() || self.groups.iter().any(fits)
    }

    /// journalctl's arguments for all that any of these want; none where one wants everything.
    fn arguments(all: &[Self]) -> Vec<String> {
        if all.iter().any(|wanted| wanted.groups.is_empty()) {
            return Vec::new();
        }
        let mut arguments: Vec<String> = Vec::new();
        for group in all.iter().flat_map(|wanted| &wanted.groups) {
            if !arguments.is_empty() {
                arguments.push("+".to_owned());
            }
            arguments.extend(group.iter().map(|(field, value)| format!("{field}={value}")));
        }
        arguments
    }
}

// === impl Entry ===

impl Entry {
    /// Reads a line of `journalctl --output=json --all`; `None` where it is no entry with a message.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).ok()?;
        let text = |name: &str| {
            let first = values(object.get(name)?).into_iter().next()?;
            Some(String::from_utf8_lossy(&first).into_owned())
        };
        let message = Some(values(object.get("MESSAGE")?)).filter(|values| !values.is_empty())?.join(&b' ');
        let moment = |name: &str| Timestamp::from_microsecond(text(name)?.parse().ok()?).ok();
        let written = moment("__REALTIME_TIMESTAMP")?;
        let time = moment("_SOURCE_REALTIME_TIMESTAMP").unwrap_or(written);
        let cursor = Cursor { cursor: text("__CURSOR")?, time: written };
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
        // What is written to a container's output keeps its line end, where syslog's messages have none.
        let ended =
            message.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
        let mut text = line.into_bytes();
        let at = text.len();
        text.extend_from_slice(&message[..ended]);
        // A line of a log has no line ends in it.
        text.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        let fields = object.iter().map(|(name, value)| {
            let texts = values(value).into_iter().filter_map(|value| String::from_utf8(value).ok());
            (name.clone(), texts.collect())
        });
        Some(Self { cursor, time, text, message: at, is_local: false, fields: fields.collect() })
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

    /// The value of a field that is set once.
    fn field(&self, name: &str) -> Option<&str> {
        match self.fields.get(name)?.as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }
}

/// The values of a field in journalctl's JSON: a text; a list of bytes, where they are no UTF-8 or hold control
/// characters; or a list of either, where the field is set more than once.
fn values(value: &serde_json::Value) -> Vec<Vec<u8>> {
    use serde_json::Value;
    let bytes = |list: &[Value]| -> Option<Vec<u8>> {
        list.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Array(list) => bytes(list),
        _ => None,
    };
    match value {
        Value::Array(list) if bytes(list).is_none() => list.iter().filter_map(one).collect(),
        value => one(value).into_iter().collect(),
    }
}

/// Reads the journal until it is stopped, and hands over the entries that any of the matches want.
/// Without a cursor it begins now. Where journalctl ends, it is started again where it stood.
pub async fn follow(
    options: JournalOptions,
    wanted: Vec<JournalMatch>,
    mut cursor: Option<Cursor>,
    mut take: impl FnMut(Entry),
    shutdown: CancellationToken,
) {
    let mut told = false;
    let mut lost_cursor = false;
    let since = Timestamp::now();
    let machine = std::fs::read_to_string("/etc/machine-id").ok();
    let is_local = |entry: &Entry| {
        options.folder.is_some()
            || machine.as_deref().is_some_and(|machine| entry.field("_MACHINE_ID") == Some(machine.trim()))
    };
    let mut take = |entry: Entry| take(Entry { is_local: is_local(&entry), ..entry });
    while !shutdown.is_cancelled() {
        let mut command = tokio::process::Command::new("journalctl");
        // Without --merge it would show this boot of this host alone, without --all no field over 4,096 bytes.
        command.args(["--follow", "--merge", "--all", "--output=json", "--no-pager", "--quiet"]);
        if let Some(folder) = &options.folder {
            command.arg("--directory").arg(folder);
        }
        match &cursor {
            Some(cursor) if !lost_cursor => {
                command.args(["--lines=all", &format!("--after-cursor={}", cursor.cursor)]);
            }
            Some(cursor) => {
                let seconds = cursor.time.as_second();
                command.args(["--lines=all", &format!("--since=@{seconds}")]);
            }
            None => {
                command.args(["--lines=all", &format!("--since=@{}", since.as_second())]);
            }
        }
        command.args(JournalMatch::arguments(&wanted));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let before = cursor.clone();
        let ended = tokio::select! {
            () = shutdown.cancelled() => return,
            ended = read(&mut command, &mut cursor, &mut take) => ended,
        };
        if cursor != before {
            told = false;
            lost_cursor = false;
        } else if cursor.is_some() && !lost_cursor {
            // The journal may have let go of that entry; its time is left.
            lost_cursor = true;
            continue;
        }
        if !told {
            tracing::warn!(
                "the journal cannot be read: {ended}; it is tried again every {} s, and the other sources go on",
                RESTART_PAUSE.as_secs()
            );
            told = true;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RESTART_PAUSE) => {}
        }
    }
}

/// Runs journalctl to its end; why it ended.
async fn read(
    command: &mut tokio::process::Command,
    cursor: &mut Option<Cursor>,
    take: &mut impl FnMut(Entry),
) -> String {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return format!("cannot start journalctl: {error}; is systemd's journal on this host?"),
    };
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return "journalctl has no output".to_owned();
    };
    let mut reader = BufReader::with_capacity(256 * 1024, stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LONGEST_ENTRY).read_until(b'\n', &mut line).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return format!("reading journalctl's output: {error}"),
        }
        // What is cut, or no entry, is passed over; the rest of a cut one is no entry either.
        if let Some(entry) = Entry::parse(&line) {
            *cursor = Some(entry.cursor.clone());
            take(entry);
        }
    }
    let mut said = String::new();
    let _ = (&mut stderr).take(1000).read_to_string(&mut said).await;
    let status = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
    format!("journalctl ended with {status}: {}", said.trim())
}

/// Words as a shell would take them apart, with quotes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            quote @ ('"' | '\'') => {
                let inner = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some(next) if next == quote => break,
                        Some(next) => inner.push(next),
                        None => return Err(format!("the {quote} in `{text}` is not closed")),
                    }
                }
            }
            blank if blank.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ENTRY: &str = r#"{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1757081852500000","_HOSTNAME":"web","SYSLOG_IDENTIFIER":"sshd","_PID":"77","_COMM":"sshd","_SYSTEMD_UNIT":"ssh.service","MESSAGE":"Failed password for root from 192.0.2.1 port 2 ssh2"}"#;

    #[test]
    fn an_entry_reads_like_a_line_of_syslog() {
        let entry = Entry::parse(ENTRY.as_bytes()).unwrap();
        assert_eq!(entry.text, b"web sshd[77]: Failed password for root from 192.0.2.1 port 2 ssh2");
        assert_eq!(entry.time.to_string(), "2025-09-05T14:17:32.5Z");
        assert_eq!(entry.cursor.cursor, "s=1;i=2");
        let bytes = ENTRY.replace(r#""Failed password for root from 192.0.2.1 port 2 ssh2""#, "[65,10,255]");
        assert_eq!(Entry::parse(bytes.as_bytes()).unwrap().text, b"web sshd[77]: A \xff");
        for (message, text) in [
            (r#""ends twice\n\r\n""#, &b"ends twice"[..]),
            (r#""two\nlines\n""#, b"two lines"),
            (r#"["set","twice"]"#, b"set twice"),
            (r#"["set",[116,10,255],"thrice\n"]"#, b"set t \xff thrice"),
            (r#""\n""#, b""),
        ] {
            let json = ENTRY.replace(r#""Failed password for root from 192.0.2.1 port 2 ssh2""#, message);
            assert_eq!(Entry::parse(json.as_bytes()).unwrap().text, [b"web sshd[77]: ", text].concat());
        }
        for wrong in ["", "{}", "[]", "{\"MESSAGE\":\"x\"}", &ENTRY[..100], "{\"MESSAGE\":null}"] {
            assert_eq!(Entry::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_good_login_is_told_by_roots_sshd_alone() {
        let entry = |exe: &str, uid: &str, message: &str| {
            let json = ENTRY
                .replace("_COMM", "_EXE")
                .replace("\"sshd\",\"_SYSTEMD", &format!("\"{exe}\",\"_SYSTEMD"));
            let json = json.replace("Failed password for root from 192.0.2.1 port 2 ssh2", message);
            let json = json.replace("\"_PID\"", &format!("\"_UID\":\"{uid}\",\"_PID\""));
            Entry { is_local: true, ..Entry::parse(json.as_bytes()).unwrap() }
        };
        let let_in = "Accepted publickey for anna from 2001:db8::1 port 2 ssh2: ED25519-CERT ID x from 192.0.2.9 port 1 (serial 0)";
        for exe in ["/usr/sbin/sshd", "/usr/lib/openssh/sshd-session"] {
            let good = entry(exe, "0", let_in);
            assert_eq!(good.good_login(), Some(("2001:db8::1".parse().unwrap(), "anna")), "{exe}");
            assert_eq!(Entry { is_local: false, ..good }.good_login(), None, "another host's {exe}");
        }
        for (exe, uid, message) in [
            ("/usr/sbin/sshd", "1000", let_in),
            ("/usr/bin/sudo", "0", let_in),
            ("/usr/sbin/sshd", "0", "Failed password for Accepted x for y from 192.0.2.1 port 2 ssh2"),
            ("/usr/sbin/sshd", "0", "Accepted password for anna from host.example port 2 ssh2"),
            ("/usr/sbin/sshd", "0", "Accepted password for anna"),
        ] {
            assert_eq!(entry(exe, uid, message).good_login(), None, "{exe} {uid} {message}");
        }
        assert_eq!(Entry::parse(ENTRY.as_bytes()).unwrap().good_login(), None);
    }

    #[rstest]
    #[case(&[], true)]
    #[case(&["_COMM=sshd"], true)]
    #[case(&["_COMM=sshd _SYSTEMD_UNIT=other.service"], false)]
    #[case(&["_COMM=sshd _SYSTEMD_UNIT=other.service + _PID=77"], true)]
    #[case(&["_COMM=login _COMM=sshd"], true)]
    #[case(&["_COMM=login", "_SYSTEMD_UNIT='ssh.service'"], true)]
    #[case(&["_COMM=login"], false)]
    fn a_match_wants_what_journalctl_would_show(#[case] texts: &[&str], #[case] wanted: bool) {
        let matches = JournalMatch::parse(texts.iter().copied()).unwrap();
        assert_eq!(matches.wants(&Entry::parse(ENTRY.as_bytes()).unwrap()), wanted);
    }

    #[test]
    fn one_journalctl_reads_for_all() {
        let parse = |text| JournalMatch::parse([text]).unwrap();
        let arguments = JournalMatch::arguments(&[parse("_COMM=a + _COMM=b"), parse("_PID=1 _COMM=c")]);
        assert_eq!(arguments.join(" "), "_COMM=a + _COMM=b + _PID=1 _COMM=c");
        assert!(JournalMatch::arguments(&[parse("_COMM=a"), JournalMatch::default()]).is_empty());
    }

    #[rstest]
    #[case("sshd", "FIELD=value")]
    #[case("comm=sshd", "capitals")]
    #[case("_COMM='sshd", "not closed")]
    fn a_mistake_in_a_match_is_told(#[case] text: &str, #[case] says: &str) {
        let error = JournalMatch::parse([text]).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}
