//! Files of all kinds where the ledger should be, each with a clear result.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::Connection;

use super::scene::{at, ban, ban_of, bans, name, open, try_open, written};
use super::{Change, Claim, LedgerError, Selection, Which, file};
use crate::desired::{Moment, Origin};
use crate::enrolment;

/// The ledger of the first release.
const FIRST: &str = "
    CREATE TABLE bans (
        id INTEGER PRIMARY KEY, prefix TEXT NOT NULL, list TEXT NOT NULL,
        since INTEGER NOT NULL, until INTEGER, jail TEXT NOT NULL, sensor TEXT NOT NULL,
        evidence TEXT NOT NULL, strikes INTEGER NOT NULL, ended INTEGER, ended_by TEXT);
    CREATE UNIQUE INDEX standing ON bans (prefix, list) WHERE ended IS NULL;
    CREATE INDEX history ON bans (prefix);
    CREATE TABLE intake (sensor TEXT NOT NULL, outbox TEXT NOT NULL, through INTEGER NOT NULL,
        PRIMARY KEY (sensor, outbox)) WITHOUT ROWID;
    CREATE TABLE sensors (name TEXT PRIMARY KEY, digest BLOB NOT NULL, enrolled INTEGER NOT NULL) WITHOUT ROWID;
    PRAGMA user_version = 1;
    INSERT INTO bans VALUES
        (1, '192.0.2.1/32', 'spammer', 1800000000000, 1800000600000, 'ssh', 'web-1', '[]', 1, 1800000600000, 'lapsed'),
        (2, '192.0.2.1/32', 'spammer', 1800000700000, NULL, 'ssh', 'web-1', '[]', 2, NULL, NULL),
        (3, '192.0.2.1/32', 'other', 1800000700000, 1800009000000, 'ssh', 'web-1', '[]', 2, NULL, NULL),
        (4, '2001:db8::/64', 'spammer', 1800000700000, 1800009000000, 'ssh', 'web-2', '[]', 1, NULL, NULL),
        (5, 'nonsense', 'spammer', 1800000700000, 1800009000000, 'ssh', 'web-2', '[]', 1, NULL, NULL);
    INSERT INTO intake VALUES ('web-1', 'o', 7);
    INSERT INTO sensors VALUES ('web-1', zeroblob(32), 1800000000000);
";

fn first(folder: &Path) {
    let connection = Connection::open(file::path(folder)).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute_batch(FIRST).unwrap();
    // What a killed process leaves: the rows are in the journal alone.
    let journal = fs::read(folder.join("ledger.sqlite3-wal")).unwrap();
    let database = fs::read(file::path(folder)).unwrap();
    drop(connection);
    fs::write(folder.join("ledger.sqlite3-wal"), journal).unwrap();
    fs::write(file::path(folder), database).unwrap();
}

/// A permanent ban of a network of its own.
fn numbered(number: usize) -> Change {
    let prefix = format!("10.{}.{}.0/24", number / 200, number % 200);
    Change::Ban(Box::new(ban_of(&prefix, None)))
}

/// The names in a folder that begin so.
fn names(folder: &Path, beginning: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(beginning))
        .collect();
    names.sort();
    names
}

#[test]
fn a_ledger_of_the_first_release_is_brought_forward_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    first(folder.path());
    let (ledger, saved, _writer) = open(folder.path());
    assert!(!saved.recovering);
    assert_eq!(saved.bans.len(), 2);
    assert_eq!(saved.through[&(name("web-1"), name("o"))], 7);
    let standing = bans(&ledger, &Selection::default());
    assert_eq!(standing[1].until, None, "of two lists, the ban that lasts longer stands");
    assert_eq!((standing[1].prefix.to_string().as_str(), standing[1].strikes), ("192.0.2.1/32", 2));
    let over = bans(&ledger, &Selection { which: Which::Over, ..Selection::default() });
    assert_eq!(over.len(), 2);
    let lapsed = over.iter().find(|ban| ban.ended == Some(at(600))).unwrap();
    assert_eq!(lapsed.ended_by.as_deref(), Some("expired"));
    assert_eq!(enrolment::sensors(folder.path()).unwrap()[0].name, name("web-1"));

    let vacuum: i64 = Connection::open(file::path(folder.path()))
        .unwrap()
        .pragma_query_value(None, "auto_vacuum", |row| row.get(0))
        .unwrap();
    assert_eq!(vacuum, 2, "incremental");
    assert_eq!(names(folder.path(), "ledger.sqlite3.")[..], ["ledger.sqlite3.v1"]);
    let kept = Connection::open(folder.path().join("ledger.sqlite3.v1")).unwrap();
    let rows: i64 = kept.query_row("SELECT count(*) FROM bans", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 5, "the copy lacks what was in the journal");
}

