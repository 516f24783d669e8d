//! The journal as journalctl hands it over, from journal files that systemd-journal-remote wrote: all that is in
//! them arrives, of every host and every boot, whole.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use atalaya_sensor::source::journal::{self, Cursor, Entry, JournalMatch, JournalOptions};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const PATIENCE: Duration = Duration::from_secs(20);

/// A folder of journal files, and when its last entry was written: each is later than those before it.
struct Journal {
    folder: tempfile::TempDir,
    time: i64,
}

/// A host that writes, since its last boot.
#[derive(Clone, Copy)]
struct Host {
    name: char,
    boot: u8,
}

/// What a reader got.
struct Reader {
    entries: mpsc::UnboundedReceiver<Entry>,
    _task: AbortOnDropHandle<()>,
    cursor: Option<Cursor>,
}

// === impl Journal ===

impl Journal {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), time: 0 }
    }

    /// Adds an entry to a host's file; of each message a host is said to have, this is a value.
    fn write(&mut self, host: Host, messages: &[&[u8]]) {
        // A reader without a cursor begins with the second in which it starts, which may be later than this one.
        self.time = (self.time + 1000).max((Timestamp::now() + PATIENCE).as_microsecond());
        let (name, boot, time) = (host.name, host.boot, self.time);
        let mut export = format!(
            "__REALTIME_TIMESTAMP={time}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID={name}{boot:031}\n_MACHINE_ID={name}{:031}\n\
             _HOSTNAME={name}\nSYSLOG_IDENTIFIER=sshd\n_PID=7\n_COMM=sshd\n",
            time - i64::from(boot) * 1_000_000_000,
            0
        )
        .into_bytes();
        for message in messages {
            // systemd.io/JOURNAL_EXPORT_FORMATS: the form for values that hold line ends.
            export.extend_from_slice(b"MESSAGE\n");
            export.extend_from_slice(&(message.len() as u64).to_le_bytes());
            export.extend_from_slice(message);
            export.push(b'\n');
        }
        export.push(b'\n');
        let file = self.folder.path().join(format!("remote-{name}{boot}.journal"));
        let mut remote = Command::new("/lib/systemd/systemd-journal-remote")
            .arg(format!("--output={}", file.display()))
            .arg("-")
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        remote.stdin.take().unwrap().write_all(&export).unwrap();
        assert!(remote.wait().unwrap().success(), "systemd-journal-remote writes {}", file.display());
    }

    fn say(&mut self, host: Host, message: &str) {
        self.write(host, &[message.as_bytes()]);
    }

    fn read(&self, cursor: Option<Cursor>) -> Reader {
        read(self.folder.path(), cursor)
    }
}

fn read(folder: &Path, cursor: Option<Cursor>) -> Reader {
    let (sender, entries) = mpsc::unbounded_channel();
    let options = JournalOptions { folder: Some(folder.to_owned()) };
    let take = move |entry: Entry| drop(sender.send(entry));
    let wanted = vec![JournalMatch::parse(["_COMM=sshd"]).unwrap()];
    let task = journal::follow(options, wanted, cursor.clone(), take, CancellationToken::new());
    Reader { entries, _task: AbortOnDropHandle::new(tokio::spawn(task)), cursor }
}

// === impl Reader ===

impl Reader {
    async fn next(&mut self) -> String {
        let entry = tokio::time::timeout(PATIENCE, self.entries.recv()).await.expect("an entry").unwrap();
        self.cursor = Some(entry.cursor);
        String::from_utf8_lossy(&entry.text).into_owned()
    }
}

const A: Host = Host { name: 'a', boot: 1 };
const B: Host = Host { name: 'b', boot: 1 };

#[tokio::test]
async fn all_hosts_in_a_folder_are_read() {
    let mut journal = Journal::new();
    let mut reader = journal.read(None);
    journal.say(A, "one");
    assert_eq!(reader.next().await, "a sshd[7]: one");
    // Its file was not there yet.
    journal.say(B, "two");
    assert_eq!(reader.next().await, "b sshd[7]: two");
    journal.say(A, "three");
    assert_eq!(reader.next().await, "a sshd[7]: three");
}

#[tokio::test]
async fn what_came_before_and_after_a_reboot_is_read_once_where_reading_stood() {
    let mut journal = Journal::new();
    let mut reader = journal.read(None);
    journal.say(A, "zero");
    assert_eq!(reader.next().await, "a sshd[7]: zero");
    let cursor = reader.cursor.take();
    drop(reader);
    journal.say(A, "one");
    let rebooted = Host { boot: 2, ..A };
    journal.say(rebooted, "two");
    let mut reader = journal.read(cursor);
    assert_eq!(reader.next().await, "a sshd[7]: one");
    assert_eq!(reader.next().await, "a sshd[7]: two");
    journal.say(rebooted, "three");
    assert_eq!(reader.next().await, "a sshd[7]: three");
    let cursor = reader.cursor.take();
    drop(reader);
    journal.say(Host { boot: 3, ..A }, "four");
    assert_eq!(journal.read(cursor).next().await, "a sshd[7]: four");
}

#[tokio::test]
async fn a_message_arrives_whole_however_long_it_is_and_whatever_is_in_it() {
    let mut journal = Journal::new();
    let mut reader = journal.read(None);
    for length in [4_087, 4_088, 4_089, 100_000, 500_000] {
        let message = "x".repeat(length) + " from 192.0.2.1";
        journal.say(A, &message);
        let seen = reader.next().await;
        assert!(seen == format!("a sshd[7]: {message}"), "{length} bytes came as {}", seen.len());
    }
    let cases: [(&[&[u8]], &str); 5] = [
        (&[b"a container's line\n"], "a container's line"),
        (&[b"two\nlines\r\n"], "two lines"),
        (&[b"\x1b[31mred\x1b[0m\n"], "\u{1b}[31mred\u{1b}[0m"),
        (&[b"set", b"twice"], "set twice"),
        (&[b"no UTF-8: \xff\n", b"and set twice\n"], "no UTF-8: \u{fffd}  and set twice"),
    ];
    for (messages, text) in cases {
        journal.write(A, messages);
        assert_eq!(reader.next().await, format!("a sshd[7]: {text}"));
    }
}
