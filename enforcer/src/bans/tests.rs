use atalaya_wire::{BanTime, Seconds};

use super::allow::AllowError;
use super::*;
use crate::bans::allow::AllowConfig;
use crate::desired::Label;
use crate::ledger::{Selection, Terms, Writer};

struct Scene {
    bans: Bans,
    desired: Arc<Desired>,
    ledger: Ledger,
    _writer: Writer,
    _folder: tempfile::TempDir,
}

fn scene(saved: &[(&str, Option<i64>)], allow: &str) -> Scene {
    scene_with(saved, allow, |_| {})
}

fn scene_with(saved: &[(&str, Option<i64>)], allow: &str, change: impl FnOnce(&mut Rules)) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _, writer) = Ledger::open(folder.path(), &Terms::default(), &mut Labels::default()).unwrap();
    let desired = Arc::new(Desired::new());
    let networks: Networks = [allow.parse().unwrap()].into_iter().collect();
    let allow = Allow::new(AllowConfig { networks, ..AllowConfig::default() }, Vec::new());
    let mut rules = Rules::default();
    change(&mut rules);
    let saved = saved
        .iter()
        .map(|(prefix, until)| {
            (net(prefix), Wanted { until: until.map(at).into(), label: Label::test("saved") })
        })
        .collect();
    let bans = Bans::new(rules, ledger.clone(), desired.clone(), allow, saved, Vec::new(), at(0));
    Scene { bans, desired, ledger, _writer: writer, _folder: folder }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn offence(sequence: u64, address: &str, second: i64) -> NumberedOffence {
    let offence = Offence {
        jail: "ssh".parse().unwrap(),
        address: address.parse().unwrap(),
        time: at(second),
        failures: 3,
        bantime: BanTime::For(Seconds(1800)),
        escalation: None,
        evidence: Vec::new(),
    };
    NumberedOffence { sequence, offence }
}

impl Scene {
    fn take(&self, offence: NumberedOffence, now: i64) -> Receipt {
        let (sensor, outbox) = ("web-1".parse().unwrap(), "o".parse().unwrap());
        self.bans.take(&sensor, (&outbox, offence.sequence), vec![offence], &Earlier::default(), at(now))
    }

    /// As [`Self::take`], of a ban that grows with earlier ones.
    async fn take_growing(&self, sensor: &str, offence: NumberedOffence, now: i64) -> Receipt {
        let (sensor, outbox) = (sensor.parse().unwrap(), "o".parse().unwrap());
        let sequence = offence.sequence;
        let offences = vec![offence];
        let earlier = self.bans.earlier(&offences, at(now)).await;
        self.bans.take(&sensor, (&outbox, sequence), offences, &earlier, at(now))
    }

    fn allow(&self, what: &str, until: Option<i64>, now: i64) -> usize {
        self.bans.allow_at_run_time(what, until.map(at), "why", "me", at(now)).unwrap().effect.lifted
    }

    /// What routers are to hold, by address.
    fn wanted(&self) -> Vec<String> {
        let mut wanted: Vec<IpNet> = Vec::new();
        self.desired.each(|prefix, _, _| wanted.push(prefix));
        wanted.sort();
        wanted.iter().map(ToString::to_string).collect()
    }

    fn login(&self, address: &str, second: i64) {
        let login = GoodLogin {
            address: address.parse().unwrap(),
            last: at(second),
            sensor: "web-1".parse().unwrap(),
            service: "sshd".to_owned(),
            account: "ann".to_owned(),
        };
        self.bans.note_login(login, at(second));
    }

    fn until(&self, prefix: &str) -> Option<Timestamp> {
        self.desired.get(net(prefix)).and_then(|wanted| wanted.until.timestamp())
    }

    fn in_ledger(&self, now: i64) -> Vec<(IpNet, u32)> {
        let mut bans = Vec::new();
        self.ledger
            .each_ban(&Selection::default(), at(now), &mut |ban| {
                bans.push((ban.prefix, ban.strikes));
                true
            })
            .unwrap();
        bans
    }
}

