//! A reload gives what a restart would, whatever stands.

use std::collections::BTreeMap;
use std::net::IpAddr;

use atalaya_wire::{BanTime, Name, Nat64, Networks, NumberedOffence, Offence, Seconds};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::bans::allow::Allow;
use crate::bans::earlier::Earlier;
use crate::bans::protect::ProtectConfig;
use crate::bans::widen::WidenConfig;
use crate::desired::{Desired, Labels, ListConfig, Moment, Origin, Severity};
use crate::ledger::{GoodLogin, Ledger, Terms, Writer};

/// A ban that stands: its prefix, for how many seconds (permanently where it is 0), of which jail, of a scan or not.
type Standing = (IpNet, i64, u8, bool);

struct Scene {
    bans: Bans,
    desired: Arc<Desired>,
}

/// The settings of an enforcer.
#[derive(Clone, Debug)]
struct Settings {
    widen: Option<usize>,
    ipv6_prefix: u8,
    by_jail: bool,
    comment: String,
    high: bool,
    allow: Vec<IpNet>,
    protect: bool,
}

impl Settings {
    fn rules(&self) -> Rules {
        let list = ListConfig { comment: self.comment.clone(), ..ListConfig::default() };
        let severity = if self.high { Severity::High } else { Severity::Low };
        let networks: Networks = [net("192.0.2.0/24")].into_iter().collect();
        let protect = ProtectConfig { networks, ..ProtectConfig::default() };
        Rules {
            labels: Labels::new(list, BTreeMap::from([(jail(0), severity)])),
            widen: WidenConfig { ipv4: self.widen, ipv6: self.widen, ipv6_prefix: self.ipv6_prefix },
            by_jail: self.by_jail,
            escalation: None,
            protect: if self.protect { protect } else { ProtectConfig { within: None, ..protect } },
            protected_by_one: None,
            nat64: Nat64::default(),
        }
    }

    fn allow(&self) -> AllowConfig {
        AllowConfig { networks: self.allow.iter().copied().collect(), ..AllowConfig::default() }
    }

    /// An enforcer that was started with these settings.
    fn start(&self, standing: &[Standing], ledger: &Ledger) -> Scene {
        let mut rules = self.rules();
        let saved = standing.iter().map(|(prefix, seconds, number, is_scan)| {
            let until = if *seconds == 0 { Moment::FOREVER } else { at(*seconds).into() };
            let origin = Origin::Sensor { jail: jail(*number), sensor: "web-1".parse().unwrap() };
            let label = match (number, is_scan) {
                (1, false) => rules.labels.by_hand("it scans us"),
                _ => rules.labels.of(&origin, *is_scan),
            };
            (*prefix, Wanted { until, label })
        });
        let saved: BTreeMap<IpNet, Wanted> = saved.collect();
        let login = GoodLogin {
            address: "192.0.2.200".parse().unwrap(),
            last: at(0),
            sensor: "web-1".parse().unwrap(),
            service: "sshd".to_owned(),
            account: "ann".to_owned(),
        };
        let desired = Arc::new(Desired::new());
        let allow = Allow::new(self.allow(), Vec::new());
        let saved = saved.into_iter().collect();
        let bans = Bans::new(rules, ledger.clone(), desired.clone(), allow, saved, vec![login], at(0));
        Scene { bans, desired }
    }
}

