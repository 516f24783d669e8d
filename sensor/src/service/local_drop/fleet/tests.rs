//! With the kernel's own maps, which need root; no program looks at them.

use atalaya_sensor_ebpf::local_drop::{ALLOW_MAP, BANS_MAP, KINDS_MAP, PREFIXES_MAP, TOTALS_MAP};
use atalaya_wire::{BanTime, Grounds, Left, Ruling, Seconds};
use jiff::Timestamp;

use super::*;
use crate::config::LocalDropConfig;
use crate::detector::Sent;
use crate::kernel::maps::Maps;
use crate::loader::local_drop::OBJECT;
use crate::loader::object::Kit;
use crate::pinned::bans::Bans;
use crate::service::Watch;
use crate::service::local_drop::{Judge, Running};
use crate::store::{Store, Writer};

const AN_HOUR: std::time::Duration = std::time::Duration::from_secs(3600);
const JAILS: &str = "[jail.a]\nsource = \"logins\"\n[jail.b]\nsource = \"logins\"\nipv6_prefix = 128\n";

/// A sensor's local drop, its jails, and what it sent to the enforcer.
struct Scene {
    drop: LocalDrop,
    watch: Watch,
    outbox: Outbox,
    _writer: Writer,
    _folder: tempfile::TempDir,
}

// === impl Scene ===

impl Scene {
    /// What was sent went to the ledger `l`.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, saved, writer) = Store::open(folder.path()).unwrap();
        let drop = LocalDrop::default();
        let object = Kit::new().load(OBJECT, |_| {}).unwrap();
        let maps = object.maps(&[BANS_MAP, PREFIXES_MAP, ALLOW_MAP, KINDS_MAP, TOTALS_MAP]).unwrap();
        let bans = Bans::new(Maps::new(maps)).unwrap();
        drop.lock().running = Some(Running { table: Table::new(1000), bans, allowed: 0 });
        let judge = Judge { ipv6_prefix: 128, of_logins: true };
        drop.lock().jails.insert("b".parse().unwrap(), judge);
        drop.set_ledger(Some("l".parse().unwrap()));
        drop.follows.send_replace(true);
        let (outbox, watch) = (Outbox::new(store, &saved), Watch::for_test(JAILS));
        Self { drop, watch, outbox, _writer: writer, _folder: folder }
    }

    /// A jail bans, under a number in the outbox.
    fn ban(&mut self, jail: &str, address: &str, sequence: u64) {
        let (jail, address) = (jail.parse().unwrap(), address.parse().unwrap());
        self.watch.detector.ban(&jail, address, Some(BanTime::Permanent), Timestamp::now());
        self.watch.detector.sent(&jail, address, Sent { sequence, held: false });
        self.drop.lock().take_own_ban(&self.watch.detector, address, Moment::now());
    }

    fn rule(&mut self, jail: &str, address: &str, sequence: u64, ruling: Ruling) {
        let (jail, address) = (jail.parse().unwrap(), address.parse().unwrap());
        self.watch.detector.rule(&jail, address, sequence, ruling, Timestamp::now());
        self.drop.follow_rulings(&self.watch.detector, [address]);
    }

    fn told(&mut self, changes: &[BanChange]) {
        self.drop.fleet(changes, &mut self.watch.detector, &self.outbox);
    }

    /// What the kernel's maps ban, and what the jails say that they ban.
    fn dropped(&self) -> (Vec<String>, Vec<String>) {
        let state = self.drop.lock();
        let mut dropped = state.running.as_ref().unwrap().bans.all();
        dropped.sort_unstable();
        let own = self.watch.detector.standing(Timestamp::now());
        let own = own.into_iter().map(|(jail, address)| format!("{jail} {address}"));
        (dropped.into_iter().map(|(network, _)| shown(network)).collect(), own.collect())
    }
}

