//! The journal as its files have it, which systemd-journal-remote wrote: all that is in them arrives, of every host and
//! every boot, whole and once, whatever its date is.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use atalaya_sensor::source::journal::{
    Cursor, Entry, JournalFollower, JournalHandle, JournalMatch, JournalPlace, JournalPosition, JournalSink,
    JournalStatus, Namespace, WantedJournal,
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A folder of journal files, and when its last entry was written: each is later than those before it.
struct Journal {
    folder: tempfile::TempDir,
    time: Timestamp,
    /// What systemd-journal-remote is told in its environment.
    environment: Vec<(&'static str, &'static str)>,
}

/// A host that writes, since its last boot.
#[derive(Clone, Copy)]
struct Host {
    name: char,
    boot: u8,
}

/// What a reader got.
struct Reader {
    entries: mpsc::Receiver<Entry>,
    positions: mpsc::Receiver<(String, Option<u64>)>,
    kept: HashMap<String, u64>,
    follower: Option<(JournalHandle, std::thread::JoinHandle<()>)>,
    status: Arc<JournalStatus>,
}

struct Channel {
    entries: mpsc::Sender<Entry>,
    positions: mpsc::Sender<(String, Option<u64>)>,
}

// === impl Channel ===

impl JournalSink for Channel {
    fn entry(&mut self, entry: Entry, after: JournalPosition) {
        self.passed(after);
        let _ = self.entries.send(entry);
    }

    fn passed(&mut self, after: JournalPosition) {
        let _ = self.positions.send((after.file, Some(after.entries)));
    }

    fn before(&mut self, _: &Entry, _: bool) {}

    fn forget(&mut self, file: &str) {
        let _ = self.positions.send((file.to_owned(), None));
    }
}

// === impl Journal ===

impl Journal {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), time: Timestamp::now(), environment: Vec::new() }
    }

    /// Adds an entry to a host's file; of each message a host is said to have, this is a value.
    fn write(&mut self, host: Host, messages: &[&[u8]]) {
        self.time += SignedDuration::from_millis(1);
        let file = format!("remote-{}{}.journal", host.name, host.boot);
        self.write_at(&file, host, self.time, messages);
    }

    /// Adds an entry of some time to a file.
    fn write_at(&self, file: &str, host: Host, time: Timestamp, messages: &[&[u8]]) {
        let (name, boot, time) = (host.name, host.boot, time.as_microsecond());
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
        let file = self.folder.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let mut remote = Command::new("/lib/systemd/systemd-journal-remote")
            .arg(format!("--output={}", file.display()))
            .arg("-")
            .envs(self.environment.iter().copied())
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

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn place(&self) -> JournalPlace {
        JournalPlace { folder: Some(self.folder.path().to_owned()), ..JournalPlace::default() }
    }

    fn read(&self) -> Reader {
        Reader::new(vec![self.place()], HashMap::new(), None)
    }

    fn read_on(&self, kept: HashMap<String, u64>) -> Reader {
        Reader::new(vec![self.place()], kept, None)
    }

    /// The cursor of the last entry as journalctl has it, which an earlier release kept.
    fn cursor(&self) -> Cursor {
        let out = Command::new("journalctl")
            .arg(format!("--directory={}", self.folder.path().display()))
            .args(["--merge", "--lines=1", "--output=json"])
            .output()
            .unwrap();
        let entry: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let text = |name: &str| entry[name].as_str().unwrap().to_owned();
        let time = text("__REALTIME_TIMESTAMP").parse().unwrap();
        Cursor { cursor: text("__CURSOR"), time: Timestamp::from_microsecond(time).unwrap() }
    }
}

// === impl Reader ===

impl Reader {
    fn new(places: Vec<JournalPlace>, kept: HashMap<String, u64>, cursor: Option<Cursor>) -> Self {
        let entries = JournalMatch::parse(["_COMM=sshd"]).unwrap();
        let wanted =
            places.into_iter().map(|place| WantedJournal { place, entries: entries.clone() }).collect();
        let saved =
            kept.iter().map(|(file, entries)| JournalPosition { file: file.clone(), entries: *entries });
        let mut follower = JournalFollower::new(wanted, saved.collect(), cursor).unwrap();
        let (sender, entries) = mpsc::channel();
        let (position_sender, positions) = mpsc::channel();
        let mut sink = Channel { entries: sender, positions: position_sender };
        let handle = follower.handle();
        follower.begin(&mut sink);
        let thread = std::thread::spawn(move || follower.run(&mut sink));
        Self { entries, positions, kept, status: handle.status(), follower: Some((handle, thread)) }
    }

    fn next(&mut self) -> String {
        String::from_utf8_lossy(&self.next_entry().text).into_owned()
    }

