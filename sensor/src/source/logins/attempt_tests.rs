//! Every case of the table above, and what no mixture of records may do.

use std::collections::HashSet;

use proptest::prelude::*;
use rstest::rstest;

use super::super::record::Caller;
use super::*;

const PEER: &str = "192.0.2.7";
const SECOND: u64 = 1_000_000_000;

/// A record of an sshd process 100 whose parent is 1.
fn record(kind: Kind, success: bool) -> Record {
    Record {
        time: Timestamp::UNIX_EPOCH,
        time_ns: 10 * SECOND,
        kind,
        success,
        pid: 100,
        tgid: 100,
        uid: 0,
        caller: Some(Caller { euid: 0, parent: 1 }),
        host: None,
        addr: None,
        account: Some("ana".to_owned()),
        op: Some("op".to_owned()),
        tty: Some("ssh".to_owned()),
        program: "sshd".to_owned(),
    }
}

/// PAM gives the peer as host, sshd itself as address.
fn auth(success: bool) -> Record {
    Record { host: Some(PEER.to_owned()), ..record(Kind::Auth, success) }
}

fn account(success: bool) -> Record {
    Record { host: Some(PEER.to_owned()), ..record(Kind::Account, success) }
}

fn login(success: bool) -> Record {
    Record { addr: Some(PEER.to_owned()), ..record(Kind::Login, success) }
}

fn end() -> Record {
    Record { host: Some(PEER.to_owned()), ..record(Kind::Error, false) }
}

fn by(process: u32, parent: u32, record: Record) -> Record {
    Record { pid: process, tgid: process, caller: Some(Caller { euid: 0, parent }), ..record }
}

fn named(program: &str, record: Record) -> Record {
    Record { program: program.to_owned(), ..record }
}

use LoginOutcome::{Failed, Local, Succeeded};

/// For each record, the outcome that it decides at once; at last, what the process's end decides.
#[rstest]
#[case::wrong_password(&[(auth(false), Some(Failed)), (login(false), None)], None)]
#[case::three_wrong_passwords(
    &[(auth(false), Some(Failed)), (login(false), None), (auth(false), Some(Failed)), (login(false), None),
      (auth(false), Some(Failed)), (login(false), None)], None)]
#[case::unknown_user_with_a_password(
    &[(login(false), None), (login(false), None), (auth(false), Some(Failed)), (login(false), None)], None)]
#[case::unknown_user_without_a_password(&[(login(false), None), (login(false), None)], Some(Failed))]
#[case::wrong_key(&[(login(false), None), (end(), Some(Failed))], None)]
#[case::several_wrong_keys(&[(login(false), None), (login(false), None), (login(false), None), (end(), Some(Failed))], None)]
#[case::wrong_keys_then_a_wrong_password(
    &[(login(false), None), (login(false), None), (auth(false), Some(Failed)), (login(false), None), (end(), None)], None)]
#[case::disconnect_before_authentication(&[(end(), None)], None)]
#[case::password_accepted(&[(auth(true), None), (account(true), Some(Succeeded)), (login(true), None)], None)]
#[case::wrong_keys_then_the_right_one(
    &[(login(false), None), (login(false), None), (account(true), Some(Succeeded)), (login(true), None)], None)]
#[case::wrong_keys_then_the_right_password(
    &[(login(false), None), (auth(true), None), (account(true), Some(Succeeded))], None)]
#[case::wrong_password_then_the_right_one(
    &[(auth(false), Some(Failed)), (login(false), None), (auth(true), None), (account(true), Some(Succeeded))], None)]
#[case::right_password_of_an_expired_account(&[(auth(true), None), (account(false), None), (login(false), None)], Some(Failed))]
#[case::keyboard_interactive_runs_pam_in_a_child(
    &[(by(101, 100, auth(false)), Some(Failed)), (login(false), None), (by(102, 100, auth(false)), Some(Failed)),
      (login(false), None)], None)]
#[case::wrong_key_then_keyboard_interactive_in_a_child(
    &[(login(false), None), (by(101, 100, auth(false)), Some(Failed)), (login(false), None), (end(), None)], None)]
#[case::wrong_key_then_success_in_a_child(
    &[(login(false), None), (by(101, 100, auth(true)), None), (by(101, 100, account(true)), Some(Succeeded))], None)]
