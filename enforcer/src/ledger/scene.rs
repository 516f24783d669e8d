//! What the ledger's tests share.

use std::path::Path;

use atalaya_wire::{Evidence, Name};
use jiff::Timestamp;

use super::{Ban, Change, Ledger, LedgerError, Saved, Selection, Terms, Writer};
use crate::desired::{Labels, Origin};

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A ban of a prefix by `ssh` on `web-1` from second 0.
pub(super) fn ban_of(prefix: &str, until: Option<i64>) -> Ban {
    Ban {
        prefix: prefix.parse().unwrap(),
        since: at(0),
        until: until.map(at),
        origin: Origin::Sensor { jail: name("ssh"), sensor: name("web-1") },
        evidence: vec![Evidence::new(at(0), "test", "a line")],
        strikes: 0,
        ended: None,
        ended_by: None,
    }
}

pub(super) fn ban(host: u8, until: Option<i64>) -> Change {
    Change::Ban(Box::new(ban_of(&format!("192.0.2.{host}/32"), until)))
}

pub(super) fn bans(ledger: &Ledger, selection: &Selection) -> Vec<Ban> {
    let mut bans = Vec::new();
    let mut each = |ban: &Ban| {
        bans.push(ban.clone());
        true
    };
    ledger.each_ban(selection, at(1), &mut each).unwrap();
    bans
}

pub(super) fn open(folder: &Path) -> (Ledger, Saved, Writer) {
    try_open(folder).unwrap()
}

pub(super) fn try_open(folder: &Path) -> Result<(Ledger, Saved, Writer), LedgerError> {
    Ledger::open(folder, &Terms::default(), &mut Labels::default())
}

/// Writes changes and closes the ledger again.
pub(super) fn written(folder: &Path, changes: Vec<Change>) -> Saved {
    let (ledger, saved, writer) = open(folder);
    let receipt = ledger.write(changes);
    drop(ledger);
    writer.join();
    if let Some(mut answer) = receipt.0 {
        answer.try_recv().unwrap().unwrap();
    }
    saved
}
