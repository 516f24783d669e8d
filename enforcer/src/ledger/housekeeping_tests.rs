//! What is over goes when it should, and no sooner.

use std::path::Path;
use std::time::Duration;

use atalaya_wire::Seconds;
use rusqlite::Connection;

use super::housekeeping::Housekeeping;
use super::scene::{at, ban_of, bans, name, open, written};
use super::{
    Ban, Change, GoodLogin, HistoryConfig, MOST_LOGINS, MOST_PROTECTED, ProtectedOffence, Selection, Terms,
    Which, file,
};
use crate::clock::Clock;
use crate::database;
use crate::desired::Labels;

const DAY: i64 = 86_400;

/// Bans that ended, one a day, each with so many bytes of evidence; and one that stands.
fn fill(folder: &Path, days: i64, evidence: usize) {
    let mut changes = Vec::new();
    for day in 0..days {
        let prefix = format!("10.{}.{}.1/32", day / 250, day % 250);
        let mut ban = ban_of(&prefix, Some(day * DAY));
        ban.evidence[0].text = "x".repeat(evidence);
        let prefix = ban.prefix;
        changes.push(Change::Ban(Box::new(ban)));
        changes.push(Change::End { prefix, at: at(day * DAY), by: "expired".to_owned() });
    }
    changes.push(Change::Ban(Box::new(ban_of("192.0.2.1/32", None))));
    written(folder, changes);
}

/// Keeps house until nothing is left to do, at so many days and an hour.
fn keep_house(folder: &Path, keep_days: u64, max_size: u64, now: i64) {
    let clock = Clock::system();
    clock.advance(at(now * DAY + 3600).duration_since(clock.now()));
    let history = HistoryConfig { keep: Seconds(keep_days * 86_400), max_size };
    let mut connection = database::open(&file::path(folder)).unwrap();
    let mut housekeeping = Housekeeping::new(&Terms { history, logins: None, clock });
    housekeeping.round(&mut connection);
}

fn count(folder: &Path, which: Which) -> usize {
    let (ledger, _, _writer) = open(folder);
    bans(&ledger, &Selection { which, ..Selection::default() }).len()
}

#[test]
fn bans_go_when_they_were_over_for_long_enough_and_those_that_stand_never_do() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 300, 10);
    // Ended on the days 0 to 299; it is day 299.
    for (keep, left) in [(365, 300), (100, 100), (60, 60)] {
        keep_house(folder.path(), keep, u64::MAX, 299);
        assert_eq!(count(folder.path(), Which::Over), left, "kept for {keep} days");
    }
    keep_house(folder.path(), 1, u64::MAX, 299);
    assert_eq!(count(folder.path(), Which::Over), 30, "those of the last 30 days are not remembered");
    assert_eq!(count(folder.path(), Which::Standing), 1);
}

#[test]
fn a_ledger_that_is_too_large_loses_the_oldest_of_what_is_over_and_its_file_shrinks() {
    const LIMIT: u64 = 1_500_000;
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 8000, 500);
    let size = || file::path(folder.path()).metadata().unwrap().len();
    assert!(size() > 3 * LIMIT, "{}", size());
    keep_house(folder.path(), 365 * 90, LIMIT, 8000);
    // Free pages that are kept for new bans come on top.
    assert!(size() < LIMIT + 256 * 4096 + LIMIT / 10, "{}", size());
    let (ledger, _, _writer) = open(folder.path());
    let over = bans(&ledger, &Selection { which: Which::Over, ..Selection::default() });
    assert!((500..3500).contains(&over.len()), "{} are left", over.len());
    let days = || over.iter().map(|ban| (ban.ended.unwrap() - at(0)).as_secs() / DAY);
    assert_eq!((days().min(), days().max()), (Some(8000 - over.len() as i64), Some(7999)));
    assert_eq!(bans(&ledger, &Selection::default()).len(), 1);
}

#[test]
fn logins_and_spared_offences_are_cut_to_their_bounds_and_the_latest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let address = |number: usize| std::net::IpAddr::from((number as u32).to_be_bytes());
    let login = |number: usize| GoodLogin {
        address: address(number),
        last: at(number as i64),
        sensor: name("web-1"),
        service: "sshd".to_owned(),
        account: "ana".to_owned(),
    };
    let spared = |number: usize| ProtectedOffence {
        address: address(number),
        jail: name("ssh"),
        sensor: name("web-1"),
        at: at(number as i64),
        why: String::new(),
        evidence: Vec::new(),
    };
    let logins = (0..MOST_LOGINS + 10).map(|number| Change::Login(login(number).into()));
    let spareds = (0..MOST_PROTECTED + 10).map(|number| Change::Protected(spared(number).into()));
    written(folder.path(), logins.chain(spareds).collect());
    keep_house(folder.path(), 365, u64::MAX, 0);
    let connection = Connection::open(file::path(folder.path())).unwrap();
    let range = |query: &str| -> (i64, i64) {
        connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    let (rows, oldest) = range("SELECT count(*), min(last) FROM logins");
    assert_eq!((rows as usize, oldest), (MOST_LOGINS, at(10).as_millisecond()));
    let (rows, oldest) = range("SELECT count(*), min(at) FROM spared");
    assert_eq!((rows as usize, oldest), (MOST_PROTECTED, at(10).as_millisecond()));
}

#[tokio::test]
async fn the_writer_keeps_house_while_new_bans_come_and_cuts_its_journal() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 300, 10);
    let clock = Clock::system();
    clock.advance(at(299 * DAY + 3600).duration_since(clock.now()));
    let history = HistoryConfig { keep: Seconds(100 * 86_400), max_size: u64::MAX };
    let terms = Terms { history, logins: None, clock: clock.clone() };
    let (ledger, _, _writer) = super::Ledger::open(folder.path(), &terms, &mut Labels::default()).unwrap();
    let selection = Selection { which: Which::Over, ..Selection::default() };
    let journal = folder.path().join("ledger.sqlite3-wal");
    let mut number = 0;
    let done = async {
        while bans(&ledger, &selection).len() > 100 {
            // Someone else's ban comes all the time.
            number += 1;
            let ban = Ban { since: clock.now(), ..ban_of(&format!("203.0.113.{}/32", number % 250), None) };
            ledger.write(vec![Change::Ban(Box::new(ban))]).committed().await.unwrap();
        }
        while journal.metadata().unwrap().len() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), done).await.expect("house is not kept");
    assert_eq!(bans(&ledger, &selection).len(), 100);
}