#[tokio::test]
async fn a_ban_grows_with_those_before_it_of_its_own_jail_or_of_all() {
    let scene = scene(&[], "10.0.0.0/8");
    let name = |text: &str| text.parse::<Name>().unwrap();
    let mut sequence = 0;
    let mut ban = |jail: &str, second: i64, overall: bool| {
        sequence += 1;
        let mut numbered = offence(sequence, "192.0.2.1", second);
        numbered.offence.jail = name(jail);
        numbered.offence.bantime = BanTime::For(Seconds(600));
        numbered.offence.escalation = Some(Escalation {
            thousandths: vec![1000, 2000, 4000],
            max: None,
            random: None,
            overall,
            decay: None,
        });
        scene.take_growing("web", numbered, second)
    };
    let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
    let left = |second: i64| {
        scene.bans.lock().standing(prefix).unwrap().timestamp().unwrap().duration_since(at(second)).as_secs()
    };
    for (jail, second, overall, expected) in [
        ("a", 0, false, 600),
        ("a", 1000, false, 1200),
        ("b", 3000, false, 600),
        ("b", 4000, true, 2400),
        ("a", 7000, false, 2400),
        // Long ago is forgotten.
        ("a", 4_000_000, false, 600),
    ] {
        scene.bans.expire(at(second));
        ban(jail, second, overall).await.committed().await.unwrap();
        assert_eq!(left(second), expected, "{jail} at {second}");
    }
}

#[tokio::test]
async fn routers_know_of_a_ban_before_the_ledger_has_it() {
    let scene = scene(&[], "10.0.0.0/8");
    let receipt = scene.take(offence(1, "::ffff:192.0.2.1", 0), 5);
    assert_eq!(scene.until("192.0.2.1/32"), Some(at(1800)));
    receipt.committed().await.unwrap();
    assert_eq!(scene.in_ledger(5), [(net("192.0.2.1/32"), 1)]);
    let label = scene.desired.get(net("192.0.2.1/32")).unwrap().label;
    assert_eq!(label.comment, "ssh from web-1");
}

#[tokio::test]
async fn an_extended_ban_expires_at_its_later_end_and_then_bans_again_with_the_next_strike() {
    let scene = scene(&[], "10.0.0.0/8");
    scene.take(offence(1, "192.0.2.1", 0), 0).committed().await.unwrap();
    scene.take(offence(2, "192.0.2.1", 600), 600).committed().await.unwrap();
    assert_eq!(scene.until("192.0.2.1/32"), Some(at(2400)));
    assert_eq!(scene.bans.expire(at(1800)), 0);
    assert_eq!(scene.bans.expire(at(2399)), 0);
    assert_eq!(scene.bans.expire(at(2400)), 1);
    assert!(scene.bans.is_empty());
    scene.take(offence(3, "192.0.2.1", 2400), 2400).committed().await.unwrap();
    assert_eq!(scene.in_ledger(2400), [(net("192.0.2.1/32"), 2)]);
    let counts = scene.bans.counts();
    assert_eq!((counts.banned, counts.extended, counts.expired), (2, 1, 1));
}

#[tokio::test]
async fn what_is_over_or_allowed_does_not_stand_after_a_start() {
    let saved = [
        ("192.0.2.1/32", Some(10)),
        ("192.0.2.2/32", Some(-1)),
        ("10.1.0.0/16", None),
        ("2001:db8::/64", None),
    ];
    let scene = scene(&saved, "10.0.0.0/8");
    assert_eq!(scene.bans.len(), 2);
    assert!(scene.desired.get(net("2001:db8::/64")).is_some() && scene.until("192.0.2.1/32") == Some(at(10)));
}

#[tokio::test]
async fn a_ban_by_hand_is_refused_for_allowed_networks_and_never_shortens() {
    let scene = scene(&[], "10.0.0.0/8");
    let ban = |prefix: &str, seconds| {
        scene.bans.ban(net(prefix), BanTime::For(Seconds(seconds)), "why", false, at(0))
    };
    assert!(matches!(ban("10.1.2.3/32", 60), Err(HandError::Allowed { .. })));
    assert!(matches!(ban("0.0.0.0/0", 60), Err(HandError::Allowed { .. })));
    assert!(matches!(ban("192.0.2.1/32", 0), Err(HandError::NoTime)));
    assert!(ban("192.0.2.7/24", 60).unwrap().changed);
    let shorter = ban("192.0.2.0/24", 30).unwrap();
    assert!(!shorter.changed && shorter.until == Some(at(60)));
    let receipt = scene.bans.unban(net("192.0.2.0/24"), "by hand", at(1)).unwrap();
    receipt.committed().await.unwrap();
    assert!(scene.bans.is_empty() && scene.in_ledger(1).is_empty());
    assert!(scene.bans.unban(net("192.0.2.0/24"), "by hand", at(1)).is_none());
}

