//! What is written is there after a restart, once, and found again.

use super::scene::{at, ban, ban_of, bans, name, open, try_open};
use atalaya_wire::{Evidence, Seconds};

use super::*;
use crate::clock::Clock;
use crate::desired::Origin;
use crate::prefixes::Family;

#[tokio::test]
async fn what_was_committed_stands_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, first, writer) = open(folder.path());
    let through = Change::Through { sensor: name("web-1"), outbox: name("o"), sequence: 7 };
    ledger.write(vec![ban(1, Some(1800)), ban(2, None), through]).committed().await.unwrap();
    drop(ledger);
    writer.join();
    let (ledger, saved, _writer) = open(folder.path());
    assert_eq!(saved.id, first.id);
    assert_eq!(saved.bans.len(), 2);
    assert_eq!(saved.bans[0].1.until, at(1800).into());
    assert_eq!(saved.bans[1].1.label.comment, "ssh from web-1");
    assert_eq!(saved.through.values().collect::<Vec<_>>(), [&7]);
    assert_eq!(bans(&ledger, &Selection::default())[1].evidence[0].text, "a line");
    let only = Selection { address: Some("192.0.2.2/32".parse().unwrap()), ..Selection::default() };
    assert_eq!(bans(&ledger, &only).len(), 1);
    let none = Selection { jail: Some(name("ftp")), ..Selection::default() };
    assert!(bans(&ledger, &none).is_empty());
}

#[tokio::test]
async fn what_is_of_a_scan_is_so_after_a_restart_and_what_only_says_so_in_its_text_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _, writer) = open(folder.path());
    let evidence = |source: &str, text: &str| vec![Evidence::new(at(0), source, text)];
    let claims = evidence("auth.log", r#"x","source":"scan","text":""#);
    let bans = [("192.0.2.1/32", evidence(Evidence::SCAN, "ports")), ("192.0.2.2/32", claims)]
        .map(|(prefix, evidence)| Change::Ban(Box::new(Ban { evidence, ..ban_of(prefix, None) })));
    ledger.write(bans.into()).committed().await.unwrap();
    drop(ledger);
    writer.join();
    let (_ledger, saved, _writer) = open(folder.path());
    let scans: Vec<bool> = saved.bans.iter().map(|(_, ban)| ban.label.is_scan).collect();
    assert_eq!(scans, [true, false]);
}

#[tokio::test]
async fn a_ban_is_there_once_is_extended_and_counts_strikes_when_it_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _, _writer) = open(folder.path());
    ledger.write(vec![ban(1, Some(1800)), ban(1, Some(900)), ban(1, Some(3600))]).committed().await.unwrap();
    let extended = bans(&ledger, &Selection::default());
    assert_eq!((extended.len(), extended[0].until, extended[0].strikes), (1, Some(at(3600)), 1));
    let end = Change::End { prefix: extended[0].prefix, at: at(3600), by: "expired".to_owned() };
    ledger.write(vec![end.clone(), end, ban(1, None)]).committed().await.unwrap();
    let anew = bans(&ledger, &Selection::default());
    assert_eq!((anew.len(), anew[0].until, anew[0].strikes), (1, None, 2));
}

#[tokio::test]
async fn a_second_enforcer_on_the_same_state_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_ledger, _, _writer) = open(folder.path());
    let error = try_open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("another atalaya-enforcer"), "{error}");
}

