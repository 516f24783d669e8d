//! A log that is written, and a follower of it that can be stopped and started again.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atalaya_sensor::carrier::Carrier;
use atalaya_sensor::source::files::{
    FollowedFile, Follower, FollowerHandle, Position, SavedPosition, Sink, Start,
};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// What arrived, and the positions as a service would save them.
#[derive(Default)]
pub struct Arrived {
    pub lines: Vec<String>,
    pub saved: Vec<SavedPosition>,
    /// What stood before the first lines, where the sink was told.
    pub before: Vec<(String, bool)>,
    pub carriers: Vec<Option<Carrier>>,
    /// What a kill leaves: the lines and the positions as they were kept last.
    kept: Option<(usize, Vec<SavedPosition>)>,
    /// Every how many calls they are kept; 0 where there are no kills.
    pub keep_every: usize,
    calls: usize,
}

impl Arrived {
    /// Lines and positions are kept together, as a service does it, and not after each call.
    fn note_call(&mut self) {
        self.calls += 1;
        if self.keep_every > 0 && self.calls.is_multiple_of(self.keep_every) {
            self.keep();
        }
    }

    /// Keeps what arrived.
    pub fn keep(&mut self) {
        self.kept = Some((self.lines.len(), self.saved.clone()));
    }
}

pub struct Collector {
    pub arrived: Arc<Mutex<Arrived>>,
    pub news: Sender<()>,
}

impl Sink for Collector {
    fn begin_within(&mut self, _: &FollowedFile, before: &[u8], is_all: bool, _: &Position) {
        let before = String::from_utf8_lossy(before).into_owned();
        self.arrived.lock().unwrap().before.push((before, is_all));
    }

    fn lines(&mut self, file: &FollowedFile, lines: &[u8], after: &Position) {
        let mut arrived = self.arrived.lock().unwrap();
        if !lines.is_empty() {
            arrived.carriers.push(file.carrier);
        }
        arrived.lines.extend(String::from_utf8_lossy(lines).lines().map(ToOwned::to_owned));
        let saved = SavedPosition { path: file.path.to_path_buf(), position: after.clone() };
        arrived.saved.retain(|old| old.key() != saved.key());
        arrived.saved.push(saved);
        arrived.note_call();
        let _ = self.news.send(());
    }

    fn forget(&mut self, position: &SavedPosition) {
        let mut arrived = self.arrived.lock().unwrap();
        arrived.saved.retain(|old| old.key() != position.key());
        arrived.note_call();
        let _ = self.news.send(());
    }
}

/// A follower on its thread, which can be stopped and started again from what it saved.
pub struct Watch {
    pub pattern: String,
    pub arrived: Arc<Mutex<Arrived>>,
    pub news: Receiver<()>,
    pub running: Option<(FollowerHandle, JoinHandle<()>)>,
}

// === impl Watch ===

impl Watch {
    pub fn start(pattern: &Path) -> Self {
        let mut watch = Self {
            pattern: pattern.to_str().unwrap().to_owned(),
            arrived: Arc::default(),
            news: channel().1,
            running: None,
        };
        watch.go();
        watch
    }

    pub fn go(&mut self) {
        let saved = self.arrived.lock().unwrap().saved.clone();
        let follower = Follower::new(std::slice::from_ref(&self.pattern), saved, Start::Beginning).unwrap();
        let handle = follower.handle();
        let (news, receiver) = channel();
        self.news = receiver;
        let mut sink = Collector { arrived: self.arrived.clone(), news };
        self.running = Some((handle, std::thread::spawn(move || follower.run(&mut sink))));
    }

    pub fn stop(&mut self) {
        if let Some((handle, thread)) = self.running.take() {
            handle.stop();
            thread.join().unwrap();
        }
    }

    /// Stops it, and forgets what was not kept.
    pub fn kill(&mut self) {
        self.stop();
        let mut arrived = self.arrived.lock().unwrap();
        if let Some((lines, saved)) = arrived.kept.clone() {
            arrived.lines.truncate(lines);
            arrived.saved = saved;
        }
    }

