//! The local drop of the running sensor: bans go into the kernel's maps the moment they are known, from the
//! jails here at once, and from the enforcer as they come; whom anybody spares is told to the kernel first.
//! What the jails here banned stays as long as the enforcer has not refused or lifted it.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atalaya_program::host_names;
use atalaya_wire::Name;
use ipnet::IpNet;
use tokio::sync::{Notify, watch};

use super::{REFRESH_INTERVAL, Shared, Watch, lock};
use crate::channel::local_drop::WantedLocalDrop;
use crate::config::{Config, LocalDropConfig};
use crate::control::Status;
use crate::detector::JailStatus;
use crate::jail::settings::JailConfig;
use crate::local_drop::moment::Moment;
use crate::local_drop::spared::Lifelines;
use crate::local_drop::status::{DroppedBan, FleetStatus, LocalDropStatus};
use crate::local_drop::table::{By, Change, Deadline, Table};
use crate::local_drop::trusted::Trusted;
use crate::pinned::bans::Bans;
use crate::pinned::pins::Pins;
use crate::uplink::Following;
use crate::uplink::membership::Membership;

mod fleet;
mod own_bans;

use fleet::FleetSnapshot;
pub(super) use own_bans::{LetPass, is_of_a_host};

/// How often bans that are over leave the maps. The kernel lets their packets pass by itself.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How long finding the enforcer's address may take.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);
/// So many bans are looked at, or changed, at once: an offence here waits for no more.
const AT_ONCE: usize = 100;
/// So many of the bans that dropped most are shown.
const SHOWN: usize = 10;

/// The local drop, on or off.
#[derive(Clone, Default)]
pub(super) struct LocalDrop {
    state: Arc<Mutex<State>>,
    trusted: Arc<Mutex<Trusted>>,
    /// Whether the fleet's bans are wanted, and have a place to go.
    follows: Arc<watch::Sender<bool>>,
    /// The enforcer said with its bans that its allow list is another one.
    allow_changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    config: Option<LocalDropConfig>,
    jails: HashMap<Name, Judge>,
    lifelines: Lifelines,
    /// Whether this sensor has joined an enforcer, and whether that one's address is known.
    has_joined: bool,
    enforcer_known: bool,
    /// Where following the fleet's bans stands.
    following: Option<watch::Receiver<Following>>,
    /// The last snapshot of the fleet's bans that began.
    snapshot: Option<FleetSnapshot>,
    /// Which ledger has, or refused, what the jails here asked for.
    ledger: Option<Name>,
    /// Networks whose bans the enforcer lifted, until its next mark: then it is known what else covers them.
    doubtful: Vec<IpNet>,
    running: Option<Running>,
    trouble: Option<String>,
}

/// What is to be known of a jail.
struct Judge {
    ipv6_prefix: u8,
    /// Whether it saw logins fail.
    of_logins: bool,
}

struct Running {
    table: Table,
    bans: Bans,
    /// How many networks are spared.
    allowed: usize,
}

// === impl LocalDrop ===

impl LocalDrop {
    /// Takes up a configuration; what the loader has to do for it.
    pub(super) fn configure(&self, config: &Config) -> WantedLocalDrop {
        let mut state = self.lock();
        let judge = |jail: &JailConfig| {
            let (ipv6_prefix, of_logins) = (jail.policy.ipv6_prefix, !jail.source.is_counted_by_kernel());
            (jail.policy.name.clone(), Judge { ipv6_prefix, of_logins })
        };
        state.jails = config.jails.iter().map(judge).collect();
        state.config.clone_from(&config.local_drop);
        if state.config.is_none() {
            state.running = None;
            state.trouble = None;
        }
        self.follows.send_replace(state.follows_fleet());
        let settings = config.local_drop.as_ref().map(|drop| drop.settings.clone());
        WantedLocalDrop { pins: Pins::of_state(&config.state).path().to_owned(), settings }
    }

    /// Which ledger has, or refused, what the jails here asked for.
    pub(super) fn set_ledger(&self, ledger: Option<Name>) {
        self.lock().ledger = ledger;
    }

    /// Where successful logins are noted.
    pub(super) fn trusted(&self) -> Arc<Mutex<Trusted>> {
        self.trusted.clone()
    }

    /// Waits until the enforcer says that its allow list is another one.
    pub(super) async fn allow_changed(&self) {
        self.allow_changed.notified().await;
    }

