//! The terminal without echo, while a password is typed. However the question ends, the terminal is as it was: by an answer,
//! by a panic, or by a signal, which Ctrl-C and Ctrl-Z are too.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// The signals by which a terminal, or who ends a session, ends or stops a program.
const SIGNALS: [i32; 5] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP];

/// What is to be done at a signal.
static TERMINAL: Mutex<Watched> = Mutex::new(Watched { is_watched: false, question: None });

/// The terminal without echo, until it is dropped. There is one at a time.
pub struct Hush(());

struct Watched {
    /// Whether a thread waits for signals. It does so for the rest of the program: nothing gives them back.
    is_watched: bool,
    question: Option<SilentQuestion>,
}

/// One that is asked now.
struct SilentQuestion {
    /// How the terminal was.
    before: Termios,
    text: String,
}

// === impl Hush ===

impl Hush {
    /// For a question, which is asked again when the program goes on after a stop.
    pub fn new(question: &str) -> anyhow::Result<Self> {
        let mut terminal = lock();
        if !terminal.is_watched {
            watch().context("cannot wait for signals")?;
            terminal.is_watched = true;
        }
        let question = SilentQuestion { before: tcgetattr(io::stdin())?, text: question.to_owned() };
        question.hush()?;
        terminal.question = Some(question);
        Ok(Self(()))
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        if let Some(question) = lock().question.take() {
            question.restore();
        }
    }
}

// === impl SilentQuestion ===

impl SilentQuestion {
    fn hush(&self) -> rustix::io::Result<()> {
        let mut silent = self.before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)
    }

    fn restore(&self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Starts the thread that does what a signal does by itself, and has the terminal as it was while it is so.
fn watch() -> io::Result<()> {
    let ignored = ignored();
    let mut signals = Signals::new(SIGNALS.iter().filter(|signal| ignored & (1 << (**signal - 1)) == 0))?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            // Held also while the program is stopped, so that no answer is taken before the terminal is silent again.
            let terminal = lock();
            if let Some(question) = &terminal.question {
                question.restore();
                let _ = writeln!(io::stderr());
            }
            // The program ends here, or is stopped until it is to go on.
            let _ = emulate_default_handler(signal);
            if let Some(question) = &terminal.question {
                let _ = question.hush();
                let _ = write!(io::stderr(), "{}", question.text);
            }
        }
    })?;
    Ok(())
}

/// The signals that whoever started the program lets it ignore, as nohup(1) does: signal N is bit N - 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn lock() -> MutexGuard<'static, Watched> {
    TERMINAL.lock().unwrap_or_else(PoisonError::into_inner)
}