#[tokio::test]
async fn earlier_bans_are_counted_by_jail_and_time_and_the_last_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _, _writer) = open(folder.path());
    let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
    let mut changes = Vec::new();
    for (jail, since, ended) in [("ssh", 0, 100), ("smtp", 200, 300), ("ssh", 400, 450)] {
        let ban = Ban {
            origin: Origin::Sensor { jail: name(jail), sensor: name("web-1") },
            since: at(since),
            ..ban_of("192.0.2.1/32", Some(1000))
        };
        changes.push(Change::Ban(Box::new(ban)));
        changes.push(Change::End { prefix, at: at(ended), by: "expired".to_owned() });
    }
    changes.push(ban(2, None));
    ledger.write(changes).committed().await.unwrap();
    for (jail, since, count, end) in [
        (None, 0, 3, Some(450)),
        (None, 1, 2, Some(450)),
        (Some("smtp"), 0, 1, Some(300)),
        (Some("ssh"), 401, 0, None),
    ] {
        let jail = jail.map(name);
        let earlier = ledger.earlier_bans(prefix, jail.as_ref(), at(since)).unwrap();
        let last_end = earlier.iter().filter_map(|ban| ban.end).max();
        assert_eq!((earlier.len(), last_end), (count, end.map(at)), "{jail:?} since {since}");
    }
    let permanent = ledger.earlier_bans("192.0.2.2/32".parse().unwrap(), None, at(0)).unwrap();
    assert_eq!(permanent, [EarlierBan { since: at(0), end: None }]);
}

#[tokio::test]
async fn what_stands_beside_the_bans_is_kept_replaced_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _, writer) = open(folder.path());
    let allowance = Allowance {
        what: "admin.example.org".to_owned(),
        since: at(0),
        until: Some(at(7200)),
        reason: "travel".to_owned(),
        by: "ana".to_owned(),
    };
    let longer = Allowance { until: None, ..allowance.clone() };
    let other = Allowance { what: "192.0.2.0/24".to_owned(), ..allowance.clone() };
    let login = |address: &str, last: i64| GoodLogin {
        address: address.parse().unwrap(),
        last: at(last),
        sensor: name("web-1"),
        service: "sshd".to_owned(),
        account: format!("at {last}"),
    };
    let spared = |second: i64| ProtectedOffence {
        address: "10.0.0.1".parse().unwrap(),
        jail: name("ssh"),
        sensor: name("web-1"),
        at: at(second),
        why: "logged in successfully".to_owned(),
        evidence: vec![Evidence::new(at(second), "test", "a line")],
    };
    let list = |list: &str| ListUse {
        router: name("edge"),
        family: Family::V6,
        list: list.to_owned(),
        mark: "atalaya".to_owned(),
    };
    let changes = vec![
        Change::Allow(allowance.into()),
        Change::Allow(longer.clone().into()),
        Change::Allow(other.into()),
        Change::Disallow { what: "192.0.2.0/24".to_owned() },
        Change::Login(login("10.0.0.1", 50).into()),
        Change::Login(login("10.0.0.1", 20).into()),
        Change::Login(login("::1", 5).into()),
        Change::Protected(spared(1).into()),
        Change::Protected(spared(2).into()),
        Change::Protected(spared(1).into()),
        Change::List(list("old").into()),
        Change::List(list("new").into()),
        Change::List(list("new").into()),
        Change::ForgetList(list("old").into()),
    ];
    ledger.write_surely(changes).committed().await.unwrap();
    assert_eq!(ledger.allowances().unwrap(), std::slice::from_ref(&longer));
    assert_eq!(ledger.login_of("10.0.0.1".parse().unwrap()).unwrap(), Some(login("10.0.0.1", 50)));
    assert_eq!(ledger.login_of("10.0.0.2".parse().unwrap()).unwrap(), None);
    assert_eq!(ledger.protected_offences(10).unwrap(), [spared(2), spared(1)]);
    assert_eq!(ledger.protected_offences(1).unwrap(), [spared(2)]);
    assert_eq!(ledger.lists().unwrap(), [list("new")]);
    drop(ledger);
    writer.join();

    let clock = Clock::system();
    clock.advance(at(100).duration_since(clock.now()));
    let terms = Terms { logins: Some(Seconds(60)), clock, ..Terms::default() };
    let (_ledger, saved, _writer) = Ledger::open(folder.path(), &terms, &mut Labels::default()).unwrap();
    assert_eq!(saved.allowances, [longer]);
    assert_eq!(saved.logins, [login("10.0.0.1", 50)], "one that is too old is read, or a young one is not");
}