    /// Whether it is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().config.is_some()
    }

    /// Goes on with maps that the loader handed over, and what stands in them from before.
    pub(super) fn adopt(
        &self,
        maps: crate::kernel::maps::Maps,
        watch: &Shared,
    ) -> Result<(), crate::kernel::maps::MapsError> {
        let bans = Bans::new(maps)?;
        // Offences come under the watch's lock: none can slip in between what stands and what follows.
        let watch = lock(watch);
        let mut state = self.lock();
        let Some(config) = &state.config else { return Ok(()) };
        let most = config.settings.max_entries as usize;
        let mut running = Running { table: Table::new(most), bans, allowed: 0 };
        let now = Moment::now();
        let there = running.bans.all();
        if let Some(Running { table, .. }) = state.running.take() {
            // Only the maps are others.
            running.table = table;
            running.table.set_most(most);
        } else {
            for (network, deadline) in &there {
                running.table.ban(By::Before, *network, *deadline, now.boot);
            }
        }
        // What is over, or found no room.
        let gone = there.into_iter().filter(|(network, _)| running.table.deadline(*network).is_none());
        let gone: Vec<Change> = gone.map(|(network, _)| Change::Remove(network)).collect();
        running.apply(gone, &mut None);
        state.running = Some(running);
        state.allow(&watch);
        state.tell_again();
        state.take_own_bans(&watch.detector, now);
        let bans = state.running.as_ref().map_or(0, |running| running.table.len());
        tracing::info!(bans, "local drop: the bans that stand are in the kernel");
        self.follows.send_replace(state.follows_fleet());
        Ok(())
    }

    /// Lifts what nobody wants any more: of an earlier run where no enforcer will tell of the fleet's bans, and
    /// the fleet's where they are not wanted.
    pub(super) fn settle(&self) {
        let mut state = self.lock();
        if state.follows_fleet() && state.has_joined {
            return;
        }
        state.change(|table| {
            table.begin_anew();
            table.settle()
        });
    }

    /// Tells the kernel anew who is spared.
    pub(super) fn refresh(&self, watch: &Watch) {
        self.lock().allow(watch);
    }

    /// Finds out where the enforcer is, and what else this host cannot do without.
    pub(super) async fn look_around(&self, state: &Path) {
        if !self.is_wanted() {
            return;
        }
        let membership = Membership::load(state).ok().flatten();
        let has_joined = membership.is_some();
        let enforcer = match membership {
            Some(membership) => addresses(&membership.url).await,
            None => Some(Vec::new()),
        };
        let mut state = self.lock();
        state.has_joined = has_joined;
        state.enforcer_known |= enforcer.is_some();
        let enforcer = enforcer.unwrap_or_else(|| state.lifelines.enforcer.clone());
        let lifelines = Lifelines::read(enforcer);
        if lifelines != state.lifelines {
            tracing::info!("local drop: always protected: {lifelines}");
            state.lifelines = lifelines;
        }
    }

    /// Keeps the maps in order, for ever.
    pub(super) async fn keep(self, folder: std::path::PathBuf, watch: Shared) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut look = tokio::time::interval(REFRESH_INTERVAL);
        look.reset();
        loop {
            tokio::select! {
                _ = sweep.tick() => self.lock().change(|table| table.sweep(Moment::now().boot)),
                _ = look.tick() => {
                    self.look_around(&folder).await;
                    self.refresh(&lock(&watch));
                }
            }
        }
    }

    /// Adds to a status how it stands, and what was dropped for each ban. Offences may come between two bans
    /// that are asked for.
    pub(super) fn complete(&self, status: &mut Status) {
        let Some(mut now) = self.status() else { return };
        if now.dropped.packets > 0 {
            now.most = self.most();
        }
        status.local_drop = Some(now);
        for JailStatus { name, banned, .. } in &mut status.jails {
            for some in banned.chunks_mut(AT_ONCE) {
                let state = self.lock();
                let Some(running) = &state.running else { return };
                for ban in some {
                    let network = ban.net.unwrap_or_else(|| state.network(name, ban.address));
                    ban.dropped = running.bans.dropped(network);
                }
            }
        }
    }

    /// How it stands; `None` where it is off or the kernel refused it.
    pub(super) fn status(&self) -> Option<LocalDropStatus> {
        let state = self.lock();
        let (config, running) = (state.config.as_ref()?, state.running.as_ref()?);
        let totals = running.bans.totals();
        Some(LocalDropStatus {
            bans: running.table.len(),
            max_entries: config.settings.max_entries,
            left_out: running.table.left_out(),
            dropped: totals.dropped,
            allowed_packets: totals.allowed,
            spared: running.allowed,
            lifelines: state.lifelines.to_string(),
            most: Vec::new(),
            fleet: state.following.as_ref().map(|following| FleetStatus::from(&*following.borrow())),
            trouble: state.trouble.clone(),
        })
    }

    /// The bans that dropped most.
    fn most(&self) -> Vec<DroppedBan> {
        let now = Moment::now();
        let all: Vec<(IpNet, Deadline)> = match &self.lock().running {
            Some(running) => running.table.bans().collect(),
            None => return Vec::new(),
        };
        let mut most = Vec::new();
        for some in all.chunks(AT_ONCE) {
            let state = self.lock();
            let Some(running) = &state.running else { break };
            most.extend(some.iter().filter_map(|(network, deadline)| {
                let dropped = running.bans.dropped(*network).filter(|dropped| dropped.packets > 0)?;
                Some(DroppedBan { network: *network, until: now.end(*deadline), dropped })
            }));
            most.sort_unstable_by_key(|ban: &DroppedBan| std::cmp::Reverse(ban.dropped.packets));
            most.truncate(SHOWN);
        }
        most
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Whether the fleet's bans are wanted, and there are maps for them.
    fn follows_fleet(&self) -> bool {
        self.running.is_some() && self.config.as_ref().is_some_and(|config| config.fleet)
    }

    /// Puts all bans into maps that may not have them.
    fn tell_again(&mut self) {
        let Some(running) = &mut self.running else { return };
        let all: Vec<Change> =
            running.table.bans().map(|(network, deadline)| Change::Put(network, deadline)).collect();
        running.apply(all, &mut self.trouble);
    }

    /// What a jail bans with an address: an IPv6 one with all that are counted as one with it.
    fn network(&self, jail: &Name, address: IpAddr) -> IpNet {
        let address = atalaya_wire::canonical(address);
        let prefix = self.jails.get(jail).map_or(64, |judge| judge.ipv6_prefix);
        shortened(address, prefix).unwrap_or_else(|| address.into())
    }

    fn ban(&mut self, by: By, network: IpNet, deadline: Deadline, now: Moment) {
        self.change(|table| table.ban(by, network, deadline, now.boot));
    }

    fn change(&mut self, change: impl FnOnce(&mut Table) -> Vec<Change>) {
        if let Some(running) = &mut self.running {
            let changes = change(&mut running.table);
            running.apply(changes, &mut self.trouble);
        }
    }

    fn allow(&mut self, watch: &Watch) {
        let Some(running) = &mut self.running else { return };
        let networks = self.lifelines.with(watch.detector.spared());
        running.allowed = networks.len();
        // Until it is known where the enforcer is, nothing is taken from what an earlier run spared.
        if let Err(error) = running.bans.allow(&networks, !self.enforcer_known) {
            note(&mut self.trouble, "not all that are protected could be told to the kernel", &error);
        }
    }
}