#[test]
fn sensors_enrol_before_the_first_start_of_a_new_release_and_are_not_taken_over_twice() {
    let folder = tempfile::tempdir().unwrap();
    first(folder.path());
    assert_eq!(enrolment::sensors(folder.path()).unwrap().len(), 1);
    enrolment::revoke(folder.path(), &name("web-1")).unwrap();
    open(folder.path());
    assert!(enrolment::sensors(folder.path()).unwrap().is_empty(), "a revoked sensor is back");
}

#[test]
fn a_migration_that_was_killed_after_any_step_is_done_by_the_next_start() {
    for step in ["half a new file", "a second name", "a second name of another file"] {
        let folder = tempfile::tempdir().unwrap();
        first(folder.path());
        let copy = folder.path().join("ledger.sqlite3.v1");
        match step {
            "half a new file" => fs::write(folder.path().join("ledger.sqlite3.new"), [7; 10_000]).unwrap(),
            "a second name" => fs::hard_link(file::path(folder.path()), &copy).unwrap(),
            _ => fs::write(&copy, "of an earlier migration").unwrap(),
        }
        let (_ledger, saved, _writer) = open(folder.path());
        assert_eq!(saved.bans.len(), 2, "after {step}");
        let kept = names(folder.path(), "ledger.sqlite3.v1");
        assert_eq!(kept.len(), if step.ends_with("another file") { 2 } else { 1 }, "after {step}: {kept:?}");
    }
}

#[test]
fn what_is_no_database_or_cut_off_is_set_aside_and_a_new_ledger_is_gathered() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 4] = [
        ("not a database", |path| fs::write(path, "precious notes\n".repeat(1000)).unwrap()),
        ("a zeroed header", |path| {
            File::options().write(true).open(path).unwrap().write_all_at(&[0; 100], 0).unwrap();
        }),
        ("cut in the middle", |path| {
            let length = fs::metadata(path).unwrap().len();
            File::options().write(true).open(path).unwrap().set_len(length / 2).unwrap();
        }),
        ("cut to a broken page", |path| {
            File::options().write(true).open(path).unwrap().set_len(5000).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let folder = tempfile::tempdir().unwrap();
        let before = written(folder.path(), (0..1000).map(numbered).collect());
        harm(&file::path(folder.path()));
        let harmed = fs::read(file::path(folder.path())).unwrap();
        let (ledger, saved, writer) = open(folder.path());
        assert!(saved.recovering && saved.id != before.id, "{what}");
        let mut aside = names(folder.path(), "ledger.sqlite3.damaged-");
        aside.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
        assert_eq!(aside.len(), 1, "{what}");
        assert_eq!(fs::read(folder.path().join(&aside[0])).unwrap(), harmed, "{what}");
        if what == "cut in the middle" {
            assert!(saved.bans.len() > 300, "{} of 1000 bans could be read of half a file", saved.bans.len());
        }

        // It is gathered until it is said to be complete.
        drop(ledger);
        writer.join();
        assert!(written(folder.path(), vec![Change::Recovered]).recovering, "{what}");
        let (_ledger, again, _writer) = open(folder.path());
        assert!(!again.recovering && again.id == saved.id, "{what}");
    }
}

#[test]
fn a_ledger_that_is_gone_or_empty_is_noticed_and_the_first_start_of_all_is_not_a_loss() {
    for left in [None, Some(""), Some("few bytes")] {
        let folder = tempfile::tempdir().unwrap();
        assert!(!written(folder.path(), vec![ban(1, None)]).recovering);
        fs::remove_file(file::path(folder.path())).unwrap();
        if let Some(left) = left {
            fs::write(file::path(folder.path()), left).unwrap();
        }
        let (_ledger, saved, _writer) = open(folder.path());
        assert!(saved.recovering && saved.bans.is_empty());
    }
}

#[test]
fn of_a_ledger_with_an_overwritten_page_everything_else_is_kept() {
    const BANS: usize = 800;
    let whole = tempfile::tempdir().unwrap();
    let mut changes: Vec<Change> = (0..BANS).map(numbered).collect();
    for number in 0..BANS {
        let Change::Ban(ban) = numbered(number) else { continue };
        let origin = Origin::Sensor { jail: name("ssh"), sensor: name("web-2") };
        changes.push(Change::Claim(Box::new(Claim { prefix: ban.prefix, origin, until: Moment::FOREVER })));
    }
    changes.push(Change::Through { sensor: name("web-1"), outbox: name("o"), sequence: 7 });
    let before = written(whole.path(), changes);
    let sound = fs::read(file::path(whole.path())).unwrap();
    let pages = sound.len() / 4096;
    let mut random = fastrand::Rng::with_seed(7);
    let mut met = 0;
    for page in (1..pages).step_by(pages / 25) {
        let folder = tempfile::tempdir().unwrap();
        let mut harmed = sound.clone();
        random.fill(&mut harmed[page * 4096..][..4096]);
        fs::write(file::path(folder.path()), &harmed).unwrap();
        let (_ledger, saved, writer) = open(folder.path());
        // Inner pages of tables lead to hundreds of others.
        let inner = sound[page * 4096] == 5;
        if !inner {
            assert!(saved.bans.len() + 60 >= BANS, "page {page}: only {} bans are left", saved.bans.len());
            let claims = saved.claims.len();
            assert!(
                claims + 120 >= BANS,
                "page {page}: it is known of {claims} bans alone who else asked for them"
            );
        }
        let set_aside = !names(folder.path(), "ledger.sqlite3.damaged-").is_empty();
        assert_eq!((saved.recovering, saved.id != before.id), (set_aside, set_aside), "page {page}");
        assert!(set_aside || saved.bans.len() == BANS, "page {page}: bans are lost in silence");
        met += usize::from(set_aside);
        drop(writer);
    }
    assert!(met > 15, "the damage was met {met} times of 25");
}

#[test]
fn what_cannot_be_a_ledger_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = file::path(folder.path());
    fs::create_dir(&path).unwrap();
    let error = try_open(folder.path()).unwrap_err();
    assert!(matches!(error, LedgerError::File { .. }), "{error}");
    assert!(error.to_string().contains("it is no file"), "{error}");
    fs::remove_dir(&path).unwrap();

    Connection::open(&path).unwrap().execute_batch("CREATE TABLE recipes (name)").unwrap();
    let error = try_open(folder.path()).unwrap_err();
    assert!(matches!(error, LedgerError::Foreign { .. }), "{error}");
    fs::remove_file(&path).unwrap();

    written(folder.path(), Vec::new());
    let later = "UPDATE meta SET value = '9.8.7' WHERE key = 'release'; PRAGMA user_version = 99";
    Connection::open(&path).unwrap().execute_batch(later).unwrap();
    let error = try_open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("written by release 9.8.7 (format 99; "), "{error}");
    assert!(names(folder.path(), "ledger.sqlite3.damaged-").is_empty());
}