    pub fn status(&self) -> Arc<atalaya_sensor::source::files::FilesStatus> {
        self.running.as_ref().unwrap().0.status()
    }

    /// Waits until so many lines arrived; a little longer would show a doubled one.
    pub fn wait(&self, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.arrived.lock().unwrap().lines.len() < count {
            if self.news.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
                break;
            }
        }
    }

    /// Waits until a file is let go of: nothing of it is saved any more.
    #[track_caller]
    pub fn wait_until_let_go(&self, inode: u64) {
        let until = Instant::now() + PATIENCE;
        while self.arrived.lock().unwrap().saved.iter().any(|saved| saved.position.inode == inode) {
            let left = until.saturating_duration_since(Instant::now());
            self.news.recv_timeout(left).expect("a file without a name is let go of once it is quiet");
        }
    }

    /// Asserts that the lines `line 0` to `line count-1` arrived, each once.
    #[track_caller]
    pub fn assert_each_once(&self, count: usize) {
        self.wait(count);
        let arrived = self.arrived.lock().unwrap();
        let mut seen = vec![0u32; count];
        for line in &arrived.lines {
            let number: Option<usize> = line.strip_prefix("line ").and_then(|text| text.parse().ok());
            match number.and_then(|number| seen.get_mut(number)) {
                Some(times) => *times += 1,
                None => panic!("a line that nobody wrote: {line:?}"),
            }
        }
        let lost: Vec<usize> = (0..count).filter(|number| seen[*number] == 0).collect();
        let doubled: Vec<usize> = (0..count).filter(|number| seen[*number] > 1).collect();
        assert!(
            lost.is_empty() && doubled.is_empty(),
            "{} lost (first {:?}), {} doubled (first {:?}) of {count}",
            lost.len(),
            lost.first(),
            doubled.len(),
            doubled.first()
        );
    }

    #[track_caller]
    pub fn assert_in_order(&self) {
        let arrived = self.arrived.lock().unwrap();
        let number = |line: &String| line.strip_prefix("line ").unwrap().parse::<usize>().unwrap();
        assert!(arrived.lines.iter().map(number).is_sorted(), "lines are out of order");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((handle, thread)) = self.running.take() {
            handle.stop();
            // A failed assertion may have poisoned what the thread needs.
            let _ = thread.join();
        }
    }
}

/// Writes numbered lines, in pieces that end anywhere.
pub struct Log {
    /// Digits of the numbers: lines that are long enough tell a copy from another file.
    pub width: usize,
    pub path: PathBuf,
    pub file: File,
    pub next: usize,
}

// === impl Log ===

impl Log {
    pub fn create(path: &Path) -> Self {
        Self { path: path.to_owned(), file: append_to(path), next: 0, width: 0 }
    }

    pub fn write(&mut self, count: usize) {
        let width = self.width;
        let text: String =
            (self.next..self.next + count).map(|number| format!("line {number:0width$}\n")).collect();
        self.next += count;
        // Cut where no line ends, so that the reader meets partial lines.
        let (first, second) = text.split_at(text.len() * 2 / 3 + 1);
        self.file.write_all(first.as_bytes()).unwrap();
        self.file.write_all(second.as_bytes()).unwrap();
    }

    /// Writes the first lines and waits for them: what is rotated away before anyone ever opened it
    /// cannot be known.
    pub fn begin(&mut self, watch: &Watch) {
        self.write(10);
        watch.wait(self.next);
    }

    pub fn reopen(&mut self) {
        self.file = append_to(&self.path);
    }
}

pub fn append_to(path: &Path) -> File {
    File::options().create(true).append(true).open(path).unwrap()
}

pub fn archive(path: &Path, number: usize) -> PathBuf {
    PathBuf::from(format!("{}.{number}", path.display()))
}

pub fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}