// === impl Running ===

impl Running {
    fn apply(&mut self, changes: impl IntoIterator<Item = Change>, trouble: &mut Option<String>) {
        for change in changes {
            let applied = match change {
                Change::Put(network, deadline) => self.bans.put(network, deadline),
                Change::Remove(network) => self.bans.remove(network),
            };
            if let Err(error) = applied {
                note(trouble, "a ban could not be changed in the kernel", &error);
            }
        }
    }
}

/// Tells what went wrong, and keeps it for `status`.
fn note(trouble: &mut Option<String>, what: &str, error: &impl Display) {
    if trouble.is_none() {
        tracing::warn!(%error, "local drop: {what}");
    }
    *trouble = Some(format!("{what}: {error}"));
}

/// The IPv6 network of this length that an address lies in.
fn shortened(address: IpAddr, prefix: u8) -> Option<IpNet> {
    if address.is_ipv4() {
        return None;
    }
    IpNet::new(address, prefix).ok().map(|network| network.trunc())
}

/// The addresses in a URL's host; `None` where it cannot be looked up now.
async fn addresses(url: &str) -> Option<Vec<IpAddr>> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(vec![address]);
    }
    let found = tokio::time::timeout(LOOKUP_DEADLINE, host_names::look_up(&host, 0)).await;
    match found {
        Ok(Ok(found)) => {
            let mut addresses: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
            addresses.sort_unstable();
            addresses.dedup();
            Some(addresses)
        }
        _ => {
            tracing::warn!(
                host,
                "local drop: the enforcer's address cannot be looked up; what was protected stays protected"
            );
            None
        }
    }
}
