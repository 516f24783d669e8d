//! One run: a schedule carried out on a stage, while what must hold is looked at, until everything has settled.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use routeros_sim::Fault;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until};

use crate::claims::{ClaimId, ClaimKind};
use crate::daemon::Holdings;
use crate::invariants::{
    Breach, Invariant, LedgerBan, Moment, judge_entries, judge_ledger, judge_settled, judge_strangers,
};
use crate::plant::Plant;
use crate::pressure;
use crate::proxy::Condition;
use crate::record::{Record, attacker_prefix};
use crate::schedule::{Breakage, Event, Falter, Part, Schedule};
use crate::stage::{JAILS, Means, Seat, Stage};

/// In how much time, beside a router's own, everything is to settle after the last fault.
const SETTLES: Duration = Duration::from_secs(5);
/// How often routers are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How much time the machine may take from everything to settle, at most.
const MOST_LATE: Duration = Duration::from_secs(30);
/// In how much time the enforcer misses an answer to one command: it asks for another after a second, waits two
/// seconds, and longer where it was given no answer the time before.
const ANSWER_DEADLINE: Duration = Duration::from_secs(8);
/// How long it takes at most until it sends again what was refused twice.
const REFUSED_PAUSES: Duration = Duration::from_secs(16);
/// In how much time a step of the enforcer's clock is seen by everyone: libfaketime looks once a second, and so does the
/// enforcer.
const STEP_NOTICED: Duration = Duration::from_secs(3);
/// How long a message may be on its way, and is then taken for a clock's error.
const WAY: SignedDuration = SignedDuration::from_secs(20);
/// By how much a process may grow, in KiB and in descriptors.
const GROWTH: Holdings = Holdings { memory: 48 * 1024, descriptors: 24 };
/// The beginning of the paths of the commands that can go wrong.
const LISTS: [&str; 2] = ["/ip/firewall/address-list", "/ipv6/firewall/address-list"];

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What broke; nothing, if all is well.
    pub breaches: Vec<Breach>,
    /// What was done and seen, a line each.
    pub lines: Vec<String>,
    /// How long after the last fault everything was settled; `None` if it never was.
    pub settled: Option<Duration>,
    /// How many bans the ledger had at the end.
    pub bans: usize,
}

/// A run under way.
struct Run {
    stage: Stage,
    record: Arc<Record>,
    /// What is broken, and what was: since when it is whole again.
    troubles: Mutex<BTreeMap<Part, Option<Instant>>>,
    /// In how much time what goes wrong with the answers of each router is noticed.
    noticed: Mutex<BTreeMap<usize, Duration>>,
    /// Who breaks a part, until it is whole again.
    turns: Mutex<BTreeMap<Part, Arc<tokio::sync::Mutex<()>>>>,
    /// The claims that came by sensors' logs, and by which.
    by_log: Mutex<Vec<(usize, ClaimId)>>,
    /// By how many seconds the clock of each sensor's host is off, and when it was set.
    clocks: Mutex<BTreeMap<usize, (i64, Instant)>>,
}

/// Carries a schedule out in a folder.
pub async fn run(schedule: &Schedule, plant: Option<Plant>, folder: &Path, means: &Means) -> Result<Outcome> {
    let stage = Stage::set(&schedule.cast, folder, means).await.context("cannot set the stage")?;
    let run = Arc::new(Run {
        stage,
        record: Arc::new(Record::new()),
        troubles: Mutex::default(),
        noticed: Mutex::default(),
        turns: Mutex::default(),
        clocks: Mutex::default(),
        by_log: Mutex::default(),
    });
    let before = run.holdings().await;
    let looks = tokio::spawn(run.clone().look_on());
    let mut posts = run.clone().carry_out(schedule).await;
    if let Some(plant) = plant {
        plant.set(&run.stage, &run.record).await?;
    }
    let settled = run.settle(&mut posts).await;
    looks.abort();
    run.judge_holdings(&before).await;
    let bans = run.judge_ledger().await?;
    run.end().await?;
    Ok(Outcome { breaches: run.record.breaches(), lines: run.record.lines(), settled, bans })
}

// === impl Run ===