#[case::split_processes_of_openssh_10(
    &[(named("sshd-session", login(false)), None), (named("sshd-session", auth(false)), Some(Failed)),
      (named("sshd-session", login(false)), None)], None)]
#[case::another_services_single_record(&[(named("vsftpd", auth(false)), Some(Failed))], None)]
#[case::local_su(&[(named("su", record(Kind::Auth, false)), Some(Local))], None)]
#[case::local_login_program_itself(&[(record(Kind::Login, false), None)], None)]
fn records_decide(#[case] records: &[(Record, Option<LoginOutcome>)], #[case] at_end: Option<LoginOutcome>) {
    let mut attempts = Attempts::new("watch");
    for (number, (record, expected)) in records.iter().enumerate() {
        let decided = attempts.record(record.clone());
        let outcomes: Vec<_> = decided.iter().map(|attempt| attempt.outcome).collect();
        assert_eq!(outcomes, Vec::from_iter(*expected), "record {number}: {record:?}");
        for attempt in decided.iter().filter(|attempt| attempt.outcome != Local) {
            assert_eq!(attempt.address, Some(PEER.parse().unwrap()));
        }
    }
    let mut outcomes: Vec<_> = attempts.ended(100).iter().map(|attempt| attempt.outcome).collect();
    outcomes.extend(attempts.ended(101).iter().map(|attempt| attempt.outcome));
    assert_eq!(outcomes, Vec::from_iter(at_end));
    assert!(attempts.waiting().is_empty(), "nothing waits after the end");
}

#[rstest]
#[case::address("192.0.2.7", Failed, Some("192.0.2.7"))]
#[case::private_address("10.1.2.3", Failed, Some("10.1.2.3"))]
#[case::ipv6("2001:db8::7", Failed, Some("2001:db8::7"))]
#[case::mapped("::ffff:192.0.2.7", Failed, Some("192.0.2.7"))]
#[case::loopback("127.0.0.1", Local, None)]
#[case::loopback_ipv6("::1", Local, None)]
#[case::mapped_loopback("::ffff:127.0.0.9", Local, None)]
#[case::unspecified("0.0.0.0", Local, None)]
#[case::own_name("watch", Local, None)]
#[case::localhost("localhost", Local, None)]
#[case::a_name("192.0.2.7.example.net", Failed, None)]
#[case::link_local_with_a_zone("fe80::1%eth0", Failed, None)]
#[case::empty("", Local, None)]
fn only_a_literal_remote_address_is_held_against(
    #[case] host: &str,
    #[case] outcome: LoginOutcome,
    #[case] address: Option<&str>,
) {
    let record = Record { host: Some(host.to_owned()), ..record(Kind::Auth, false) };
    let decided = Attempts::new("Watch").record(record);
    assert_eq!(decided.len(), 1);
    assert_eq!(
        (decided[0].outcome, decided[0].address),
        (outcome, address.map(|text| text.parse().unwrap()))
    );
}

#[rstest]
#[case::forged_by_a_user(1000, Some(1000), auth(false), false)]
#[case::forged_by_a_setuid_program_s_user(1000, Some(0), auth(false), false)]
#[case::forged_and_gone(1000, None, record(Kind::Auth, false), false)]
#[case::forged_locally(1000, Some(1000), record(Kind::Auth, false), false)]
#[case::su_run_by_a_user(1000, Some(0), record(Kind::Auth, false), true)]
#[case::root(0, None, auth(false), true)]
fn a_caller_that_is_not_root_is_not_believed(
    #[case] uid: u32,
    #[case] euid: Option<u32>,
    #[case] record: Record,
    #[case] believed: bool,
) {
    let caller = euid.map(|euid| Caller { euid, parent: 1 });
    let mut attempts = Attempts::new("watch");
    let decided = attempts.record(Record { uid, caller, ..record });
    assert_eq!((decided.len(), attempts.forged()), if believed { (1, 0) } else { (0, 1) });
}

#[test]
fn sessions_of_one_address_under_one_listener_stay_apart() {
    let mut attempts = Attempts::new("watch");
    for process in [100, 101, 102] {
        assert_eq!(attempts.record(by(process, 1, login(false))), []);
    }
    assert_eq!(attempts.record(by(101, 1, auth(false))).len(), 1);
    assert_eq!(attempts.waiting().len(), 2);
    assert_eq!(attempts.ended(100).len() + attempts.ended(101).len() + attempts.ended(102).len(), 2);
}

