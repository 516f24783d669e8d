//! `watch`: the enforcer live, on the whole screen of a terminal, or as a JSON object a second.

use std::io::{self, IsTerminal, Write};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use atalaya_enforcer::control::answers::Status;
use jiff::Timestamp;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::feed::News;
use self::picture::{Flow, Picture};
use super::paint::Paint;
use super::socket::{Socket, print_json};

mod feed;
mod picture;
mod view;

/// How long a key waits at most until it has its effect.
const KEY_INTERVAL: Duration = Duration::from_millis(50);
/// How often the ages on the screen are brought up to date.
const DRAW_INTERVAL: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer watch\n  \
    atalaya-enforcer watch --json | jq .status.rates.bans.last_minute\n\n\
    Keys: q, Esc and Ctrl-C end it, p pauses, Tab goes to the next pane, the arrows scroll it, ? tells more.\n\n\
    The JSON is {status, latest} each second: what `status --json` prints, and the bans that are new since the line \
    before as `bans --json` prints them; or {lost}, why no enforcer answers.")]
pub struct Arguments {
    /// Print a JSON object a second instead
    #[arg(long)]
    json: bool,
}

/// The terminal's whole screen, given back when this is dropped. Where the terminal is gone, `DefaultTerminal`'s own end
/// would complain to it, which is a panic, whose hook complains once more, which aborts: so that never runs.
struct Screen(ManuallyDrop<DefaultTerminal>);

// === impl Arguments ===

impl Arguments {
    /// Watches until a key or a signal ends it.
    pub fn run(&self, config: &Path) -> anyhow::Result<()> {
        let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        if !self.json && !terminal {
            bail!(
                "watch needs a terminal: `watch --json` prints a JSON object a second, `status` what is so now"
            );
        }
        let socket = Socket::of(config)?;
        // Says what is wrong, on the ordinary screen, where no enforcer answers.
        socket.get::<Status>("status")?;
        let (sender, reports) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        std::thread::Builder::new()
            .name("feed".into())
            .spawn({
                let on_screen = !self.json;
                move || feed::run(&socket, &sender, &ready, on_screen)
            })
            .context("cannot start a thread")?;
        // Whether it is or has ended, its reports tell.
        let _ = is_ready.recv();
        if self.json {
            return lines(&reports);
        }
        match screen(&reports) {
            // Nobody is left to be told that nothing can be drawn any more.
            Err(_) if feed::is_hung_up() => Ok(()),
            ended => ended,
        }
    }
}

// === impl Screen ===

impl Screen {
    fn take() -> anyhow::Result<Self> {
        // Gives the screen back in a panic too.
        let terminal = ratatui::try_init().inspect_err(|_| drop(ratatui::try_restore()));
        Ok(Self(ManuallyDrop::new(terminal.context("the terminal cannot be used")?)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone takes nothing back, and no complaint.
        let _ = self.0.show_cursor();
        let _ = ratatui::try_restore();
    }
}

/// Draws until `q`, Ctrl-C or a signal; the terminal is given back as it was.
fn screen(reports: &mpsc::Receiver<News>) -> anyhow::Result<()> {
    let mut picture = Picture::new(Paint::of_stdout().is_colourful());
    let mut screen = Screen::take()?;
    let mut drawn: Option<Instant> = None;
    loop {
        let mut changed = drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW_INTERVAL);
        loop {
            match reports.try_recv() {
                Ok(News::Stop) => return Ok(()),
                Ok(report) => {
                    picture.take(report, Timestamp::now());
                    changed = true;
                }
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => bail!("the thread that asks the enforcer has ended"),
            }
        }
        if changed {
            screen.0.draw(|frame| view::draw(frame, &picture, Timestamp::now()))?;
            drawn = Some(Instant::now());
        }
        if !event::poll(KEY_INTERVAL)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                if picture.key(key) == Flow::End {
                    return Ok(());
                }
                drawn = None;
            }
            Event::Resize(..) => drawn = None,
            _ => {}
        }
    }
}

/// A JSON object a second, until whoever reads has enough.
fn lines(reports: &mpsc::Receiver<News>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let mut seen: Option<Timestamp> = None;
    loop {
        match reports.recv_timeout(Duration::from_mins(1)) {
            Ok(News::Now { status, mut latest }) => {
                latest.retain(|ban| seen.is_some_and(|seen| ban.since > seen));
                seen = latest.iter().map(|ban| ban.since).max().or(seen).or(Some(status.now));
                print_json(&mut out, &serde_json::json!({"status": status, "latest": latest}))?;
            }
            Ok(News::Lost(why)) => print_json(&mut out, &serde_json::json!({"lost": why}))?,
            Ok(News::Stop) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the thread that asks the enforcer has ended"),
        }
        out.flush()?;
    }
}