impl Run {
    /// Does what the schedule says when it says it, and heals what it breaks. Returns the posts that are not acked yet.
    async fn carry_out(self: Arc<Self>, schedule: &Schedule) -> JoinSet<Result<()>> {
        let began = Instant::now();
        let (mut posts, mut others) = (JoinSet::new(), JoinSet::new());
        for timed in &schedule.events {
            sleep_until(began + timed.at).await;
            let run = self.clone();
            let event = timed.event.clone();
            match event {
                Event::Attack { sensor, attacker, jail } => {
                    run.attack(sensor, attacker, jail, schedule.cast.bantimes[jail]);
                }
                Event::Post { client, attackers, bantime } => {
                    posts.spawn(run.stage.clients[client].clone().post(
                        attackers,
                        bantime,
                        run.record.clone(),
                    ));
                }
                Event::Break(part, how, lasting) => {
                    others.spawn(async move { run.break_for(part, how, lasting).await });
                }
                other => {
                    others.spawn(async move { run.happen(other).await });
                }
            }
        }
        while let Some(done) = others.join_next().await {
            let done = done.unwrap_or_else(|error| Err(error.into()));
            if let Err(error) = done {
                self.record.breach(Invariant::ProcessesLive, format!("{error:#}"));
            }
        }
        for (place, seat) in self.stage.routers.iter().enumerate() {
            self.look_for_faults(place);
            seat.router.forget_faults();
        }
        self.record.tell("everything is whole again");
        posts
    }

    fn attack(&self, sensor: usize, attacker: u16, jail: usize, bantime: u32) {
        let now = Timestamp::now();
        let ends = now + SignedDuration::from_secs(bantime.into());
        let kind = ClaimKind::Ban { earliest: ends, latest: Some(ends) };
        let claim = self.record.ask(attacker_prefix(attacker), kind);
        self.by_log.lock().unwrap_or_else(PoisonError::into_inner).push((sensor, claim.clone()));
        let (off, set) = self.clock(sensor);
        if set.is_some() || !self.record.clock_spread().is_zero() {
            // The way of a message is taken for the clock's error, too.
            self.record.claims().bound(&claim, ends + WAY);
        }
        if let Some(set) = set {
            let mut claims = self.record.claims();
            if set.elapsed() < Duration::from_secs(3) {
                // Nobody knows which of the two clocks the sensor reads.
                claims.make_vague(&claim);
            }
        }
        let dated = now + SignedDuration::from_secs(off);
        if let Err(error) = self.stage.log(sensor).fail(attacker, JAILS[jail], dated, claim) {
            self.record.tell(format!("cannot write to the log of sensor {sensor}: {error}"));
        }
    }

    async fn happen(&self, event: Event) -> Result<()> {
        self.record.tell(format!("{event:?}"));
        match event {
            Event::Rotate(sensor, how) => {
                let deleted = self.stage.log(sensor).rotate(how)?;
                // Nobody can read what was deleted before it was read.
                for claim in deleted {
                    self.record.claims().weaken(&claim);
                }
            }
            Event::Ban(attacker, seconds) => {
                let prefix = attacker_prefix(attacker);
                // It runs from whenever the enforcer takes it.
                let ends = Timestamp::now() + SignedDuration::from_secs(seconds.into());
                let claim = self.record.ask(prefix, ClaimKind::Ban { earliest: ends, latest: None });
                let (who, time) = (prefix.to_string(), seconds.to_string());
                if self.command(&["ban", &who, "--for", &time, "--reason", "by hand"]).await {
                    let now = Timestamp::now();
                    let mut claims = self.record.claims();
                    claims.bound(&claim, now + SignedDuration::from_secs(seconds.into()));
                    claims.done(&claim, now);
                }
            }
            Event::Unban(attacker) => {
                let prefix = attacker_prefix(attacker);
                let claim = self.record.ask(prefix, ClaimKind::Unban);
                if self.command(&["unban", &prefix.to_string(), "--reason", "by hand"]).await {
                    self.record.claims().done(&claim, Timestamp::now());
                }
            }
            Event::Allow(attacker, seconds) => {
                let prefix = attacker_prefix(attacker);
                let until = Timestamp::now() + SignedDuration::from_secs(seconds.into());
                let claim = self.record.ask(prefix, ClaimKind::Allow(until));
                let (who, time) = (prefix.to_string(), seconds.to_string());
                if self.command(&["allow", &who, "--for", &time, "--reason", "by hand"]).await {
                    self.record.claims().done(&claim, Timestamp::now());
                }
            }
            Event::Disallow(attacker) => {
                let prefix = attacker_prefix(attacker);
                let claim = self.record.ask(prefix, ClaimKind::Disallow);
                if self.command(&["allow", "--remove", &prefix.to_string()]).await {
                    self.record.claims().done(&claim, Timestamp::now());
                }
            }
            Event::SetClock(sensor, off) => {
                if !self.stage.sensors[sensor].lock().await.set_clock(off)? {
                    self.record.tell("no clock is set: there is no libfaketime");
                    return Ok(());
                }
                let set = (off, Instant::now());
                self.clocks.lock().unwrap_or_else(PoisonError::into_inner).insert(sensor, set);
                // What was written by the clock of before may be sent by that of after: it was seen long ago, or just now.
                let by_log = self.by_log.lock().unwrap_or_else(PoisonError::into_inner);
                let mut claims = self.record.claims();
                by_log.iter().filter(|(at, _)| *at == sensor).for_each(|(_, claim)| claims.make_vague(claim));
            }
            Event::SetEnforcerClock(off) => {
                // The file is looked at every second, the clock every second by the enforcer, and routers are read then.
                self.trouble(Part::Enforcer, Some(Instant::now() + STEP_NOTICED));
                if !self.stage.enforcer.lock().await.set_clock(off)? {
                    self.record.tell("no clock is set: there is no libfaketime");
                    return Ok(());
                }
                self.record.set_enforcer_clock(off);
                // What is on its way now is dated by either clock.
                let by_log = self.by_log.lock().unwrap_or_else(PoisonError::into_inner);
                let mut claims = self.record.claims();
                by_log.iter().for_each(|(_, claim)| claims.make_vague(claim));
            }
            Event::Falter { router, how, after } => {
                let fault = match how {
                    Falter::DropReply => Fault::DropReply,
                    Falter::CloseMidReply => Fault::CloseMidReply,
                    Falter::SwallowAfter => Fault::Swallow { applied: true },
                    Falter::SwallowBefore => Fault::Swallow { applied: false },
                    Falter::Trap => {
                        Fault::Trap { message: "failure: out of memory".to_owned(), category: None }
                    }
                };
                let mut path = LISTS[after % 2].to_owned();
                let noticed = match fault {
                    Fault::Swallow { .. } => ANSWER_DEADLINE,
                    Fault::Trap { .. } => REFUSED_PAUSES,
                    _ => Duration::ZERO,
                };
                {
                    let mut all = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
                    let longest = all.entry(router).or_default();
                    *longest = noticed.max(*longest);
                }
                if matches!(fault, Fault::Swallow { .. }) {
                    path.push_str("/add");
                }
                self.stage.routers[router].router.inject(fault, &path, after);
                self.look_for_faults(router);
            }
            Event::Attack { .. } | Event::Post { .. } | Event::Break(..) => {}
        }
        Ok(())
    }