    fn next_entry(&mut self) -> Entry {
        self.entries.recv_timeout(PATIENCE).expect("an entry")
    }

    /// The next ones, in the order of their texts: files are read in no particular order.
    fn next_sorted(&mut self, count: usize) -> Vec<String> {
        let mut texts: Vec<String> = (0..count).map(|_| self.next()).collect();
        texts.sort_unstable();
        texts
    }

    /// Stops it: what was kept of where it stood, and what it had read that nobody took.
    fn stop(mut self) -> (HashMap<String, u64>, Vec<Entry>) {
        let (handle, thread) = self.follower.take().unwrap();
        handle.stop();
        thread.join().unwrap();
        for (file, entries) in self.positions.try_iter() {
            match entries {
                Some(entries) => drop(self.kept.insert(file, entries)),
                None => drop(self.kept.remove(&file)),
            }
        }
        (std::mem::take(&mut self.kept), self.entries.try_iter().collect())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some((handle, thread)) = self.follower.take() {
            handle.stop();
            let _ = thread.join();
        }
    }
}

const A: Host = Host { name: 'a', boot: 1 };
const B: Host = Host { name: 'b', boot: 1 };

#[test]
fn all_hosts_in_a_folder_are_read() {
    let mut journal = Journal::new();
    journal.say(A, "what was there when reading began is not read");
    let mut reader = journal.read();
    journal.say(A, "one");
    assert_eq!(reader.next(), "a sshd[7]: one");
    // Its file was not there yet.
    journal.say(B, "two");
    assert_eq!(reader.next(), "b sshd[7]: two");
    journal.say(A, "three");
    assert_eq!(reader.next(), "a sshd[7]: three");
    let (_, more) = reader.stop();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn a_host_that_sends_late_or_whose_clock_is_behind_is_read_whole() {
    let journal = Journal::new();
    let (mut reader, now) = (journal.read(), Timestamp::now());
    let (late, ahead) = (SignedDuration::from_hours(-3), SignedDuration::from_hours(1));
    // Of both hosts in one file too, as `SplitMode=none` of journal-remote has it.
    for file in ["remote-a.journal", "remote-b.journal", "remote.journal"] {
        for (host, time, text) in
            [(A, now, "now"), (B, now + late, "late"), (B, now + ahead, "ahead"), (A, now + late, "set back")]
        {
            let text = format!("{text}, in {file}");
            journal.write_at(file, host, time, &[text.as_bytes()]);
            assert_eq!(reader.next(), format!("{} sshd[7]: {text}", host.name));
        }
    }
}

#[test]
fn what_came_before_and_after_a_reboot_is_read_once_where_reading_stood() {
    let mut journal = Journal::new();
    let mut reader = journal.read();
    journal.say(A, "zero");
    assert_eq!(reader.next(), "a sshd[7]: zero");
    let (kept, _) = reader.stop();
    journal.say(A, "one");
    let rebooted = Host { boot: 2, ..A };
    // A host without a battery has no date before it has heard of one.
    journal.write_at("remote-a2.journal", rebooted, "2020-01-01T00:00:00Z".parse().unwrap(), &[b"early"]);
    journal.say(rebooted, "two");
    let mut reader = journal.read_on(kept);
    assert_eq!(reader.next_sorted(3), ["a sshd[7]: early", "a sshd[7]: one", "a sshd[7]: two"]);
    journal.say(rebooted, "three");
    assert_eq!(reader.next(), "a sshd[7]: three");
    let (kept, _) = reader.stop();
    journal.say(Host { boot: 3, ..A }, "four");
    let mut reader = journal.read_on(kept);
    assert_eq!(reader.next(), "a sshd[7]: four");
    let (_, more) = reader.stop();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn a_folder_that_was_empty_is_read_whole_after_a_restart() {
    let mut journal = Journal::new();
    let (kept, _) = journal.read().stop();
    journal.say(A, "while nobody looked");
    assert_eq!(journal.read_on(kept).next(), "a sshd[7]: while nobody looked");
}

#[test]
fn a_file_with_another_name_goes_on_where_it_was_read() {
    let mut journal = Journal::new();
    let mut reader = journal.read();
    journal.say(A, "one");
    assert_eq!(reader.next(), "a sshd[7]: one");
    journal.say(A, "two");
    std::fs::rename(journal.path("remote-a1.journal"), journal.path("remote-a1@0001.journal")).unwrap();
    journal.say(A, "three");
    assert_eq!(reader.next_sorted(2), ["a sshd[7]: three", "a sshd[7]: two"]);
    // A copy of what was read is no news, and neither is one that is shorter than its original.
    std::fs::copy(journal.path("remote-a1@0001.journal"), journal.path("copy.journal")).unwrap();
    std::fs::copy(journal.path("remote-a1.journal"), journal.path("a-copy.journal")).unwrap();
    journal.say(A, "four");
    assert_eq!(reader.next(), "a sshd[7]: four");
    let (kept, more) = reader.stop();
    assert!(more.is_empty(), "{more:?}");
    let (_, more) = {
        let reader = journal.read_on(kept);
        journal.say(B, "five");
        let mut reader = reader;
        assert_eq!(reader.next(), "b sshd[7]: five");
        reader.stop()
    };
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn an_entry_that_is_copied_into_another_file_is_read_once_and_one_that_is_said_twice_is_read_twice() {
    let mut journal = Journal::new();
    let mut reader = journal.read();
    let (first, second) = (journal.time, journal.time + SignedDuration::from_millis(1));
    journal.write_at("runtime.journal", A, first, &[b"said"]);
    journal.write_at("runtime.journal", A, second, &[b"said"]);
    assert_eq!([reader.next(), reader.next()], ["a sshd[7]: said"; 2]);
    // As journald does with what it has in /run, once /var is there.
    journal.write_at("system.journal", A, first, &[b"said"]);
    journal.write_at("system.journal", A, second, &[b"said"]);
    journal.say(A, "goes on");
    assert_eq!(reader.next(), "a sshd[7]: goes on");
    let until = Instant::now() + PATIENCE;
    while reader.status.entries() < 5 {
        assert!(Instant::now() < until, "the copies are not looked at");
        std::thread::yield_now();
    }
    let (_, more) = reader.stop();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn the_place_where_an_earlier_release_stood_is_where_reading_goes_on() {
    let mut journal = Journal::new();
    journal.say(A, "one");
    journal.say(B, "two");
    let cursor = journal.cursor();
    journal.say(A, "three");
    journal.say(B, "four");
    journal.say(Host { boot: 2, ..A }, "five");
    let mut reader = Reader::new(vec![journal.place()], HashMap::new(), Some(cursor));
    assert_eq!(reader.next_sorted(3), ["a sshd[7]: five", "a sshd[7]: three", "b sshd[7]: four"]);
    let (_, more) = reader.stop();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn namespaces_and_named_files_are_read_by_those_who_name_them() {
    let machine = "0123456789abcdef0123456789abcdef";
    let journal = Journal::new();
    let place = |namespace: Option<&str>| JournalPlace {
        namespace: namespace.map_or(Namespace::Default, |name| Namespace::parse(name).unwrap()),
        ..journal.place()
    };
    let files = JournalPlace {
        files: vec![format!("{}/*.web/system.journal", journal.folder.path().display())],
        ..JournalPlace::default()
    };
    let places = vec![place(None), place(Some("web")), place(Some("*")), files.clone()];
    let mut reader = Reader::new(places, HashMap::new(), None);
    journal.write_at(&format!("{machine}/system.journal"), A, journal.time, &[b"plain"]);
    let plain = reader.next_entry();
    assert_eq!(*plain.places, [place(None), place(Some("*"))]);
    journal.write_at(&format!("{machine}.web/system.journal"), A, journal.time, &[b"of web"]);
    let web = reader.next_entry();
    assert_eq!(*web.places, [place(Some("web")), place(Some("*")), files]);
    assert!(String::from_utf8_lossy(&web.text).ends_with("of web"));
}

#[test]
fn a_message_arrives_whole_however_long_it_is_and_whatever_is_in_it() {
    let older: [&[(&str, &str)]; 3] =
        [&[], &[("SYSTEMD_JOURNAL_COMPACT", "0")], &[("SYSTEMD_JOURNAL_KEYED_HASH", "0")]];
    for environment in older {
        let mut journal = Journal { environment: environment.to_vec(), ..Journal::new() };
        let mut reader = journal.read();
        for length in [1, 511, 512, 513, 4_087, 4_088, 4_089, 100_000, 500_000] {
            for random in [false, true] {
                let noise = || String::from_utf8_lossy(&[b'a' + fastrand()]).into_owned();
                let message: String =
                    (0..length).map(|_| if random { noise() } else { "x".to_owned() }).collect();
                let message = message + " from 192.0.2.1";
                journal.say(A, &message);
                let seen = reader.next();
                assert!(seen == format!("a sshd[7]: {message}"), "{length} bytes came as {}", seen.len());
            }
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
            assert_eq!(reader.next(), format!("a sshd[7]: {text}"));
        }
        let longest = "y".repeat(3 << 20);
        journal.say(A, &longest);
        assert_eq!(reader.next().len(), (1 << 20) - "MESSAGE=".len() + "a sshd[7]: ".len());
        assert_eq!((reader.status.cut(), reader.status.damaged()), (1, 0));
    }
}

/// A number below 26 that no compression guesses.
fn fastrand() -> u8 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0) % 26) as u8
}

#[test]
fn what_is_damaged_is_counted_and_the_rest_is_read() {
    let mut journal = Journal::new();
    let (kept, _) = journal.read().stop();
    for number in 0..20 {
        journal.say(A, &format!("entry {number:02}"));
    }
    let path = journal.path("remote-a1.journal");
    let mut bytes = std::fs::read(&path).unwrap();
    // An object of the type that entries have, which is not one any more.
    let message = b"MESSAGE=entry 10";
    let at = bytes.windows(message.len()).position(|window| window == message).unwrap();
    let entry = (0..at + 512).step_by(8).rfind(|at| bytes[*at] == 3 && bytes[at + 8..at + 16] != [0; 8]);
    bytes[entry.unwrap()] = 77;
    std::fs::write(&path, &bytes).unwrap();
    let mut reader = journal.read_on(kept);
    let read = reader.next_sorted(19);
    assert_eq!(reader.status.damaged(), 1, "{read:?}");
    assert!(
        read.contains(&"a sshd[7]: entry 00".to_owned()) && read.contains(&"a sshd[7]: entry 19".to_owned())
    );
    std::fs::write(journal.path("x.journal"), [b'x'; 4096]).unwrap();
    std::fs::write(journal.path("y.journal"), b"LPKSHHRH").unwrap();
    journal.say(B, "goes on");
    assert_eq!(reader.next(), "b sshd[7]: goes on");
    let troubles = reader.status.troubles();
    for file in ["x.journal", "y.journal"] {
        assert!(troubles[&journal.path(file)].contains("no file of systemd's journal"), "{troubles:?}");
    }
}

#[test]
fn entries_that_are_deleted_before_they_are_read_are_counted() {
    let mut journal = Journal::new();
    let (kept, _) = journal.read().stop();
    journal.say(A, "one");
    journal.say(A, "two");
    let wanted = vec![WantedJournal { place: journal.place(), entries: JournalMatch::default() }];
    let saved = kept.into_iter().map(|(file, entries)| JournalPosition { file, entries }).collect();
    let mut follower = JournalFollower::new(wanted, saved, None).unwrap();
    let (entries, _entries) = mpsc::channel();
    let (positions, _positions) = mpsc::channel();
    let mut sink = Channel { entries, positions };
    follower.begin(&mut sink);
    std::fs::remove_file(journal.path("remote-a1.journal")).unwrap();
    let handle = follower.handle();
    let status = handle.status();
    let thread = std::thread::spawn(move || follower.run(&mut sink));
    let until = Instant::now() + PATIENCE;
    while status.lost() < 2 {
        assert!(Instant::now() < until, "{} are told of", status.lost());
        std::thread::yield_now();
    }
    handle.stop();
    thread.join().unwrap();
    assert_eq!((status.lost(), status.entries()), (2, 0));
}

/// Reads a whole file, as fast as it goes: how many entries it gave.
fn read_whole(path: &Path) -> usize {
    let place = JournalPlace { files: vec![path.display().to_string()], ..JournalPlace::default() };
    let wanted = vec![WantedJournal { place, entries: JournalMatch::default() }];
    let follower = JournalFollower::new(wanted, Vec::new(), None).unwrap();
    let (sender, entries) = mpsc::channel();
    let (positions, _rest) = mpsc::channel();
    follower.read_all(&mut Channel { entries: sender, positions });
    entries.try_iter().count()
}

#[test]
fn a_file_in_which_anything_may_stand_is_read_to_an_end() {
    let mut journal = Journal::new();
    for number in 0..40 {
        journal.say(A, &format!("entry {number} {}", "long and longer ".repeat(number * 10)));
    }
    let whole = std::fs::read(journal.path("remote-a1.journal")).unwrap();
    assert_eq!(read_whole(&journal.path("remote-a1.journal")), 40);
    // A header that counts what no file holds.
    let mut bytes = whole.clone();
    bytes[152..160].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
    std::fs::write(journal.path("counts"), &bytes).unwrap();
    assert_eq!(read_whole(&journal.path("counts")), 40);
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let path = journal.path("changed");
    let changes = prop::collection::vec((0..used, any::<u8>(), 1..9usize), 1..40);
    proptest!(ProptestConfig::with_cases(100), |(changes in changes, end in 0..used * 2)| {
        let mut bytes = whole.clone();
        for (at, value, length) in changes {
            // Most of the header is left as it is, or there would be nothing to read.
            let at = if at < 104 { at + 256 } else { at };
            bytes[at..at + length].fill(value);
        }
        bytes.truncate(end.max(272));
        std::fs::write(&path, &bytes).unwrap();
        read_whole(&path);
    });
}
