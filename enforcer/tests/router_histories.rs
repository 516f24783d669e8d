//! A worker and a simulated router through random histories: bans and their ends, strangers' entries,
//! lost replies, reboots, clocks that jump. Whatever happens, once it is quiet the router holds what is
//! desired, nothing of a stranger's was touched, and nothing is sent that is not needed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod stage;

use std::time::Duration;

use atalaya_enforcer::router::{RouterStatus, State};
use jiff::SignedDuration;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use routeros_sim::{Entry, Family, Fault, Router};
use stage::{MARK, Stage};

/// What is banned and what strangers add, as the router prints it.
const ADDRESSES: [&str; 6] =
    ["192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.0/24", "2001:db8::1/128", "2001:db8:1::/64"];

/// How far an entry's end may be off, in seconds: the reconciler's tolerance and whole seconds either way.
const TOLERANCE: f64 = 7.0;

const STRANGER: &str = "by hand";

#[derive(Clone, Debug)]
enum Event {
    Ban {
        address: usize,
        seconds: i64,
    },
    BanForever {
        address: usize,
    },
    Unban {
        address: usize,
    },
    StrangerAdds {
        address: usize,
        seconds: Option<u64>,
    },
    SomeoneRemoves {
        address: usize,
    },
    SomeoneTakesOver {
        address: usize,
    },
    SomeoneShortens {
        address: usize,
    },
    Time {
        seconds: u64,
    },
    /// The enforcer's clock alone.
    ClockJumps {
        seconds: i64,
    },
    Fault {
        fault: Fault,
        after: usize,
    },
    Reboot,
    Outage,
    Quiet,
}

fn events(faults: bool) -> BoxedStrategy<Event> {
    let address = || 0..ADDRESSES.len();
    let fault = prop_oneof![
        Just(Fault::DropReply),
        Just(Fault::CloseMidReply),
        Just(Fault::Reboot),
        Just(Fault::Trap { message: "failure: out of memory".to_owned(), category: None }),
    ];
    let peaceful = prop_oneof![
        6 => (address(), 60..4000_i64).prop_map(|(address, seconds)| Event::Ban { address, seconds }),
        1 => address().prop_map(|address| Event::BanForever { address }),
        3 => address().prop_map(|address| Event::Unban { address }),
        2 => (address(), prop::option::of(60..4000_u64))
            .prop_map(|(address, seconds)| Event::StrangerAdds { address, seconds }),
        2 => prop_oneof![0..30_u64, 600..2000_u64].prop_map(|seconds| Event::Time { seconds }),
        1 => Just(Event::Reboot),
    ];
    let upsetting = prop_oneof![
        address().prop_map(|address| Event::SomeoneRemoves { address }),
        address().prop_map(|address| Event::SomeoneTakesOver { address }),
        address().prop_map(|address| Event::SomeoneShortens { address }),
        (-4000..4000_i64).prop_map(|seconds| Event::ClockJumps { seconds }),
        (fault, 0..3_usize).prop_map(|(fault, after)| Event::Fault { fault, after }),
        Just(Event::Outage),
        Just(Event::Quiet),
    ];
    if faults { prop_oneof![3 => peaceful, 2 => upsetting].boxed() } else { peaceful.boxed() }
}

/// One router, and the strangers' entries that must not be touched.
struct World {
    stage: Stage,
    strangers: Vec<Entry>,
}

impl World {
    async fn new() -> Self {
        let stage = Stage::with(Router::builder(), |config| {
            config.deadlines.answer = Duration::from_millis(300);
        })
        .await;
        Self { stage, strangers: Vec::new() }
    }

    async fn happen(&mut self, event: &Event) {
        let stage = &self.stage;
        match event {
            Event::Ban { address, seconds } => stage.ban(ADDRESSES[*address], *seconds),
            Event::BanForever { address } => stage.ban_forever(ADDRESSES[*address]),
            Event::Unban { address } => stage.unban(ADDRESSES[*address]),
            Event::StrangerAdds { address, seconds } => {
                let (text, timeout) = (ADDRESSES[*address], seconds.map(Duration::from_secs));
                stage.router.insert_foreign(family(text), "spammer", text, STRANGER, timeout);
            }
            Event::SomeoneRemoves { address } => {
                if let Some(entry) = self.ours(*address) {
                    stage.router.remove_entry(entry.family, &entry.id);
                }
            }
            Event::SomeoneTakesOver { address } => {
                if let Some(entry) = self.ours(*address) {
                    let _ = stage.router.edit_comment(entry.family, &entry.id, STRANGER);
                }
            }
            Event::SomeoneShortens { address } => {
                if let Some(entry) = self.ours(*address) {
                    let _ = stage.router.edit_timeout(entry.family, &entry.id, Duration::from_secs(30));
                }
            }
            Event::Time { seconds } => stage.advance(*seconds),
            Event::ClockJumps { seconds } => stage.clock.advance(SignedDuration::from_secs(*seconds)),
            Event::Fault { fault, after } => stage.router.inject(fault.clone(), "/ip", *after),
            Event::Reboot => stage.router.reboot().await,
            Event::Outage => {
                stage.router.go_down().await;
                stage.router.come_up().await.unwrap();
            }
            Event::Quiet => self.rest().await,
        }
        // As the service does: a ban that is over is not desired.
        let now = stage.clock.now();
        for address in ADDRESSES {
            let wanted = stage.desired.get(stage::parse(address));
            if wanted.is_some_and(|wanted| wanted.until.timestamp().is_some_and(|until| until <= now)) {
                stage.unban(address);
            }
        }
        let strangers = stage.entries().into_iter().filter(|entry| entry.comment == STRANGER);
        self.strangers = strangers.collect();
    }