    async fn break_for(&self, part: Part, how: Breakage, lasting: Duration) -> Result<()> {
        // On a machine that is late, the one before may not be over yet.
        let turn = self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(part).or_default().clone();
        let _turn = turn.lock().await;
        let until = Instant::now() + lasting;
        self.trouble(part, None);
        self.record.tell(format!("{part:?}: {how:?} for {lasting:.1?}"));
        let broken = self.set_broken(part, how).await;
        sleep_until(until).await;
        let healed = self.heal(part, how).await;
        self.record.tell(format!("{part:?} is whole again"));
        self.trouble(part, Some(Instant::now()));
        broken.and(healed).with_context(|| format!("{part:?}: {how:?}"))
    }

    async fn set_broken(&self, part: Part, how: Breakage) -> Result<()> {
        let stage = &self.stage;
        match (part, how) {
            (Part::Enforcer | Part::Sensor(_), _) => {
                let mut daemon = self.daemon(part).lock().await;
                match how {
                    Breakage::Kill => daemon.kill()?,
                    Breakage::Restart => daemon.terminate().await?,
                    _ => daemon.signal(Signal::STOP)?,
                }
            }
            (Part::Router(place), _) => stage.routers[place].router.go_down().await,
            (Part::Uplink(place), _) => stage.uplinks[place].set(condition(how)),
            (Part::Downlink(place), _) => stage.routers[place].way.set(condition(how)),
            (Part::EnforcerDisk | Part::SensorDisk(_), _) => stage.disks[&part].fill()?,
        }
        Ok(())
    }

    async fn heal(&self, part: Part, how: Breakage) -> Result<()> {
        let stage = &self.stage;
        match (part, how) {
            (Part::Enforcer | Part::Sensor(_), _) => {
                let mut daemon = self.daemon(part).lock().await;
                if how == Breakage::Stop { daemon.signal(Signal::CONT)? } else { daemon.start()? }
            }
            (Part::Router(place), _) => {
                stage.routers[place].router.reboot().await;
                stage.routers[place].router.come_up().await?;
            }
            (Part::Uplink(place), _) => stage.uplinks[place].set(Condition::Whole),
            (Part::Downlink(place), _) => stage.routers[place].way.set(Condition::Whole),
            (Part::EnforcerDisk | Part::SensorDisk(_), _) => stage.disks[&part].free()?,
        }
        Ok(())
    }