#[test]
fn whoever_is_killed_between_making_the_file_and_its_tables_has_lost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    crate::database::open(&file::path(folder.path())).unwrap();
    let (_ledger, saved, _writer) = open(folder.path());
    assert!(!saved.recovering && saved.bans.is_empty());
}

#[tokio::test]
async fn damage_that_is_met_while_writing_is_told_and_nothing_is_acked() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), (0..1000).map(numbered).collect());
    let (ledger, _, writer) = open(folder.path());
    let path = file::path(folder.path());
    let pages = fs::metadata(&path).unwrap().len() / 4096;
    let garbage = File::options().write(true).open(&path).unwrap();
    for page in 24..pages {
        garbage.write_all_at(&[7; 4096], page * 4096).unwrap();
    }
    // Another one's write makes the writer read anew.
    Connection::open(&path).unwrap().execute_batch("INSERT INTO meta VALUES ('a', 'b')").unwrap();
    let mut failure = None;
    for number in 2000..2050 {
        let written = ledger.write(vec![numbered(number)]).committed().await;
        if let Err(error) = written {
            failure = Some(error.to_string());
            break;
        }
    }
    let failure = failure.expect("the damage is not met");
    assert!(failure.contains("it is damaged") && failure.contains("restart"), "{failure}");
    assert!(ledger.trouble().unwrap().contains("it is damaged"));
    drop(ledger);
    writer.join();
    let (_ledger, saved, _writer) = open(folder.path());
    assert!(saved.recovering);
}

#[test]
fn damage_that_was_found_while_running_is_acted_on_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let before = written(folder.path(), (0..100).map(numbered).collect());
    enrolment::note_damage(folder.path(), Some("found")).unwrap();
    let after = written(folder.path(), Vec::new());
    assert!(after.recovering && after.id != before.id);
    assert_eq!(after.bans.len(), 100, "what can be read is lost");
    let again = written(folder.path(), vec![Change::Recovered]);
    assert_eq!(again.id, after.id, "the damage is remembered for ever");
}