#[tokio::test]
async fn an_address_that_becomes_allowed_is_unbanned_and_a_network_around_it_spares_it() {
    let scene =
        scene(&[("192.0.2.1/32", None), ("198.51.100.0/24", None), ("203.0.113.1/32", None)], "10.0.0.0/8");
    assert_eq!(scene.allow("192.0.2.1", None, 0), 1);
    assert_eq!(scene.allow("198.51.100.9", None, 0), 0);
    assert_eq!(scene.wanted().len(), 8 + 1);
    assert_eq!(scene.allow("198.18.0.0/15", None, 0), 0);
    assert_eq!(scene.allow("198.51.0.0/16", None, 0), 1);
    assert_eq!(scene.bans.len(), 1);
    assert!(scene.desired.get(net("203.0.113.1/32")).is_some());
}

#[test]
fn lifting_and_banning_over_and_over_does_not_pile_up() {
    let scene = scene(&[], "10.0.0.0/8");
    for round in 0..5000 {
        scene.bans.ban(net("192.0.2.1/32"), BanTime::For(Seconds(60)), "", false, at(round)).unwrap();
        scene.bans.unban(net("192.0.2.1/32"), "by hand", at(round)).unwrap();
    }
    assert!(scene.bans.lock().ends.len() <= 1001);
}

fn narrow(threshold: usize) -> impl FnOnce(&mut Rules) {
    move |rules| rules.widen.ipv4 = Some(threshold)
}

#[tokio::test]
async fn many_bans_of_one_network_are_one_entry_and_the_ledger_keeps_each() {
    let scene = scene_with(&[], "10.0.0.0/8", narrow(3));
    for host in 1..=4 {
        scene.take(offence(host, &format!("192.0.2.{host}"), 0), 0).committed().await.unwrap();
    }
    assert_eq!(scene.wanted(), ["192.0.2.0/24"]);
    assert_eq!((scene.bans.len(), scene.in_ledger(0).len(), scene.bans.widened()), (4, 4, 1));
    // One of them again: its ban is extended, as it would be alone.
    scene.take(offence(5, "192.0.2.1", 60), 60).committed().await.unwrap();
    assert_eq!(scene.bans.counts().extended, 1);
    assert_eq!(scene.bans.expire(at(1800)), 3);
    assert_eq!((scene.bans.len(), scene.until("192.0.2.0/24")), (1, Some(at(1860))));
    assert_eq!(scene.bans.expire(at(1860)), 1);
    assert_eq!((scene.wanted().len(), scene.bans.widened()), (0, 0));
}

#[tokio::test]
async fn an_address_that_someone_unbans_is_not_covered_for_an_hour_unless_it_offends_again() {
    let scene = scene_with(&[], "10.0.0.0/8", narrow(2));
    for host in 1..=4 {
        drop(scene.take(offence(host, &format!("192.0.2.{host}"), 0), 0));
    }
    assert_eq!(scene.wanted(), ["192.0.2.0/24"]);
    assert!(scene.bans.unban(net("192.0.2.2/32"), "by hand", at(1)).is_some());
    assert_eq!(scene.wanted(), ["192.0.2.1/32", "192.0.2.3/32", "192.0.2.4/32"]);
    scene.take(offence(5, "192.0.2.5", 2), 2).committed().await.unwrap();
    assert_eq!(scene.wanted().len(), 4);
    drop(scene.take(offence(6, "192.0.2.2", 3), 3));
    assert_eq!(scene.wanted(), ["192.0.2.0/24"]);
    // One that was never banned itself, and is covered all the same.
    assert!(scene.bans.unban(net("192.0.2.77/32"), "by hand", at(4)).is_some());
    assert_eq!((scene.wanted().len(), scene.bans.len()), (5, 5));
    assert!(scene.bans.unban(net("192.0.2.77/32"), "by hand", at(4)).is_none());
    let mut long = offence(7, "192.0.2.6", 1000);
    long.offence.bantime = BanTime::Permanent;
    drop(scene.take(long.clone(), 1000));
    long.offence.address = "192.0.2.7".parse().unwrap();
    drop(scene.take(long, 1000));
    scene.bans.expire(at(3603));
    assert_eq!(scene.wanted(), ["192.0.2.6/32", "192.0.2.7/32"]);
    scene.bans.expire(at(3604));
    assert_eq!(scene.wanted(), ["192.0.2.0/24"]);
}