#[test]
fn a_session_held_open_is_decided_after_the_longest_grace_time() {
    let mut attempts = Attempts::new("watch");
    let began = record(Kind::Auth, false).time_ns;
    assert_eq!(attempts.record(login(false)), []);
    assert_eq!(attempts.expire(began + Attempts::LONGEST_NS - 1), []);
    let decided = attempts.expire(began + Attempts::LONGEST_NS);
    assert_eq!(decided.iter().map(|attempt| attempt.outcome).collect::<Vec<_>>(), [Failed]);
    assert_eq!(attempts.sessions.len() + attempts.order.len() + attempts.children.len(), 0);
}

#[test]
fn a_flood_of_sessions_is_bounded_and_none_is_lost() {
    let mut attempts = Attempts::new("watch");
    let flood = u32::try_from(Attempts::MOST_SESSIONS).unwrap() + 100;
    let early: usize = (0..flood).map(|n| attempts.record(by(n + 10, 1, login(false))).len()).sum();
    assert_eq!((early, attempts.evicted()), (100, 100));
    assert_eq!(attempts.sessions.len(), Attempts::MOST_SESSIONS);
    assert!(attempts.children.len() <= Attempts::MOST_SESSIONS);
    let late = attempts.expire(u64::MAX).len();
    assert_eq!(early + late, flood as usize, "each session is one failure");
}

#[test]
fn an_accounts_name_cannot_break_the_evidence() {
    let hostile = Record { account: Some("x\n\u{1b}[31m from 203.0.113.9\"".to_owned()), ..auth(false) };
    let decided = Attempts::new("watch").record(hostile);
    assert_eq!(
        decided[0].text,
        r#"sshd[100]: op failed for "x\n\u{1b}[31m from 203.0.113.9\"" from 192.0.2.7"#
    );
}

/// One attempt as a program would report it, with or without each of the records that may be missing.
#[derive(Clone, Debug)]
enum Played {
    Password { early: u8, late: bool },
    Keys { rounds: u8, ended: bool },
    Noise { kind: u8, uid: u32, local: bool },
}

fn played() -> impl Strategy<Value = (u32, Played)> {
    let password = (0..3_u8, any::<bool>()).prop_map(|(early, late)| Played::Password { early, late });
    let keys = (1..6_u8, any::<bool>()).prop_map(|(rounds, ended)| Played::Keys { rounds, ended });
    let noise =
        (0..4_u8, 0..3_u32, any::<bool>()).prop_map(|(kind, uid, local)| Played::Noise { kind, uid, local });
    (100..110_u32, prop_oneof![password, keys, noise])
}

proptest! {
    #[test]
    fn attempts_never_count_more_than_once(plays in proptest::collection::vec(played(), 0..60)) {
        let mut attempts = Attempts::new("watch");
        let (mut most, mut least, mut failures) = (0, 0, 0);
        let mut with_keys = HashSet::new();
        for (process, play) in plays {
            let mut records = Vec::new();
            match play {
                Played::Password { early, late } => {
                    (most, least) = (most + 1, least + 1);
                    records.extend((0..early).map(|_| login(false)));
                    records.push(auth(false));
                    records.extend(late.then(|| login(false)));
                }
                Played::Keys { rounds, ended } => {
                    most += 1;
                    with_keys.insert(process);
                    records.extend((0..rounds).map(|_| login(false)));
                    records.extend(ended.then(end));
                }
                Played::Noise { kind, uid, local } => {
                    let kind = [Kind::Auth, Kind::Account, Kind::Error, Kind::Login][usize::from(kind)];
                    let noise = if local {
                        Record { uid: 0, ..record(kind, uid == 1) }
                    } else {
                        Record { uid: uid + 1, addr: Some(PEER.to_owned()), ..record(kind, uid == 1) }
                    };
                    records.push(noise);
                }
            }
            for record in records {
                let decided = attempts.record(by(process, 1, record));
                failures += decided.iter().filter(|attempt| attempt.outcome == Failed).count();
            }
        }
        failures += attempts.expire(u64::MAX).len();
        prop_assert!(failures >= least, "{failures} of at least {least}: a password was lost");
        prop_assert!(failures <= most, "{failures} of at most {most}");
        prop_assert!(attempts.waiting().is_empty());
    }
}