    fn ours(&self, address: usize) -> Option<Entry> {
        let mut entries = self.stage.entries().into_iter();
        entries.find(|entry| entry.address == ADDRESSES[address] && entry.comment.starts_with(MARK))
    }

    /// Reads and reconciles everything, and waits until nothing is left to do.
    async fn settle(&self) {
        let sessions = self.stage.worker.status().sessions;
        self.stage.router.go_down().await;
        self.stage.router.come_up().await.unwrap();
        self.stage.shows(|status| status.sessions > sessions && status.state == State::Connected).await;
        self.rest().await;
    }

    /// Waits until a ban of another address, set now, has come and gone, and nothing is left to do.
    async fn rest(&self) {
        const MARKER: &str = "198.18.255.255";
        let holds = |there: bool| {
            move |entries: &[Entry]| entries.iter().any(|entry| entry.address == MARKER) == there
        };
        self.stage.ban(MARKER, 86_400);
        self.stage.router.wait_for(holds(true), stage::PATIENCE).await.unwrap();
        self.quiet().await;
        self.stage.unban(MARKER);
        self.stage.router.wait_for(holds(false), stage::PATIENCE).await.unwrap();
        self.quiet().await;
    }

    async fn quiet(&self) {
        let quiet = |status: &RouterStatus| {
            status.state == State::Connected && status.in_flight == 0 && status.queued == 0
        };
        self.stage.shows(quiet).await;
    }

    /// How many commands that change something were carried out or refused.
    fn commands(&self) -> u64 {
        let counts = self.stage.router.counts();
        counts.adds + counts.sets + counts.removes + counts.duplicates
    }

    fn check(&self) {
        let entries = self.stage.entries();
        let now = self.stage.clock.now();
        for address in ADDRESSES {
            let entry = entries.iter().find(|entry| entry.address == address);
            let wanted = self.stage.desired.get(stage::parse(address));
            let left = wanted.map(|wanted| {
                wanted
                    .until
                    .timestamp()
                    .map_or(f64::INFINITY, |until| until.duration_since(now).as_secs_f64())
            });
            let held = entry.map(|entry| entry.timeout_left.map_or(f64::INFINITY, |left| left.as_secs_f64()));
            match (left.filter(|left| *left > 1.0), entry) {
                (_, Some(entry)) if entry.comment == STRANGER => {}
                (None, None) => {}
                (None, Some(_)) => assert!(held.unwrap() <= TOLERANCE, "{address} stayed: {entries:#?}"),
                (Some(left), None) => panic!("{address} is missing, with {left} s left: {entries:#?}"),
                (Some(left), Some(_)) if left.is_infinite() => {
                    assert!(held.unwrap() > 100.0 * 86_400.0, "{address} for ever has {held:?} s");
                }
                (Some(left), Some(_)) => {
                    let off = (held.unwrap() - left).abs();
                    assert!(off <= TOLERANCE, "{address} is off by {off} s: {entries:#?}");
                }
            }
        }
        for stranger in &self.strangers {
            // All that may change is what is left of its time, and that it lapses.
            let there =
                entries.iter().find(|entry| entry.id == stranger.id && entry.family == stranger.family);
            let same =
                there.is_some_and(|entry| entry.comment == STRANGER && entry.address == stranger.address);
            assert!(same || stranger.timeout_left.is_some(), "a stranger's entry was touched: {stranger:?}");
        }
    }
}

fn family(address: &str) -> Family {
    if address.contains(':') { Family::V6 } else { Family::V4 }
}

/// Runs generated cases; each has a runtime of its own.
fn run(cases: u32, faults: bool, most: usize, case: impl AsyncFn(Vec<Event>)) {
    let config = ProptestConfig {
        cases,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let histories = prop::collection::vec(events(faults), 0..most);
    TestRunner::new(config)
        .run(&histories, |history| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(case(history));
            Ok(())
        })
        .unwrap();
}

#[test]
fn after_any_history_the_router_holds_what_is_desired_and_strangers_keep_theirs() {
    run(60, true, 40, async |history| {
        let mut world = World::new().await;
        for event in &history {
            world.happen(event).await;
        }
        // Faults that struck nothing yet strike the first reconciliation, and the second mends it.
        world.settle().await;
        world.settle().await;
        world.check();
        let commands = world.commands();
        let rest = world.stage.worker.status().sessions;
        world.settle().await;
        assert!(world.stage.worker.status().sessions > rest);
        // Coming to rest adds and removes one address.
        assert_eq!(world.commands(), commands + 2, "a reconciliation sent what nothing needed");
    });
}

#[test]
fn without_trouble_a_change_costs_one_command_and_time_and_strangers_none() {
    run(60, false, 20, async |history| {
        let mut world = World::new().await;
        world.rest().await;
        for event in &history {
            let before = world.commands();
            let standing =
                world.stage.entries().iter().filter(|entry| entry.comment.starts_with(MARK)).count();
            world.happen(event).await;
            let rebooted = matches!(event, Event::Reboot);
            if rebooted {
                world.quiet().await;
            }
            world.rest().await;
            let commands = world.commands() - before - 2;
            let most = match event {
                // A ban that meets a stranger's entry learns of it by a duplicate.
                Event::Ban { .. } | Event::BanForever { .. } | Event::Unban { .. } => 1,
                // What a stranger's entry covered for a while may be due too.
                Event::Reboot | Event::Time { .. } => standing + ADDRESSES.len(),
                _ => 0,
            };
            assert!(commands <= most as u64, "{event:?} took {commands} commands");
        }
    });
}
