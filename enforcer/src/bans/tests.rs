use atalaya_wire::Seconds;

use super::*;
use crate::ledger::{Selection, Terms, Writer};

struct Scene {
    bans: Bans,
    desired: Arc<Desired>,
    ledger: Ledger,
    _writer: Writer,
    _folder: tempfile::TempDir,
}

fn scene(saved: &[(&str, Option<i64>)], allow: &str) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _, writer) = Ledger::open(folder.path(), &Terms::default(), &|jail, sensor| {
        Label::new(jail, sensor, &ListConfig::default(), &BTreeMap::new())
    })
    .unwrap();
    let desired = Arc::new(Desired::new());
    let allow: Networks = [allow.parse().unwrap()].into_iter().collect();
    let saved = saved
        .iter()
        .map(|(prefix, until)| (net(prefix), Standing { until: until.map(at) }, Label::test("saved")))
        .collect();
    let bans = Bans::new(
        ListConfig::default(),
        BTreeMap::new(),
        ledger.clone(),
        desired.clone(),
        allow,
        saved,
        at(0),
    );
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
        self.bans.take(&"web-1".parse().unwrap(), &"o".parse().unwrap(), vec![offence], at(now))
    }

    fn until(&self, prefix: &str) -> Option<Timestamp> {
        self.desired.get(net(prefix)).and_then(|wanted| wanted.until)
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
        scene.bans.take(&name("web"), &name("box"), vec![numbered], at(second))
    };
    let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
    let left = |second: i64| {
        scene.bans.standing(prefix).unwrap().until.unwrap().duration_since(at(second)).as_secs()
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
        scene.bans.lapse(at(second));
        ban(jail, second, overall).committed().await.unwrap();
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
async fn an_extended_ban_lapses_at_its_later_end_and_then_bans_again_with_the_next_strike() {
    let scene = scene(&[], "10.0.0.0/8");
    scene.take(offence(1, "192.0.2.1", 0), 0).committed().await.unwrap();
    scene.take(offence(2, "192.0.2.1", 600), 600).committed().await.unwrap();
    assert_eq!(scene.until("192.0.2.1/32"), Some(at(2400)));
    assert_eq!(scene.bans.lapse(at(1800)), 0);
    assert_eq!(scene.bans.lapse(at(2399)), 0);
    assert_eq!(scene.bans.lapse(at(2400)), 1);
    assert!(scene.bans.is_empty());
    scene.take(offence(3, "192.0.2.1", 2400), 2400).committed().await.unwrap();
    assert_eq!(scene.in_ledger(2400), [(net("192.0.2.1/32"), 2)]);
    let counts = scene.bans.counts();
    assert_eq!((counts.banned, counts.extended, counts.lapsed), (2, 1, 1));
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
    assert!(
        scene.desired.get(net("2001:db8::/64")).is_some() && scene.until("192.0.2.1/32") == Some(at(10))
    );
}

#[tokio::test]
async fn a_ban_by_hand_is_refused_for_allowed_networks_and_never_shortens() {
    let scene = scene(&[], "10.0.0.0/8");
    let ban =
        |prefix: &str, seconds| scene.bans.ban(net(prefix), BanTime::For(Seconds(seconds)), "why", at(0));
    assert!(matches!(ban("10.1.2.3/32", 60), Err(HandError::Allowed(_))));
    assert!(matches!(ban("0.0.0.0/0", 60), Err(HandError::Allowed(_))));
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
async fn an_address_that_becomes_allowed_is_unbanned_and_so_is_a_network_around_it() {
    let scene = scene(
        &[("192.0.2.1/32", None), ("198.51.100.0/24", None), ("203.0.113.1/32", None)],
        "10.0.0.0/8",
    );
    let allow = ["192.0.2.1/32", "198.51.100.9/32"].into_iter().map(net).collect();
    assert_eq!(scene.bans.set_allow(allow, at(0)), 2);
    assert_eq!(scene.bans.len(), 1);
    assert!(scene.desired.get(net("203.0.113.1/32")).is_some());
}

#[test]
fn lifting_and_banning_over_and_over_does_not_pile_up() {
    let scene = scene(&[], "10.0.0.0/8");
    for round in 0..5000 {
        scene.bans.ban(net("192.0.2.1/32"), BanTime::For(Seconds(60)), "", at(round)).unwrap();
        scene.bans.unban(net("192.0.2.1/32"), "by hand", at(round)).unwrap();
    }
    assert!(scene.bans.lock().ends.len() <= 1001);
}