impl Scene {
    fn wanted(&self) -> BTreeMap<IpNet, (Moment, String, Severity)> {
        let mut wanted = BTreeMap::new();
        self.desired.each(|prefix, until, label| {
            wanted.insert(prefix, (until, label.comment.clone(), label.severity));
        });
        wanted
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn jail(number: u8) -> Name {
    format!("jail{number}").parse().unwrap()
}

fn settings() -> impl Strategy<Value = Settings> {
    let allow = prop::collection::vec(prop::sample::select(vec!["192.0.2.3/32", "198.51.100.0/30"]), 0..2);
    let widen = prop::sample::select(vec![None, Some(2), Some(4)]);
    let comment = prop::sample::select(vec!["{jail} from {sensor}", "{jail}"]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (widen, prop::sample::select(vec![56_u8, 64]), comment, allow, flags).prop_map(
        |(widen, ipv6_prefix, comment, allow, (by_jail, high, protect))| Settings {
            widen,
            ipv6_prefix,
            by_jail,
            comment: comment.to_owned(),
            high,
            allow: allow.into_iter().map(net).collect(),
            protect,
        },
    )
}

fn standing() -> impl Strategy<Value = Vec<Standing>> {
    let prefix = prop_oneof![
        6 => (0..2_u8, 1..8_u8).prop_map(|(network, host)| {
            IpNet::from(IpAddr::from(if network == 0 { [192, 0, 2, host] } else { [198, 51, 100, host] }))
        }),
        2 => (0..4_u16).prop_map(|subnet| net(&format!("2001:db8:0:{subnet:x}::/64"))),
        1 => prop::sample::select(vec![net("192.0.2.0/24"), net("198.51.0.0/16")]),
    ];
    let ban = (prefix, prop_oneof![1 => Just(0), 5 => 100..2000_i64], 0..2_u8, prop::bool::weighted(0.2));
    prop::collection::btree_map(prop::num::u8::ANY, ban, 0..20).prop_map(|bans| {
        let one_each: BTreeMap<IpNet, Standing> = bans.into_values().map(|ban| (ban.0, ban)).collect();
        one_each.into_values().collect()
    })
}

/// A ledger that is written and not read.
fn ledger(folder: &tempfile::TempDir) -> (Ledger, Writer) {
    let (ledger, _, writer) = Ledger::open(folder.path(), &Terms::default(), &mut Labels::default()).unwrap();
    (ledger, writer)
}

#[test]
fn what_a_reload_comes_to_is_what_a_restart_with_the_same_settings_comes_to() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _writer) = ledger(&folder);
    let mut runner = TestRunner::new(ProptestConfig { cases: 400, ..ProptestConfig::default() });
    let histories = (standing(), settings(), settings(), settings());
    let checked = runner.run(&histories, |(standing, before, between, after)| {
        // What was lifted for the sake of an allow list does not come back.
        let between = Settings { allow: before.allow.clone(), ..between };
        let after = Settings { allow: after.allow.iter().chain(&before.allow).copied().collect(), ..after };
        // Nor does what was forgotten because it protected nobody.
        let between = Settings { protect: before.protect, ..between };
        let after = Settings { protect: after.protect && before.protect, ..after };
        let scene = before.start(&standing, &ledger);
        for settings in [&between, &after] {
            scene.bans.reconfigure(settings.rules(), settings.allow(), at(0));
        }
        let restarted = after.start(&standing, &ledger);
        prop_assert_eq!(scene.wanted(), restarted.wanted());
        prop_assert_eq!(scene.bans.len(), restarted.bans.len());
        prop_assert_eq!(scene.bans.widened(), restarted.bans.widened());
        // And so it goes on.
        for scene in [&scene, &restarted] {
            scene.bans.expire(at(1000));
            scene.bans.unban(net("192.0.2.1/32"), "test", at(1000));
        }
        prop_assert_eq!(scene.wanted(), restarted.wanted());
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn followers_hear_nothing_of_labels_and_workers_do() {
    let settings = Settings {
        widen: None,
        ipv6_prefix: 64,
        by_jail: false,
        comment: "{jail}".to_owned(),
        high: false,
        allow: Vec::new(),
        protect: false,
    };
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _writer) = ledger(&folder);
    let standing = [(net("198.51.100.7/32"), 100, 0, false), (net("198.51.100.8/32"), 100, 1, false)];
    let scene = settings.start(&standing, &ledger);
    let journal = scene.desired.journal();
    let mut subscription = scene.desired.subscribe();
    subscription.take();
    let last = journal.borrow().last();
    scene.bans.reconfigure(settings.rules(), settings.allow(), at(0));
    assert!(subscription.take().is_empty(), "nothing has changed");
    let high = Settings { high: true, ..settings };
    scene.bans.reconfigure(high.rules(), high.allow(), at(0));
    let changed = crate::desired::Changes::Prefixes([net("198.51.100.7/32")].into());
    assert_eq!(subscription.take(), changed, "the jail of the other is of the same severity");
    assert_eq!(journal.borrow().last(), last);
}

/// What happens while a reload goes on: it is done between two holds of the lock, by the thread that reloads, which would
/// wait for ever were the lock still held.
#[derive(Clone, Debug)]
enum Step {
    Offence(IpAddr, u8),
    Ban(IpNet),
    Unban(IpNet),
    /// So many seconds from the start.
    Expire(i64),
}

impl Scene {
    fn step(&self, step: &Step) {
        match step {
            Step::Offence(address, number) => {
                let offence = Offence {
                    jail: jail(*number),
                    address: *address,
                    time: at(0),
                    failures: 3,
                    bantime: BanTime::For(Seconds(1500)),
                    escalation: None,
                    evidence: Vec::new(),
                };
                let offences = vec![NumberedOffence { sequence: 1, offence }];
                let (sensor, outbox) = ("web-1".parse().unwrap(), "o".parse().unwrap());
                drop(self.bans.take(&sensor, (&outbox, 1), offences, &Earlier::default(), at(0)));
            }
            Step::Ban(prefix) => {
                let _ = self.bans.ban(*prefix, BanTime::Permanent, "x: it scans us", true, at(0));
            }
            Step::Unban(prefix) => drop(self.bans.unban(*prefix, "test", at(0))),
            Step::Expire(second) => drop(self.bans.expire(at(*second))),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    // Before the first ban that stands, among them, and behind the last one.
    let host = (0..8_u8, prop::sample::select(vec![9_u8, 198, 240]))
        .prop_map(|(host, first)| IpAddr::from([first, 51, 100, host]));
    prop_oneof![
        3 => (host.clone(), 0..2_u8).prop_map(|(address, number)| Step::Offence(address, number)),
        1 => host.clone().prop_map(|address| Step::Ban(address.into())),
        2 => host.prop_map(|address| Step::Unban(address.into())),
        1 => (0..1000_i64).prop_map(Step::Expire),
    ]
}

#[test]
fn bans_come_and_go_while_a_reload_goes_on_and_each_is_called_what_the_new_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, _writer) = ledger(&folder);
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, ..ProptestConfig::default() });
    let filler = (0..1000_u32).map(|number| {
        let [_, _, high, low] = number.to_be_bytes();
        (IpNet::from(IpAddr::from([100, 64, high, low])), 1800, 0, false)
    });
    let filler: Vec<Standing> = filler.collect();
    let histories = (standing(), settings(), settings(), prop::collection::vec(step(), 0..12), any::<bool>());
    let checked = runner.run(&histories, |(mut standing, before, after, steps, widened)| {
        standing.extend(&filler);
        // What a network is called depends on whose ban made it wide, and so on the order of what happened.
        let widen = |settings: Settings| Settings { widen: settings.widen.filter(|_| widened), ..settings };
        let (ipv6_prefix, allow) = (before.ipv6_prefix, before.allow.clone());
        let (before, after) = (widen(before), widen(Settings { ipv6_prefix, allow: allow.clone(), ..after }));
        let after = Settings { protect: after.protect && before.protect, ..after };
        let scene = before.start(&standing, &ledger);
        let (mut waiting, mut most) = (steps.iter(), 0);
        scene.bans.reconfigure_between(after.rules(), after.allow(), at(0), |done| {
            most = most.max(done);
            waiting.by_ref().take(3).for_each(|step| scene.step(step));
        });
        waiting.for_each(|step| scene.step(step));
        prop_assert!(most <= TOGETHER, "{} bans under one lock", most);
        let restarted = after.start(&standing, &ledger);
        steps.iter().for_each(|step| restarted.step(step));
        prop_assert_eq!(scene.bans.len(), restarted.bans.len());
        if widened {
            let names = |scene: &Scene| -> Vec<String> {
                let mut names: Vec<String> =
                    scene.wanted().into_values().map(|(_, comment, _)| comment).collect();
                names.sort();
                names.dedup();
                names
            };
            let template = after.comment.contains("sensor");
            prop_assert!(
                names(&scene).iter().all(|name| name.contains(" from ") == template),
                "{:?}",
                names(&scene)
            );
        } else {
            prop_assert_eq!(scene.wanted(), restarted.wanted());
        }
        // Another reload finds nothing to change.
        let subscription = &mut scene.desired.subscribe();
        subscription.take();
        scene
            .bans
            .reconfigure_between(after.rules(), after.allow(), at(0), |_| panic!("nothing is to be done"));
        prop_assert!(subscription.take().is_empty());
        Ok(())
    });
    checked.unwrap();
}
