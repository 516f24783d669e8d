//! Prints of a whole list: when one is due, what its rows say, and what is gone by its end.

use std::collections::{BTreeMap, HashSet};

use super::{COMMENTS, Pipeline, Print, RIVALS, Table};
use crate::desired::Moment;
use crate::ledger::Lineage;
use crate::prefixes::Family;
use crate::router::actual::{Held, Owner};
use crate::router::order::{Shown, Unexplained};

impl Pipeline {
    /// The table to print now, if any and no print is running.
    pub fn print_due(&self) -> Option<Family> {
        self.wanted_print(self.due)
    }

    /// The table to print when there is time, if any and no print is running.
    pub fn learn_due(&self) -> Option<Family> {
        self.wanted_print(self.learn)
    }

    /// Takes in that a print was sent.
    pub fn print_begins(&mut self, family: Family, now: Moment) {
        self.due[family.index()] = false;
        self.learn[family.index()] = false;
        self.actual.begin_print();
        self.print = Some(Print {
            family,
            began: now,
            rows: 0,
            rivals: BTreeMap::new(),
            comments: COMMENTS,
            touched: HashSet::new(),
        });
    }

    /// Takes in that the print came to no end: it is due again.
    pub fn print_lost(&mut self) {
        if let Some(print) = self.print.take() {
            self.due[print.family.index()] = true;
        }
    }

    /// Takes in that the router refused the print, for now: it is due with [`Self::print_again`].
    pub fn print_refused(&mut self) {
        self.print = None;
    }

    /// Asks for a print of a table.
    pub fn print_again(&mut self, family: Family) {
        self.due[family.index()] |= matches!(self.tables[family.index()], Table::Known | Table::Unknown);
    }

    /// Counts an entry that the print told, whatever stands in it.
    pub fn listed(&mut self) {
        if let Some(print) = &mut self.print {
            print.rows += 1;
        }
    }

    /// Takes in a row of the print that is running.
    pub fn row(&mut self, shown: Shown, now: Moment) {
        let Some(print) = &mut self.print else { return };
        if let Some(rival) = shown.rival
            && (print.rivals.contains_key(&rival) || print.rivals.len() < RIVALS)
        {
            *print.rivals.entry(rival).or_default() += 1;
        }
        // Our own command is newer than the row, whose very entry may be gone.
        if print.touched.contains(&shown.prefix) {
            return;
        }
        let owner = if shown.comment.is_some() { Owner::Ours } else { Owner::Foreign };
        let slack = now.seconds_after(print.began).try_into().unwrap_or(u8::MAX);
        let expires = shown.timeout.map_or(Moment::FOREVER, |seconds| now.plus_seconds(seconds));
        let label = self.view.label(shown.prefix);
        let stale = match (&shown.comment, &label) {
            (Some(comment), Some(label)) if self.marks.lacks_only_lineage(comment, &label.comment) => {
                let again = print.comments > 0;
                print.comments = print.comments.saturating_sub(1);
                again
            }
            (Some(comment), Some(label)) => *comment != self.marks.comment(&label.comment),
            _ => false,
        };
        let disabled = shown.disabled;
        self.actual
            .insert(shown.prefix, Held { owner, slack, stale, disabled, ..Held::ours(expires, shown.id) });
        if let (true, None, Some(comment)) = (self.recovering, label, shown.comment) {
            let text = self.marks.text(&comment).to_owned();
            self.unexplained.push(Unexplained { prefix: shown.prefix, expires, text });
        }
    }

    /// Takes in the end of the print: what it did not show is gone, and everything is looked at.
    pub fn print_ends(&mut self) {
        let Some(Print { family, touched, rivals, .. }) = self.print.take() else { return };
        self.rivals[family.index()] = rivals;
        self.actual.finish_print(family, |prefix| touched.contains(prefix));
        self.tables[family.index()] = Table::Known;
        self.counts.prints += 1;
        self.covered.retain(|(_, prefix)| Family::of(*prefix) != family);
        self.behind.retain(|network, _| Family::of(*network) != family);
        self.queue_all(family);
    }

    /// How many entries of other ledgers there are under our mark, on each list as it was read last.
    pub fn rivals(&self, family: Family) -> &BTreeMap<Lineage, usize> {
        &self.rivals[family.index()]
    }

    /// How many entries the print that is running has told.
    pub fn rows(&self) -> usize {
        self.print.as_ref().map_or(0, |print| print.rows)
    }

    fn wanted_print(&self, wanted: [bool; 2]) -> Option<Family> {
        let wanted = [Family::V4, Family::V6].into_iter().find(|family| wanted[family.index()]);
        wanted.filter(|_| self.print.is_none())
    }
}