fn shown(network: IpNet) -> String {
    if is_of_a_host(network) && network.prefix_len() != 64 {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

fn net(text: &str) -> IpNet {
    text.parse().or_else(|_| text.parse().map(|address: IpAddr| address.into())).unwrap()
}

fn banned(text: &str) -> Ruling {
    Ruling::Banned { net: net(text), ms: Left::Permanent }
}

fn ban(text: &str) -> BanChange {
    BanChange::Ban { network: net(text), ends: Ends::Never }
}

fn lift(text: &str) -> BanChange {
    BanChange::Lift { network: net(text) }
}

fn reset(ledger: &str, answered: u64) -> BanChange {
    BanChange::Reset { ledger: ledger.parse().unwrap(), answered }
}

fn mark() -> BanChange {
    BanChange::Reached(atalaya_wire::Position { stream: "s".parse().unwrap(), through: 1, after: None })
}

#[tokio::test]
async fn what_the_enforcer_has_not_confirmed_is_dropped_for_a_while_only_and_not_anew_by_a_restart() {
    let mut scene = Scene::new();
    let config = LocalDropConfig { unanswered: Seconds(300), ..LocalDropConfig::default() };
    scene.drop.lock().config = Some(config);
    scene.drop.lock().has_joined = true;
    scene.ban("a", "192.0.2.1", 1);
    scene.ban("a", "192.0.2.2", 2);
    scene.rule("a", "192.0.2.2", 2, banned("192.0.2.2"));
    let ends = |scene: &Scene| -> Vec<(String, bool)> {
        let state = scene.drop.lock();
        let mut there = state.running.as_ref().unwrap().bans.all();
        there.sort_unstable();
        let forever = |deadline: Deadline| deadline == Deadline::MAX;
        there.into_iter().map(|(network, end)| (shown(network), forever(end))).collect()
    };
    let expected = [("192.0.2.1".to_owned(), false), ("192.0.2.2".to_owned(), true)];
    assert_eq!(ends(&scene), expected);
    // As a restart does, and after the while is over, an hour later.
    scene.drop.lock().take_own_bans(&scene.watch.detector, Moment::now());
    assert_eq!(ends(&scene), expected);
    let now = Moment::now();
    let later = Moment { wall: now.wall + AN_HOUR, boot: now.boot + 3_600_000_000_000 };
    scene.drop.lock().take_own_bans(&scene.watch.detector, later);
    assert_eq!(ends(&scene), expected[1..]);
    // The answer makes it whole.
    scene.rule("a", "192.0.2.1", 1, banned("192.0.2.1"));
    assert_eq!(ends(&scene), [("192.0.2.1".to_owned(), true), expected[1].clone()]);
}

#[tokio::test]
async fn a_snapshot_lifts_what_it_lacks_of_what_was_answered_before_it_and_nothing_else() {
    let mut scene = Scene::new();
    for (host, sequence) in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)] {
        scene.ban("a", &format!("192.0.2.{host}"), sequence);
    }
    for host in [1, 2, 3] {
        scene.rule("a", &format!("192.0.2.{host}"), host, banned(&format!("192.0.2.{host}")));
    }
    scene.outbox.acked(4);
    // 3 and 4 were answered when the snapshot was under way already, 4 by an enforcer that says no more; 5 waits.
    scene.told(&[reset("l", 2), ban("192.0.2.2"), ban("198.51.100.7"), BanChange::Whole]);
    let own = ["a 192.0.2.2", "a 192.0.2.3", "a 192.0.2.4", "a 192.0.2.5"];
    let dropped = ["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "198.51.100.7"];
    assert_eq!(scene.dropped(), (dropped.map(String::from).to_vec(), own.map(String::from).to_vec()));
    // The next one has 3 within a network, and 4 was refused.
    scene.told(&[reset("l", 4), ban("192.0.2.2/31"), BanChange::Whole]);
    let own = ["a 192.0.2.2", "a 192.0.2.3", "a 192.0.2.5"];
    let dropped = ["192.0.2.2/31", "192.0.2.2", "192.0.2.3", "192.0.2.5"];
    assert_eq!(scene.dropped(), (dropped.map(String::from).to_vec(), own.map(String::from).to_vec()));
}

#[tokio::test]
async fn a_ledger_that_never_heard_of_the_jails_bans_lifts_none_of_them() {
    let mut scene = Scene::new();
    scene.ban("a", "192.0.2.1", 1);
    scene.rule("a", "192.0.2.1", 1, banned("192.0.2.1"));
    scene.outbox.acked(1);
    scene.told(&[reset("other", 1), BanChange::Whole, lift("192.0.0.0/16"), mark()]);
    let all = (vec!["192.0.2.1".to_owned()], vec!["a 192.0.2.1".to_owned()]);
    assert_eq!(scene.dropped(), all);
    // Once it has them it is believed.
    scene.drop.set_ledger(Some("other".parse().unwrap()));
    scene.told(&[reset("other", 1), BanChange::Whole]);
    assert_eq!(scene.dropped(), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn nothing_is_lifted_for_what_found_no_room_or_comes_after_the_stream_is_not_wanted() {
    let mut scene = Scene::new();
    scene.ban("a", "192.0.2.1", 1);
    scene.rule("a", "192.0.2.1", 1, banned("192.0.2.1"));
    scene.outbox.acked(1);
    let all = (vec!["192.0.2.1".to_owned()], vec!["a 192.0.2.1".to_owned()]);
    let short = BanChange::Ban { network: net("192.0.2.0/24"), ends: Ends::At(Instant::now() + AN_HOUR) };
    scene.drop.lock().change(|table| table.set_most(1));
    scene.told(&[reset("l", 1), short.clone(), BanChange::Whole, mark()]);
    assert_eq!(scene.dropped(), all, "the network that covers it found no room");
    scene.drop.lock().change(|table| table.set_most(1000));
    scene.drop.follows.send_replace(false);
    scene.told(&[reset("l", 1), BanChange::Whole, mark()]);
    assert_eq!(scene.dropped(), all);
    scene.drop.follows.send_replace(true);
    scene.told(&[reset("l", 1), short, BanChange::Whole]);
    assert_eq!(scene.dropped().1, ["a 192.0.2.1"]);
    scene.told(&[reset("l", 1), BanChange::Whole]);
    assert_eq!(scene.dropped(), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn bans_that_become_one_of_their_network_stand_and_whom_the_network_lets_go_passes() {
    let mut scene = Scene::new();
    scene.told(&[reset("l", 0), BanChange::Whole]);
    for host in [1, 2, 3] {
        scene.ban("a", &format!("192.0.2.{host}"), host);
        scene.rule("a", &format!("192.0.2.{host}"), host, banned(&format!("192.0.2.{host}")));
    }
    scene.outbox.acked(3);
    scene.told(&[ban("192.0.2.1"), ban("192.0.2.2"), mark()]);
    // The third is told as it stands by then: not singly.
    let covered = [lift("192.0.2.3"), ban("192.0.2.0/24"), lift("192.0.2.1"), lift("192.0.2.2"), mark()];
    scene.told(&covered);
    assert_eq!(scene.dropped().1, ["a 192.0.2.1", "a 192.0.2.2", "a 192.0.2.3"]);
    scene.ban("a", "192.0.2.9", 9);
    scene.told(&[ban("192.0.2.1"), ban("192.0.2.3"), lift("192.0.2.0/24"), mark()]);
    let (dropped, own) = scene.dropped();
    assert_eq!(own, ["a 192.0.2.1", "a 192.0.2.3", "a 192.0.2.9"], "one is not answered yet");
    assert_eq!(dropped, ["192.0.2.1", "192.0.2.3", "192.0.2.9"]);
    // And a ban of one host that is lifted goes with what the jails have of it, answered or not.
    scene.told(&[ban("192.0.2.9"), mark()]);
    scene.told(&[lift("192.0.2.9"), lift("192.0.2.1"), mark()]);
    assert_eq!(scene.dropped(), (vec!["192.0.2.3".to_owned()], vec!["a 192.0.2.3".to_owned()]));
}

#[tokio::test]
async fn a_refusal_lets_pass_what_no_other_ban_drops_and_a_ruling_says_what_is_dropped() {
    let mut scene = Scene::new();
    let refused = Ruling::Refused(Grounds::Protected);
    // Two jails, of which one is refused.
    scene.ban("a", "192.0.2.1", 1);
    scene.ban("b", "192.0.2.1", 2);
    scene.rule("a", "192.0.2.1", 1, refused);
    assert_eq!(scene.dropped(), (vec!["192.0.2.1".to_owned()], vec!["b 192.0.2.1".to_owned()]));
    scene.rule("b", "192.0.2.1", 2, refused);
    assert_eq!(scene.dropped().0, Vec::<String>::new());
    // The enforcer spares another host of the network, and bans this one alone.
    scene.ban("a", "2001:db8::7", 3);
    assert_eq!(scene.dropped().0, ["2001:db8::/64"]);
    scene.rule("a", "2001:db8::7", 3, banned("2001:db8::7"));
    assert_eq!(scene.dropped().0, ["2001:db8::7"]);
    // And with others than a jail that counts each address alone.
    scene.ban("b", "2001:db8:0:1::7", 4);
    assert_eq!(scene.dropped().0, ["2001:db8::7", "2001:db8:0:1::7"]);
    scene.rule("b", "2001:db8:0:1::7", 4, banned("2001:db8:0:1::/64"));
    scene.rule("a", "2001:db8::7", 3, refused);
    assert_eq!(scene.dropped().0, ["2001:db8:0:1::/64"]);
    scene.told(&[lift("2001:db8:0:1::/64"), mark()]);
    assert_eq!(scene.dropped(), (Vec::new(), Vec::new()));
    // What the enforcer's own bans drop no refusal lifts.
    scene.ban("a", "192.0.2.1", 5);
    scene.told(&[ban("192.0.2.1"), mark()]);
    scene.rule("a", "192.0.2.1", 5, refused);
    assert_eq!(scene.dropped(), (vec!["192.0.2.1".to_owned()], Vec::new()));
}

#[tokio::test]
async fn a_ruling_lifts_what_an_earlier_run_left_of_the_address_where_no_stream_tells() {
    let mut scene = Scene::new();
    for before in ["192.0.2.1", "2001:db8::/64", "192.0.2.9"] {
        scene.drop.lock().ban(By::Before, net(before), Deadline::MAX, Moment::now());
    }
    scene.ban("a", "192.0.2.1", 1);
    scene.ban("a", "2001:db8::7", 2);
    scene.rule("a", "192.0.2.1", 1, Ruling::Refused(Grounds::Protected));
    scene.rule("a", "2001:db8::7", 2, banned("2001:db8::7"));
    assert_eq!(scene.dropped().0, ["192.0.2.9", "2001:db8::7"]);
}

#[tokio::test]
async fn what_is_lifted_by_hand_goes_whoever_banned_it_and_a_network_around_it_is_told() {
    let mut scene = Scene::new();
    let address: IpAddr = "2001:db8::7".parse().unwrap();
    scene.told(&[reset("l", 0), ban("2001:db8::7"), ban("2001:db8::/32"), BanChange::Whole]);
    scene.ban("a", "2001:db8::9", 1);
    let banned = scene.watch.detector.banned(None, address);
    assert_eq!(banned.len(), 1, "it is counted as one with another");
    scene.watch.detector.lift(None, address);
    let opened = scene.drop.lift(address, &banned).unwrap();
    assert_eq!(opened.networks, [net("2001:db8::/64"), net("2001:db8::7")]);
    assert!(opened.of_fleet && opened.around == [net("2001:db8::/32")], "{opened:?}");
    assert_eq!(scene.dropped(), (vec!["2001:db8::/32".to_owned()], Vec::new()));

    // In one jail alone: what another bans stands.
    scene.ban("a", "192.0.2.1", 2);
    scene.ban("b", "192.0.2.1", 3);
    let (jail, address) = ("a".parse().unwrap(), "192.0.2.1".parse().unwrap());
    let banned = scene.watch.detector.banned(Some(&jail), address);
    scene.watch.detector.lift(Some(&jail), address);
    let opened = scene.drop.lift_own(&scene.watch.detector, address, &banned).unwrap();
    assert_eq!((opened.networks, opened.around), (Vec::new(), vec![net("192.0.2.1")]));
    // Held, as where the enforcer cannot be asked, it passes.
    let banned = scene.watch.detector.banned(None, address);
    scene.watch.detector.hold(&banned);
    scene.drop.lift_own(&scene.watch.detector, address, &banned);
    assert_eq!(scene.dropped(), (vec!["2001:db8::/32".to_owned()], vec!["b 192.0.2.1".to_owned()]));
}