#[tokio::test]
async fn no_network_is_widened_over_an_allowed_address_and_it_is_when_that_goes() {
    let scene = scene_with(&[], "192.0.2.9/32", narrow(2));
    let ban = |host: u64| drop(scene.take(offence(host, &format!("192.0.2.{host}"), 0), 0));
    (1..=3).for_each(ban);
    assert_eq!(scene.wanted().len(), 3);
    let other = |host: u64| drop(scene.take(offence(host + 100, &format!("198.51.100.{host}"), 0), 0));
    (1..=3).for_each(other);
    assert_eq!(scene.wanted().len(), 4);
    assert_eq!(scene.allow("198.51.100.1", Some(100), 0), 1);
    assert_eq!(scene.wanted().len(), 5);
    assert!(scene.bans.allow().contains("198.51.100.1".parse().unwrap()));
    // An entry's time is over.
    scene.bans.expire(at(99));
    assert_eq!(scene.wanted().len(), 5);
    scene.bans.expire(at(100));
    assert!(!scene.bans.allow().contains("198.51.100.1".parse().unwrap()));
    assert_eq!(scene.wanted().len(), 4);
    assert!(scene.bans.allowances().is_empty() && scene.ledger.allowances().unwrap().is_empty());
    assert!(matches!(scene.bans.disallow("192.0.2.9", at(100)), Err(AllowError::Configured(_))));
}

