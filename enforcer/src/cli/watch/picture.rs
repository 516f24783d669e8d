//! What the view shows, as it follows from reports and keys; without a terminal, so that it can be
//! tested.

use atalaya_enforcer::control::answers::Status;
use atalaya_enforcer::ledger::Ban;
use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::feed::News;

/// What is on the screen.
#[derive(Debug)]
pub struct Picture {
    /// Whether colour may be used.
    pub colour: bool,
    /// As the enforcer told it last; `None` before its first answer.
    pub status: Option<Status>,
    /// The latest bans, the latest first.
    pub latest: Vec<Ban>,
    /// Since when no enforcer answers, and why.
    pub lost: Option<(Timestamp, String)>,
    /// Whether reports are left aside.
    pub paused: bool,
    /// Whether the help is shown.
    pub help: bool,
    /// Where the arrows go.
    pub pane: Pane,
    /// How many rows of each pane are above its first shown one.
    pub scrolled: [usize; 3],
}

/// A part of the screen that scrolls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    Bans,
    Routers,
    Sensors,
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    On,
    End,
}

// === impl Picture ===

impl Picture {
    /// Nothing is known yet, and nothing asked.
    pub fn new(colour: bool) -> Self {
        Self {
            colour,
            status: None,
            latest: Vec::new(),
            lost: None,
            paused: false,
            help: false,
            pane: Pane::Bans,
            scrolled: [0; 3],
        }
    }

    /// Takes a report; while paused, only whether the enforcer is there.
    pub fn take(&mut self, report: News, now: Timestamp) {
        match report {
            News::Now { status, latest } => {
                self.lost = None;
                if !self.paused {
                    self.status = Some(*status);
                    self.latest = latest;
                }
            }
            News::Lost(why) => {
                let since = self.lost.as_ref().map_or(now, |(since, _)| *since);
                self.lost = Some((since, why));
            }
            News::Stop => {}
        }
        self.hold_scroll();
    }

    /// Does what a key asks for.
    pub fn key(&mut self, key: KeyEvent) -> Flow {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Flow::End,
            KeyCode::Char('q') => return Flow::End,
            KeyCode::Esc if !self.help => return Flow::End,
            KeyCode::Esc => self.help = false,
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Tab => self.pane = self.pane.next(),
            KeyCode::BackTab => self.pane = self.pane.next().next(),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(|at| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(|at| at + 1),
            KeyCode::PageUp => self.scroll(|at| at.saturating_sub(10)),
            KeyCode::PageDown => self.scroll(|at| at + 10),
            KeyCode::Home => self.scroll(|_| 0),
            KeyCode::End => self.scroll(|_| usize::MAX),
            _ => {}
        }
        Flow::On
    }

    /// How many rows a pane has.
    pub fn rows(&self, pane: Pane) -> usize {
        match (pane, &self.status) {
            (Pane::Bans, _) => self.latest.len(),
            (Pane::Routers, Some(status)) => status.routers.len(),
            (Pane::Sensors, Some(status)) => status.sensors.len(),
            (_, None) => 0,
        }
    }

    fn scroll(&mut self, to: impl Fn(usize) -> usize) {
        let at = &mut self.scrolled[self.pane as usize];
        *at = to(*at);
        self.hold_scroll();
    }

    /// The last row stays on the screen.
    fn hold_scroll(&mut self) {
        for pane in [Pane::Bans, Pane::Routers, Pane::Sensors] {
            let last = self.rows(pane).saturating_sub(1);
            let at = &mut self.scrolled[pane as usize];
            *at = (*at).min(last);
        }
    }
}

// === impl Pane ===

impl Pane {
    fn next(self) -> Self {
        match self {
            Self::Bans => Self::Routers,
            Self::Routers => Self::Sensors,
            Self::Sensors => Self::Bans,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::site;

    fn press(picture: &mut Picture, code: KeyCode) -> Flow {
        picture.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn now() -> News {
        News::Now { status: Box::new(site(3, 12, false)), latest: Vec::new() }
    }

    #[test]
    fn a_paused_picture_stands_still_but_tells_that_the_enforcer_is_gone_and_since_when() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut picture = Picture::new(false);
        picture.take(now(), at(0));
        press(&mut picture, KeyCode::Char('p'));
        picture.take(News::Now { status: Box::new(site(9, 9, true)), latest: Vec::new() }, at(1));
        assert_eq!(picture.rows(Pane::Routers), 3);
        picture.take(News::Lost("gone".to_owned()), at(2));
        picture.take(News::Lost("still".to_owned()), at(3));
        assert_eq!(picture.lost, Some((at(2), "still".to_owned())));
        press(&mut picture, KeyCode::Char('p'));
        picture.take(now(), at(4));
        assert_eq!(picture.lost, None);
    }

    #[test]
    fn keys_scroll_the_chosen_pane_no_further_than_its_last_row_and_end_the_program() {
        let mut picture = Picture::new(false);
        assert_eq!(press(&mut picture, KeyCode::Down), Flow::On);
        picture.take(now(), Timestamp::UNIX_EPOCH);
        press(&mut picture, KeyCode::Tab);
        press(&mut picture, KeyCode::Tab);
        for code in [KeyCode::End, KeyCode::PageDown, KeyCode::Down, KeyCode::Up] {
            press(&mut picture, code);
        }
        assert_eq!(picture.scrolled, [0, 0, 10]);
        picture.take(
            News::Now { status: Box::new(site(1, 2, false)), latest: Vec::new() },
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(picture.scrolled, [0, 0, 1]);
        press(&mut picture, KeyCode::Char('?'));
        assert_eq!(press(&mut picture, KeyCode::Esc), Flow::On);
        assert_eq!(press(&mut picture, KeyCode::Esc), Flow::End);
        assert_eq!(picture.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Flow::End);
    }
}
