//! A filter tried on systemd's journal, as fail2ban-regex takes `systemd-journal` for a log.

use std::io::{self, Write};

use super::{Arguments, Trial};
use crate::cli::named::NamedFilter;
use crate::fail2ban::backend::journal_place;
use crate::filter::{Filter, LineOutcome};
use crate::source::journal::{
    Entry, JournalFollower, JournalMatch, JournalPieces, JournalPosition, JournalSink, WantedJournal,
};

/// What stands in the place of a log.
const JOURNAL: &str = "systemd-journal";

/// Tries each entry as it is read.
struct TrialFeed<'a, 'b, W> {
    trial: &'a mut Trial<'b, W>,
    filter: &'a mut Filter,
    pieces: JournalPieces,
    /// Why the rest is not looked at.
    failed: Option<io::Error>,
}

/// Which journal is meant, where one is.
///
/// # Errors
/// What of it is not understood, in words.
pub(super) fn wanted(arguments: &Arguments, found: &NamedFilter) -> Result<Option<WantedJournal>, String> {
    let options = arguments.log.strip_prefix(JOURNAL).filter(|rest| rest.is_empty() || rest.starts_with('['));
    let Some(options) = options else {
        if arguments.journalmatch.is_empty() {
            return Ok(None);
        }
        return Err(format!("--journalmatch goes with the log `{JOURNAL}`"));
    };
    let mut wanted = found.journal.clone().unwrap_or_default();
    if !options.is_empty() {
        wanted.place = journal_place(&format!("systemd{options}"))?;
    }
    if !arguments.journalmatch.is_empty() {
        wanted.entries = JournalMatch::parse(arguments.journalmatch.iter().map(String::as_str))?;
    }
    match wanted.place.trouble() {
        Some(trouble) => Err(trouble),
        None => Ok(Some(wanted)),
    }
}

// === impl Trial ===

impl<W: Write> Trial<'_, W> {
    /// Looks at all entries that are wanted of a journal.
    pub(super) fn journal(&mut self, filter: &mut Filter, wanted: WantedJournal) -> anyhow::Result<()> {
        let follower = JournalFollower::new(vec![wanted], Vec::new(), None)?;
        let status = follower.handle().status();
        let mut feed = TrialFeed { trial: self, filter, pieces: JournalPieces::default(), failed: None };
        let troubles = follower.read_all(&mut feed);
        if let Some(error) = feed.failed {
            return Err(error.into());
        }
        for (path, what) in troubles {
            eprintln!("not read: {}: {what}", path.display());
        }
        let left_out = status.damaged() + status.cut() + feed.pieces.take_cut();
        if left_out > 0 {
            eprintln!("damaged or cut entries: {left_out}");
        }
        Ok(())
    }
}

// === impl TrialFeed ===

impl<W: Write> TrialFeed<'_, '_, W> {
    fn look(&mut self, entry: &Entry) -> io::Result<()> {
        let (trial, filter) = (&mut *self.trial, &mut *self.filter);
        let carried = entry.carried().map(|carried| filter.find_carried(carried.text));
        let verdict = match carried {
            Some(LineOutcome::Missed) | None => filter.find_message(&entry.text),
            Some(verdict) => verdict,
        };
        if verdict == LineOutcome::Missed && trial.arguments.missed {
            return trial.missed(filter, &entry.text, trial.tally.lines);
        }
        trial.line(&entry.text, trial.tally.lines, verdict, Some((entry.time, "the journal's")))
    }
}

impl<W: Write> JournalSink for TrialFeed<'_, '_, W> {
    fn entry(&mut self, entry: Entry, _: JournalPosition) {
        if self.failed.is_some() {
            return;
        }
        self.trial.tally.lines += 1;
        if let Some(entry) = self.pieces.join(entry) {
            self.failed = self.look(&entry).err();
        }
    }

    fn passed(&mut self, _: JournalPosition) {}

    fn before(&mut self, _: &Entry, _: bool) {}

    fn forget(&mut self, _: &str) {}
}