#[tokio::test]
async fn who_logged_in_well_is_spared_listed_and_covered_by_no_network() {
    let scene = scene_with(&[], "192.0.2.9/32", narrow(2));
    scene.login("10.0.0.7", 0);
    scene.take(offence(1, "10.0.0.7", 5), 5).committed().await.unwrap();
    assert!(scene.bans.is_empty());
    assert_eq!((scene.bans.counts().protected, scene.bans.protected()), (1, 1));
    let spared = scene.bans.protected_offences(10).unwrap();
    assert_eq!(spared.len(), 1);
    assert_eq!(spared[0].address, "10.0.0.7".parse::<IpAddr>().unwrap());
    assert!(spared[0].why.contains("ann logged in on web-1 by sshd"), "{}", spared[0].why);
    for host in 1..=3 {
        drop(scene.take(offence(1 + host, &format!("10.0.0.{host}"), 5), 5));
    }
    assert_eq!(scene.wanted(), ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"]);
    let by_hand = |prefix: &str, force| {
        scene.bans.ban(net(prefix), BanTime::For(Seconds(60)), "", force, at(6)).map(|done| done.changed)
    };
    for prefix in ["10.0.0.7/32", "10.0.0.0/24"] {
        let refusal = by_hand(prefix, false).unwrap_err().to_string();
        assert!(refusal.contains("ann") && refusal.contains("--force"), "{refusal}");
    }
    assert!(by_hand("10.0.0.7/32", true).unwrap());
    // A login makes a network narrow that was wide.
    for host in 1..=3 {
        drop(scene.take(offence(10 + host, &format!("10.0.1.{host}"), 7), 7));
    }
    assert!(scene.wanted().contains(&"10.0.1.0/24".to_owned()));
    scene.login("10.0.1.9", 8);
    assert!(!scene.wanted().contains(&"10.0.1.0/24".to_owned()));
}

#[tokio::test]
async fn an_ipv6_offender_is_its_64_unless_someone_else_of_it_is_to_be_kept() {
    let scene = scene(&[], "2001:db8:1::1/128");
    for (sequence, address) in
        [(1, "2001:db8::1"), (2, "2001:db8::2"), (3, "2001:db8:1::2"), (4, "2001:db8:1::1")]
    {
        scene.take(offence(sequence, address, 0), 0).committed().await.unwrap();
    }
    assert_eq!(scene.wanted(), ["2001:db8::/64", "2001:db8:1::2/128"]);
    let counts = scene.bans.counts();
    assert_eq!((counts.banned, counts.already_banned, counts.allowed), (2, 1, 1));
    // Lifted by one of its addresses; strikes are the unit's.
    assert!(scene.bans.unban(net("2001:db8::99/128"), "by hand", at(1)).is_some());
    scene.take(offence(5, "2001:db8::3", 2), 2).committed().await.unwrap();
    assert_eq!(scene.in_ledger(2)[0], (net("2001:db8::/64"), 2));
    // Someone else of it is allowed later: the ban stands around that one.
    assert_eq!(scene.allow("2001:db8::5", None, 3), 0);
    let wanted = scene.wanted();
    assert!(wanted.len() == 64 + 1 && wanted.contains(&"2001:db8::4/128".to_owned()), "{wanted:?}");
    assert!(scene.bans.unban(net("2001:db8::5/128"), "by hand", at(4)).is_none());
    assert!(scene.bans.unban(net("2001:db8::3/128"), "by hand", at(4)).is_some());
    assert_eq!(scene.wanted(), ["2001:db8:1::2/128"]);
}

#[tokio::test]
async fn offences_that_say_nothing_of_it_grow_as_configured_and_quiet_time_is_forgiven() {
    let escalation = Escalation {
        thousandths: vec![1000, 2000, 4000],
        max: None,
        random: None,
        overall: true,
        decay: Some(Seconds(10_000)),
    };
    let scene = scene_with(&[], "10.0.0.0/8", |rules| rules.escalation = Some(escalation));
    let mut sequence = 0;
    for (jail, second, expected) in [
        ("a", 0, 1800),
        ("b", 2000, 3600),
        ("a", 6000, 7200),
        ("a", 13_200 + 10_000, 7200),
        ("a", 30_400 + 40_000, 1800),
    ] {
        scene.bans.expire(at(second));
        sequence += 1;
        let mut one = offence(sequence, "192.0.2.1", second);
        one.offence.jail = jail.parse().unwrap();
        let receipt = scene.take_growing(&format!("web-{sequence}"), one, second).await;
        receipt.committed().await.unwrap();
        let left = scene.until("192.0.2.1/32").unwrap().duration_since(at(second)).as_secs();
        assert_eq!(left, expected, "{jail} at {second}");
    }
}

#[tokio::test]
async fn what_a_router_holds_is_taken_over_unless_it_is_allowed_protected_or_known() {
    let scene = scene(&[("192.0.2.1/32", Some(10))], "198.51.100.0/24");
    scene.login("10.0.0.7", 0);
    let name = |text: &str| text.parse::<Name>().unwrap();
    let adopt = |prefix: &str, until| {
        let origin = Origin::Sensor { jail: name("ssh"), sensor: name("web-1") };
        scene.bans.adopt(net(prefix), Moment::from(until), origin, &name("edge"), at(0))
    };
    assert!(adopt("203.0.113.7/32", Some(at(600))));
    for (prefix, until) in [
        ("203.0.113.7/32", Some(at(900))),
        ("192.0.2.1/32", None),
        ("198.51.100.7/32", None),
        ("10.0.0.0/24", None),
        ("203.0.113.8/32", Some(at(0))),
    ] {
        assert!(!adopt(prefix, until), "{prefix}");
    }
    assert_eq!((scene.bans.counts().adopted, scene.until("203.0.113.7/32")), (1, Some(at(600))));
    drop(scene.bans.unban(net("192.0.2.1/32"), "test", at(0)).unwrap());
    scene.take(offence(1, "203.0.113.7", -1700), 0).committed().await.unwrap();
    assert_eq!(scene.in_ledger(0), [(net("203.0.113.7/32"), 1)]);
    assert_eq!(scene.bans.expire(at(600)), 1);
}

#[tokio::test]
async fn a_start_widens_and_remembers_what_was_allowed() {
    let saved = [("192.0.2.1/32", Some(500)), ("192.0.2.2/32", Some(600)), ("192.0.2.0/24", Some(100))];
    let scene = scene_with(&saved, "10.0.0.0/8", narrow(2));
    assert_eq!((scene.wanted(), scene.bans.len()), (vec!["192.0.2.0/24".to_owned()], 3));
    assert_eq!(scene.until("192.0.2.0/24"), Some(at(600)));
    assert_eq!(scene.bans.expire(at(100)), 1);
    assert_eq!(scene.until("192.0.2.0/24"), Some(at(600)));
    assert_eq!(scene.bans.expire(at(599)), 1);
    assert_eq!(scene.wanted(), ["192.0.2.0/24"]);
    assert_eq!(scene.bans.expire(at(600)), 1);
    assert!(scene.wanted().is_empty() && scene.bans.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bans_of_one_network_decided_at_once_each_count_as_one_strike_more() {
    const WORKERS: u64 = 4;
    const ROUNDS: u64 = 24;
    let steps = Escalation::MOST_STEPS as u64;
    // The n-th ban takes n times as long, so that its length tells as which strike it was decided.
    let escalation = Escalation {
        thousandths: (1..=steps).map(|strike| strike * 1000).collect(),
        max: None,
        random: None,
        overall: false,
        decay: None,
    };
    let scene = Arc::new(scene_with(&[], "10.0.0.0/8", |rules| rules.escalation = Some(escalation)));
    let start = Arc::new(tokio::sync::Barrier::new(WORKERS as usize));
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (scene, start) = (Arc::clone(&scene), Arc::clone(&start));
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    start.wait().await;
                    // Of one IPv6 /64, each by another of its addresses, and each at a second of its own.
                    let number = worker * ROUNDS + round;
                    let offence = offence(number + 1, &format!("2001:db8::{number:x}"), number as i64);
                    drop(scene.take_growing(&format!("web-{worker}"), offence, number as i64).await);
                    drop(scene.bans.unban(net("2001:db8::/64"), "test", at(number as i64)));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    scene.ledger.write(vec![Change::Recovered]).committed().await.unwrap();
    let mut bans = Vec::new();
    let all = Selection { which: crate::ledger::Which::All, ..Selection::default() };
    scene
        .ledger
        .each_ban(&all, at(0), &mut |ban| {
            bans.push((ban.strikes, ban.until.unwrap().duration_since(ban.since).as_secs() / 1800));
            true
        })
        .unwrap();
    bans.sort_unstable();
    assert_eq!(bans.len() as u64, scene.bans.counts().banned);
    for (place, (strikes, times)) in bans.iter().enumerate() {
        assert_eq!((u64::from(*strikes), *times as u64), (place as u64 + 1, place as u64 + 1), "{bans:?}");
    }
}

#[tokio::test]
async fn nothing_that_is_banned_holds_everyone_behind_a_nat64() {
    let scene = scene_with(&[], "2001:db8:64::198.51.100.9/128", |rules| {
        rules.widen.ipv6 = Some(2);
        rules.nat64 = Nat64::try_from(vec!["2001:db8:64::/96".to_owned()]).unwrap();
    });
    let by_hand = |prefix: &str| {
        scene.bans.ban(net(prefix), BanTime::For(Seconds(60)), "", false, at(0)).map(|done| done.changed)
    };
    for everyone in ["64:ff9b::/96", "64:ff9b::/32", "2001:db8:64::/96", "2001:db8:64::/64", "2001:db8::/32"]
    {
        assert!(matches!(by_hand(everyone), Err(HandError::Everyone(_))), "{everyone}");
    }
    by_hand("64:ff9b::203.0.113.0/120").unwrap();
    by_hand("2001:db8:64::192.0.2.1/128").unwrap();
    assert!(matches!(by_hand("198.51.100.9/32"), Err(HandError::Allowed { .. })));
    assert_eq!(scene.wanted(), ["192.0.2.1/32", "203.0.113.0/24"]);
    assert!(scene.bans.unban(net("64:ff9b::192.0.2.1/128"), "by hand", at(1)).is_some());
    // Neighbours of the prefix: one in its /64 is banned alone, and no /48 around it.
    for (sequence, address) in [(1, "2001:db8:64::1:0:0:7"), (2, "2001:db8:64:1::7"), (3, "2001:db8:64:2::7")]
    {
        drop(scene.take(offence(sequence, address, 2), 2));
    }
    let neighbours = ["2001:db8:64:0:1::7/128", "2001:db8:64:1::/64", "2001:db8:64:2::/64", "203.0.113.0/24"];
    let mut wanted = scene.wanted();
    wanted.sort();
    assert_eq!(wanted, neighbours);
}

#[tokio::test]
async fn what_is_allowed_in_a_banned_network_is_spared_alone_until_it_is_off_the_list() {
    let scene = scene(&[], "10.0.0.0/8");
    let hour = BanTime::For(Seconds(3600));
    scene.bans.ban(net("192.0.2.0/24"), hour, "", false, at(0)).unwrap();
    scene.take(offence(1, "192.0.2.6", 0), 0);
    let allowed = scene.bans.allow_at_run_time("192.0.2.7", Some(at(60)), "", "", at(1)).unwrap();
    assert_eq!((allowed.effect.lifted, allowed.effect.more_entries), (0, 6), "{:?}", allowed.effect);
    let cut = CutNetwork { prefix: net("192.0.2.0/24"), until: Some(at(3600)), entries: 8 };
    assert_eq!(allowed.effect.cut, [cut]);
    let parts = [
        "192.0.2.0/30",
        "192.0.2.4/31",
        "192.0.2.6/32",
        "192.0.2.8/29",
        "192.0.2.16/28",
        "192.0.2.32/27",
        "192.0.2.64/26",
        "192.0.2.128/25",
    ];
    assert_eq!(scene.wanted(), parts);
    // The part that is an offender's too is held as long as the longer of both says, and stays when one goes.
    assert_eq!(scene.until("192.0.2.6/32"), Some(at(3600)));
    assert!(scene.bans.unban(net("192.0.2.6/32"), "me", at(2)).is_some());
    assert_eq!(scene.wanted(), parts);
    // It has no ban that could be lifted; and its neighbours have the network's.
    assert!(scene.bans.unban(net("192.0.2.7/32"), "me", at(2)).is_none());
    assert_eq!(scene.bans.standing(net("192.0.2.7/32")).bans, []);
    assert_eq!(scene.bans.standing(net("192.0.2.7/32")).sparing[0].prefix, net("192.0.2.0/24"));
    let neighbour = scene.bans.standing(net("192.0.2.9/32"));
    assert_eq!(
        (neighbour.bans[0].entries, neighbour.held_as),
        (8, vec![net("192.0.2.9/32"), net("192.0.2.8/29")])
    );
    // The ledger keeps the ban as it was made.
    allowed.receipt.committed().await.unwrap();
    assert!(scene.in_ledger(2).iter().any(|(prefix, _)| *prefix == net("192.0.2.0/24")));
    scene.bans.expire(at(60));
    assert_eq!(scene.wanted(), ["192.0.2.0/24"]);
    assert!(scene.bans.unban(net("192.0.2.0/24"), "me", at(61)).is_some());
    assert_eq!(scene.wanted(), [""; 0]);
}

#[tokio::test]
async fn a_banned_network_is_cut_around_whatever_the_allow_list_has_also_after_a_restart() {
    // One that the configuration allows, and the address of a router.
    let scene = scene(&[("192.0.2.0/30", Some(600)), ("2001:db8::/64", None)], "192.0.2.1/32");
    assert_eq!(scene.wanted(), ["192.0.2.0/32", "192.0.2.2/31", "2001:db8::/64"]);
    let own =
        |text: &str| OwnNetwork { network: net(text), whose: allow::Whose::Router("edge".parse().unwrap()) };
    assert_eq!(scene.bans.set_own_networks(vec![own("2001:db8::7/128")], at(1)), 0);
    assert_eq!(scene.wanted().len(), 2 + 64);
    let (router, neighbour) = ("2001:db8::7".parse().unwrap(), "2001:db8::8".parse().unwrap());
    let rulings = scene.bans.rulings(&[(1, router), (2, neighbour)], at(2));
    let refused = atalaya_wire::Ruling::Refused(atalaya_wire::Grounds::Allowed);
    assert_eq!(rulings[0].ruling, refused);
    let atalaya_wire::Ruling::Banned { net: part, .. } = rulings[1].ruling else { panic!("{rulings:?}") };
    assert_eq!(part, net("2001:db8::8/125"), "a host that drops the unit would drop the router");
    scene.bans.set_own_networks(Vec::new(), at(3));
    assert_eq!(scene.wanted(), ["192.0.2.0/32", "192.0.2.2/31", "2001:db8::/64"]);
    // All of it is allowed: then nothing is left of the ban.
    assert_eq!(scene.allow("2001:db8::/48", None, 4), 1);
    assert_eq!(scene.wanted(), ["192.0.2.0/32", "192.0.2.2/31"]);
}

#[tokio::test]
async fn a_widened_network_is_let_go_for_what_is_allowed_in_it() {
    let scene = scene_with(&[], "10.0.0.0/8", |rules| rules.widen.ipv4 = Some(3));
    for host in 1..=4 {
        scene.take(offence(host, &format!("192.0.2.{host}"), 0), 0);
    }
    assert_eq!(scene.wanted(), ["192.0.2.0/24"]);
    let standing = scene.bans.standing(net("192.0.2.200/32"));
    let widened = WidenedNetwork { prefix: net("192.0.2.0/24"), until: Some(at(1800)) };
    assert_eq!(standing.widened, Some(widened));
    let effect = scene.bans.allow_at_run_time("192.0.2.4", None, "", "", at(1)).unwrap().effect;
    assert_eq!((effect.lifted, effect.let_go, effect.more_entries), (1, vec![net("192.0.2.0/24")], 2));
    assert_eq!(scene.wanted(), ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"]);
    let effect = scene.bans.disallow("192.0.2.4", at(2)).unwrap().effect;
    assert_eq!((effect.still, effect.held_by, effect.more_entries), (None, Vec::new(), -2));
}

#[test]
fn what_is_allowed_in_a_ban_stays_spared_when_the_ban_is_handed_over_to_who_else_asked_for_it() {
    let scene = scene(&[], "192.0.2.0/24");
    scene.take(offence(1, "2001:db8::1", 0), 0);
    let (other, outbox) = ("web-2".parse().unwrap(), "o".parse().unwrap());
    let mut shorter = offence(1, "2001:db8::2", 0);
    shorter.offence.bantime = BanTime::For(Seconds(600));
    scene.bans.take(&other, (&outbox, 1), vec![shorter], &Earlier::default(), at(0));
    scene.allow("2001:db8::7", None, 1);
    let held = scene.wanted();
    assert_eq!(held.len(), 64);
    let web_1 = "web-1".parse().unwrap();
    let taken = scene.bans.take_back(net("2001:db8::1/128"), &web_1, None, at(2));
    assert!(matches!(taken, Some(TakenBack::Stands(_))), "{taken:?}");
    assert_eq!(scene.wanted(), held);
    assert!(held.iter().all(|part| scene.until(part) == Some(at(600))));
    let taken = scene.bans.take_back(net("2001:db8::1/128"), &other, None, at(3));
    assert!(matches!(taken, Some(TakenBack::Lifted(_))), "{taken:?}");
    assert_eq!(scene.wanted(), [""; 0]);
}

#[test]
fn offences_are_decided_while_many_bans_that_end_at_once_are_ended() {
    let saved: Vec<String> = (0..1000).map(|n| format!("198.51.{}.{}/32", n / 250, n % 250)).collect();
    let saved: Vec<(&str, Option<i64>)> = saved.iter().map(|prefix| (prefix.as_str(), Some(100))).collect();
    let scene = scene(&saved, "10.0.0.0/8");
    let mut holds = Vec::new();
    // On this thread, which would wait for ever were the lock held.
    let ended = scene.bans.expire_between(at(100), |ended| {
        holds.push(ended);
        let sequence = holds.len() as u64;
        drop(scene.take(offence(sequence, &format!("203.0.113.{sequence}"), 100), 100));
    });
    assert_eq!((ended, holds), (1000, vec![TOGETHER; 3]));
    assert_eq!(scene.wanted(), ["203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32"]);
}