    /// Looks at every router again and again.
    async fn look_on(self: Arc<Self>) {
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            for (place, seat) in self.stage.routers.iter().enumerate() {
                self.look_at(place, seat);
            }
            for part in self.processes() {
                // Whoever breaks it just now has it.
                let Ok(mut daemon) = self.daemon(part).try_lock() else { continue };
                let Some(how) = daemon.ended() else { continue };
                self.record.tell(format!("{part:?} {how}"));
                self.record.breach(Invariant::ProcessesLive, format!("{part:?} {how}"));
                if let Err(error) = daemon.start() {
                    self.record.tell(format!("{part:?} cannot be started again: {error:#}"));
                }
            }
        }
    }

    fn look_at(&self, place: usize, seat: &Seat) {
        let entries = seat.entries();
        let now = Timestamp::now();
        let claims = self.record.claims();
        let patience = (SETTLES + seat.own_time(claims.prefixes().count())).mul_f64(pressure::patience());
        let moment = Moment {
            router: &seat.name,
            now,
            caught_up: self
                .whole_for(place, patience)
                .then(|| now - SignedDuration::try_from(patience).unwrap_or_default()),
            clock_off: self.record.clock_spread(),
        };
        let mut breaches = judge_entries(&claims, &moment, &entries);
        drop(claims);
        breaches.extend(judge_strangers(&seat.name, &seat.strangers, &entries));
        breaches.into_iter().for_each(|breach| self.record.broke(breach));
    }

    /// Whether nothing stood between the enforcer and this router for so long.
    fn whole_for(&self, router: usize, patience: Duration) -> bool {
        self.look_for_faults(router);
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let concerns = [Part::Enforcer, Part::EnforcerDisk, Part::Router(router), Part::Downlink(router)];
        concerns.iter().all(|part| match troubles.get(part) {
            None => true,
            Some(None) => false,
            Some(Some(since)) => *since + patience <= Instant::now(),
        })
    }

    /// What is still to go wrong with a router's answers may go wrong now.
    fn look_for_faults(&self, router: usize) {
        if self.stage.routers[router].router.faults_to_come() == 0 {
            return;
        }
        let noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner).get(&router).copied();
        self.trouble(Part::Router(router), Some(Instant::now() + noticed.unwrap_or_default()));
    }

    /// Waits until everything is as it should be. That it comes to be so in time is one of the invariants.
    async fn settle(&self, posts: &mut JoinSet<Result<()>>) -> Option<Duration> {
        let healed = Instant::now();
        let bans = self.record.claims().prefixes().count();
        let own = self.stage.routers.iter().map(|seat| seat.own_time(bans)).max().unwrap_or_default();
        // A command that gets no answer is noticed by its deadline alone.
        let waits = self.last_trouble().map_or(Duration::ZERO, |last| last.saturating_duration_since(healed));
        let mut last =
            vec![Breach { invariant: Invariant::EverythingSettles, what: "never looked at".to_owned() }];
        let mut late = Duration::ZERO;
        loop {
            let began = Instant::now();
            let limit = (own + SETTLES).mul_f64(pressure::patience()) + waits + late.min(MOST_LATE);
            if healed.elapsed() > limit {
                for breach in last {
                    self.record.broke(Breach {
                        what: format!(
                            "{:.1} s after the last fault: {}",
                            healed.elapsed().as_secs_f64(),
                            breach.what
                        ),
                        ..breach
                    });
                }
                return None;
            }
            while let Some(done) = posts.try_join_next() {
                if let Err(error) = done.unwrap_or_else(|error| Err(error.into())) {
                    self.record.breach(Invariant::NothingAckedIsLost, format!("{error:#}"));
                }
            }
            last = self.unsettled(posts.len()).await;
            if last.is_empty() {
                self.record.tell(format!("everything settled after {:.1?}", healed.elapsed()));
                return Some(healed.elapsed());
            }
            sleep(LOOK).await;
            // What a look takes longer than on a machine that is idle, everything else waits, too.
            late += began.elapsed().saturating_sub(2 * LOOK);
        }
    }

    /// What is not as it should be yet.
    async fn unsettled(&self, posts: usize) -> Vec<Breach> {
        let breach = |what: String| vec![Breach { invariant: Invariant::EverythingSettles, what }];
        if posts > 0 {
            return breach(format!("{posts} batches have no ack"));
        }
        let standing = match self.bans("bans").await {
            Ok(standing) => standing,
            Err(error) => return breach(format!("`bans` does not answer: {error:#}")),
        };
        let mut breaches = Vec::new();
        for seat in &self.stage.routers {
            breaches.extend(judge_settled(
                &seat.name,
                &standing,
                &seat.entries(),
                self.record.enforcer_now(),
            ));
        }
        if !breaches.is_empty() {
            return breaches;
        }
        // Lines of logs get no ack: they are through when the ledger has what they lead to.
        self.take_lines_as_acked();
        let history = match self.bans("history").await {
            Ok(history) => history,
            Err(error) => return breach(format!("`history` does not answer: {error:#}")),
        };
        let missing = self.missing(&history);
        missing.into_iter().filter(|breach| breach.invariant == Invariant::NothingAckedIsLost).collect()
    }

    /// From now on what was written to logs has to be in the ledger.
    fn take_lines_as_acked(&self) {
        let mut claims = self.record.claims();
        for (_, claim) in self.by_log.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            claims.through(claim, Timestamp::now(), self.record.clock_spread());
        }
    }

    async fn judge_ledger(&self) -> Result<usize> {
        let history = self.bans("history").await.context("the ledger cannot be read at the end")?;
        self.take_lines_as_acked();
        let breaches = self.missing(&history);
        breaches.into_iter().for_each(|breach| self.record.broke(breach));
        Ok(history.len())
    }

    /// What the ledger's history lacks, or has too much.
    fn missing(&self, history: &[LedgerBan]) -> Vec<Breach> {
        let (now, spread) = (self.record.enforcer_now(), self.record.clock_spread());
        judge_ledger(&self.record.claims(), history, now, spread)
    }

    async fn bans(&self, which: &str) -> Result<Vec<LedgerBan>> {
        Ok(serde_json::from_str(&self.stage.command(&[which, "--json"]).await?)?)
    }

    async fn command(&self, arguments: &[&str]) -> bool {
        let done = self.stage.command(arguments).await;
        let what = done.as_ref().map_or_else(|error| format!("{error:#}"), |_| "done".to_owned());
        self.record.tell(format!("{}: {what}", arguments.join(" ")));
        done.is_ok()
    }

    async fn holdings(&self) -> BTreeMap<Part, Holdings> {
        let mut holdings = BTreeMap::new();
        for part in self.processes() {
            if let Some(held) = self.daemon(part).lock().await.holdings() {
                holdings.insert(part, held);
            }
        }
        holdings
    }

    async fn judge_holdings(&self, before: &BTreeMap<Part, Holdings>) {
        for (part, after) in self.holdings().await {
            let Some(before) = before.get(&part) else { continue };
            self.record.tell(format!("{part:?}: {before:?}, then {after:?}"));
            let grown = after.memory > before.memory + GROWTH.memory
                || after.descriptors > before.descriptors + GROWTH.descriptors;
            if grown {
                self.record.breach(Invariant::NothingGrows, format!("{part:?}: {before:?} became {after:?}"));
            }
        }
    }

    async fn end(&self) -> Result<()> {
        for part in self.processes() {
            let mut daemon = self.daemon(part).lock().await;
            if let Err(error) = daemon.terminate().await {
                self.record.breach(Invariant::ProcessesLive, format!("{part:?} {error:#}"));
            }
            for panic in daemon.panics() {
                self.record.breach(Invariant::ProcessesLive, format!("{part:?}: {panic}"));
            }
        }
        Ok(())
    }

    fn processes(&self) -> impl Iterator<Item = Part> + use<> {
        let sensors = self.stage.sensors.len();
        std::iter::once(Part::Enforcer).chain((0..sensors).map(Part::Sensor))
    }

    fn daemon(&self, part: Part) -> &tokio::sync::Mutex<crate::daemon::Daemon> {
        match part {
            Part::Sensor(place) => &self.stage.sensors[place],
            _ => &self.stage.enforcer,
        }
    }

    /// By how many seconds the clock of a sensor's host is off, and when it was set, if it was.
    fn clock(&self, sensor: usize) -> (i64, Option<Instant>) {
        let clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.get(&sensor).map_or((0, None), |(off, set)| (*off, Some(*set)))
    }

    /// When the last of what was broken is whole again.
    fn last_trouble(&self) -> Option<Instant> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().max().copied()
    }

    fn trouble(&self, part: Part, until: Option<Instant>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let known = troubles.entry(part).or_insert(until);
        // What lasts longer stays.
        if until.is_none() || known.is_none_or(|known| until.is_some_and(|until| until > known)) {
            *known = until;
        }
    }
}

fn condition(how: Breakage) -> Condition {
    match how {
        Breakage::Stall => Condition::Stalled,
        Breakage::Swallow => Condition::Swallowing,
        _ => Condition::Cut,
    }
}
