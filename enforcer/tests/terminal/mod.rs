//! A program at a terminal of its own.

#![allow(dead_code, reason = "each test binary uses another part of it")]
#![allow(clippy::unwrap_used, reason = "it serves tests only")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

const PATIENCE: Duration = Duration::from_secs(30);

/// A program at a terminal of its own, and a person before it.
pub struct Terminal {
    master: File,
    shown: Receiver<Vec<u8>>,
    /// Everything that the terminal has shown.
    pub text: String,
    /// How much of it was waited for already.
    seen: usize,
    child: Child,
}

impl Terminal {
    pub fn start(command: &mut Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let clone = || slave.try_clone().unwrap();
        let child = command.stdin(clone()).stdout(clone()).stderr(clone()).spawn().unwrap();
        let master = File::from(master);
        let mut reader = master.try_clone().unwrap();
        let (sender, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of the last program at a terminal is an error to its master.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { master, shown, text: String::new(), seen: 0, child }
    }

    /// Waits until this is shown, after what was waited for before; returns what came up to there.
    pub fn shows(&mut self, words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.text[self.seen..].find(words) {
                let from = self.seen;
                self.seen += at + words.len();
                return self.text[from..self.seen].to_owned();
            }
            let left = end.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.shown.recv_timeout(left) else {
                panic!("{words:?} is not shown after {:?}", &self.text[self.seen..])
            };
            self.text += &String::from_utf8_lossy(&bytes);
        }
    }

    pub fn types(&mut self, line: &str) {
        self.master.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Presses a key as it is sent, such as Ctrl-C.
    pub fn presses(&mut self, key: u8) {
        self.master.write_all(&[key]).unwrap();
    }

    /// Whether the terminal shows what is typed.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.master).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Of the program.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The person leaves, without a signal to the program; the terminal is gone once it has shown one thing more.
    pub fn hangs_up(&mut self) {
        self.shown = mpsc::channel().1;
        self.master = File::open("/dev/null").unwrap();
    }

    /// The signal that ended the program, once it has ended.
    pub fn ends_by(&mut self) -> Option<i32> {
        self.ends();
        self.child.wait().unwrap().signal()
    }

    /// The exit status, once the program has ended.
    pub fn ends(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                eprintln!("the program ended: {status}");
                return status.code();
            }
            assert!(Instant::now() < end, "the program does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
