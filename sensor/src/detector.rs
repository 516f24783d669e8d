//! The jails of this sensor and what they are fed with: lines and login attempts in, offences out.
//! It does no input or output of its own; the service calls it under one lock, so that a position
//! in a file and the counters that its lines moved are saved together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use atalaya_wire::{BanTime, Evidence, Name, Networks, Offence, Seconds};
use ipnet::IpNet;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::config::{JailConfig, JailSource};
use crate::date::Dates;
use crate::filter::{Found, Host, Scanner, Verdict};
use crate::jail::ignore::{IgnoreCommand, IgnoreList};
use crate::jail::ports;
use crate::jail::{BanEnd, Counter, Failure, Jail, Outcome};
use crate::kernel;
use crate::kernel::local_drop::Dropped;
use crate::local_drop::trusted::Trusted;
#[cfg(feature = "kernel")]
use crate::source::connections::{Guard, Guarded};
use crate::source::journal::{Entry, JournalMatch};
use crate::uplink::report::Pending;

/// How many failures are logged one by one in a second.
const MOST_SAID: u32 = 200;
/// The most addresses whose last login is remembered.
const MOST_LOGINS: usize = 100_000;

/// The jails, and what is common to them.
pub struct Detector {
    jails: Vec<Watched>,
    ignored: Ignored,
    zone: TimeZone,
    /// Sources with a line that had no usable date: each is told once. Bounded, for names of
    /// sources are few but not ours to choose.
    dateless: HashSet<String>,
    /// What finds the lines for the jails that read a file together, by the jails' numbers.
    scanners: HashMap<Vec<usize>, Arc<Scanner>>,
    /// When somebody last logged in from an address; kept where a jail of short connections asks.
    logins: BTreeMap<IpAddr, Timestamp>,
    outlet: Outlet,
}

/// Where what the jails find goes: to the log, to the next report, and offences at once.
struct Outlet {
    chatter: Chatter,
    /// What the enforcer is told of beside offences; `None` where it is told of nothing else.
    pending: Option<Pending>,
    /// Where good logins are noted, whether or not they are reported.
    trusted: Arc<Mutex<Trusted>>,
    offended: Box<Offended>,
}

/// Keeps a flood of failures from becoming a flood of log lines.
#[derive(Default)]
struct Chatter {
    second: i64,
    said: u32,
    kept_back: u64,
}

/// Takes an offence, with the command that is to be asked about its address first, where there is one.
type Offended = dyn FnMut(Offence, Option<Arc<IgnoreCommand>>) + Send;

/// What no jail counts.
#[derive(Clone, Debug, Default)]
pub struct Ignored {
    /// From the configuration.
    pub configured: Networks,
    /// The host's own addresses.
    pub own: Networks,
    /// The enforcer's allow list.
    pub enforcer: Networks,
}

/// A login attempt as a jail sees it, whichever probe saw it.
#[derive(Clone, Debug)]
pub struct FailedLogin<'a> {
    /// Where it came from.
    pub address: IpAddr,
    /// The service: `sshd`, `vsftpd`…
    pub service: &'a str,
    /// When.
    pub time: Timestamp,
    /// What was seen, in words.
    pub text: &'a str,
}

/// An address that reached a jail's limit where the kernel counts for the jail.
#[derive(Clone, Debug)]
pub struct LimitReached<'a> {
    /// The jail.
    pub jail: &'a Name,
    /// Whose.
    pub address: IpAddr,
    /// When.
    pub time: Timestamp,
    /// How many there were.
    pub count: u32,
    /// What was counted, in words.
    pub text: &'a str,
}

struct Watched {
    jail: Jail,
    source: JailSource,
    /// The ports that it guards, or that its service has.
    ports: Vec<u16>,
    zone: Option<TimeZone>,
    spared: Spared,
    /// What is to be looked up again and again.
    lookups: IgnoreList,
}

/// Whom one jail spares, besides what all do and its policy says.
#[derive(Default)]
struct Spared {
    /// What names and files stand for now.
    looked_up: Networks,
    /// Added while running.
    added: Networks,
    /// The host's own addresses.
    own: bool,
    /// Asked before an address is reported.
    command: Option<Arc<IgnoreCommand>>,
}

/// A jail as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JailStatus {
    /// Its name.
    pub name: Name,
    /// What it reads.
    pub source: String,
    /// How many failures make an offence, within which time, and for how long it bans.
    pub maxretry: u32,
    /// Within which time.
    pub findtime: Seconds,
    /// For how long it bans.
    pub bantime: BanTime,
    /// Addresses with failures within `findtime`.
    pub failing: usize,
    /// Failures since the start.
    pub failures: u64,
    /// Offences since the start.
    pub offences: u64,
    /// Failures since the start of addresses that are spared, or older than `findtime`.
    pub ignored: u64,
    /// Lines that were given up because a regex took too many steps, since the start.
    pub exhausted: u64,
    /// The bans that it asked for and that are not over.
    pub banned: Vec<BannedAddress>,
}

/// A ban that a jail asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BannedAddress {
    /// Who is banned.
    pub address: IpAddr,
    /// Until when; `None` for ever.
    pub until: BanEnd,
    /// What this host itself dropped for it; `None` where it does not.
    #[serde(default)]
    pub dropped: Option<Dropped>,
}

// === impl Detector ===

impl Detector {
    /// Makes the jails; `offended` is called with each offence, at once.
    pub fn new(
        jails: Vec<JailConfig>,
        ignored: Ignored,
        zone: TimeZone,
        offended: impl FnMut(Offence, Option<Arc<IgnoreCommand>>) + Send + 'static,
    ) -> Self {
        let jails = jails.into_iter().map(|config| Watched::new(config, None)).collect();
        Self {
            jails,
            ignored,
            zone,
            dateless: HashSet::new(),
            scanners: HashMap::new(),
            logins: BTreeMap::new(),
            outlet: Outlet {
                chatter: Chatter::default(),
                pending: Some(Pending::default()),
                trusted: Arc::default(),
                offended: Box::new(offended),
            },
        }
    }

    /// Goes on with other jails. One of the same name keeps what it counted and banned.
    pub fn replace(&mut self, jails: Vec<JailConfig>, configured: Networks) {
        let mut before = std::mem::take(&mut self.jails);
        self.jails = jails
            .into_iter()
            .map(|config| {
                let same = before.iter().position(|old| old.jail.policy().name == config.policy.name);
                Watched::new(config, same.map(|index| before.swap_remove(index)))
            })
            .collect();
        self.ignored.configured = configured;
        self.scanners.clear();
    }

    /// Takes over bans that an earlier run saved.
    pub fn restore_bans(&mut self, bans: Vec<(Name, IpAddr, BanEnd)>) {
        for (name, address, until) in bans {
            if let Some(watched) = self.find(&name) {
                watched.jail.restore_bans([(address, until)]);
            }
        }
    }

    /// Bans by hand: an offence like any other, whoever is spared.
    pub fn ban(
        &mut self,
        jail: &Name,
        address: IpAddr,
        bantime: Option<BanTime>,
        now: Timestamp,
    ) -> Option<BanTime> {
        let watched = self.find(jail)?;
        let bantime = bantime.unwrap_or(watched.jail.policy().bantime);
        let evidence = vec![Evidence::new(now, "by hand", "atalaya-sensor ban")];
        let address = atalaya_wire::canonical(address);
        let offence =
            Offence { escalation: None, ..watched.jail.offence(address, now, 0, bantime, evidence) };
        tracing::info!(jail = %jail, %address, %bantime, "banned by hand");
        (self.outlet.offended)(offence, None);
        Some(bantime)
    }

    /// The bans of an address, and of all IPv6 addresses that are counted as one with it, in one jail or
    /// in all.
    pub fn banned(&self, jail: Option<&Name>, address: IpAddr) -> Vec<(Name, IpAddr)> {
        let wanted = |watched: &&Watched| jail.is_none_or(|name| watched.jail.policy().name == *name);
        let banned = self.jails.iter().filter(wanted).flat_map(|watched| {
            let name = &watched.jail.policy().name;
            watched.jail.banned(address).map(|address| (name.clone(), address))
        });
        banned.collect()
    }

    /// Forgets these bans and what is counted of an address, in one jail or in all.
    pub fn lift(&mut self, jail: Option<&Name>, address: IpAddr) {
        let wanted = |watched: &&mut Watched| jail.is_none_or(|name| watched.jail.policy().name == *name);
        self.jails.iter_mut().filter(wanted).for_each(|watched| watched.jail.lift(address));
    }

    /// Takes back the ban of this very address, which its jail's ignorecommand spares.
    pub fn withdraw(&mut self, jail: &Name, address: IpAddr) {
        if let Some(watched) = self.find(jail) {
            watched.jail.withdraw(address);
        }
    }

    /// The bans that the jails asked for and that are not over.
    pub fn standing(&self, now: Timestamp) -> Vec<(Name, IpAddr)> {
        let standing = self.jails.iter().flat_map(|watched| {
            let name = &watched.jail.policy().name;
            watched.jail.bans(now).map(|(address, _)| (name.clone(), address))
        });
        standing.collect()
    }

    /// A ban that is not over as an offence once more, for an enforcer that has lost its ledger: from now
    /// on for what is left of it. It grows no longer by that, and counts as no new one here. `None` where it
    /// was lifted or is over.
    pub fn resent(&self, jail: &Name, address: IpAddr, now: Timestamp) -> Option<Offence> {
        let watched = self.jails.iter().find(|watched| watched.jail.policy().name == *jail)?;
        let bantime = match watched.jail.ban_of(address, now)? {
            Some(until) => {
                let left = until.duration_since(now).as_millis().max(1);
                BanTime::For(Seconds(u64::try_from(left).ok()?.div_ceil(1000)))
            }
            None => BanTime::Permanent,
        };
        let text = "the enforcer's ledger was lost; this ban stood at the sensor";
        let evidence = vec![Evidence::new(now, "resent", text)];
        // No failures, as with a ban by hand: they were told before.
        Some(Offence {
            jail: jail.clone(),
            address: atalaya_wire::canonical(address),
            time: now,
            failures: 0,
            bantime,
            escalation: None,
            evidence,
        })
    }

    /// Whether what is to be reported is gathered from now on.
    pub fn set_reporting(&mut self, on: bool) {
        if !on {
            self.outlet.pending = None;
        } else if self.outlet.pending.is_none() {
            self.outlet.pending = Some(Pending::default());
        }
    }

    /// What waits for the next report; `None` where nothing is reported.
    pub fn pending(&mut self) -> Option<&mut Pending> {
        self.outlet.pending.as_mut()
    }

    /// The same, to look at.
    pub fn reporting(&self) -> Option<&Pending> {
        self.outlet.pending.as_ref()
    }

    /// Where good logins are noted from now on.
    pub fn set_trusted(&mut self, trusted: Arc<Mutex<Trusted>>) {
        self.outlet.trusted = trusted;
    }

    /// All lists of whom anybody spares: the configuration, the enforcer, this host itself, and each jail.
    pub fn spared(&self) -> Vec<&Networks> {
        let Ignored { configured, own, enforcer } = &self.ignored;
        let of_jails = self.jails.iter().flat_map(|Watched { jail, spared, .. }| {
            [&jail.policy().ignore, &spared.looked_up, &spared.added]
        });
        [configured, own, enforcer].into_iter().chain(of_jails).collect()
    }

    /// Spares a network in a jail until the sensor ends; `None` where there is no such jail.
    pub fn spare(&mut self, jail: &Name, network: IpNet) -> Option<()> {
        self.find(jail)?.spared.added.extend([network]);
        Some(())
    }

    /// What has to be looked up for which jail.
    pub fn lookups(&self) -> Vec<(Name, IgnoreList)> {
        let open = self.jails.iter().filter(|watched| !watched.lookups.is_fixed());
        open.map(|watched| (watched.jail.policy().name.clone(), watched.lookups.clone())).collect()
    }

    /// What a jail's names and files stand for now.
    pub fn set_looked_up(&mut self, jail: &Name, networks: Networks) {
        if let Some(watched) = self.find(jail) {
            watched.spared.looked_up = networks;
        }
    }

    /// The jails as they stand; of all, or of one.
    pub fn status(&self, jail: Option<&Name>, now: Timestamp) -> Vec<JailStatus> {
        let wanted =
            self.jails.iter().filter(|watched| jail.is_none_or(|name| watched.jail.policy().name == *name));
        wanted.map(|watched| watched.status(now)).collect()
    }

    fn find(&mut self, jail: &Name) -> Option<&mut Watched> {
        self.jails.iter_mut().find(|watched| watched.jail.policy().name == *jail)
    }

    /// Takes over counters that an earlier run saved; those of jails that are gone are left out.
    pub fn restore(&mut self, counters: Vec<(Name, IpAddr, Counter)>) {
        for (name, address, counter) in counters {
            if let Some(watched) = self.jails.iter_mut().find(|watched| watched.jail.policy().name == name) {
                watched.jail.restore([(address, counter)]);
            }
        }
    }

    /// The counters that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<(Name, IpAddr, Option<Counter>)> {
        let mut changed = Vec::new();
        for watched in &mut self.jails {
            let name = watched.jail.policy().name.clone();
            let counters = watched.jail.take_changed();
            changed.extend(counters.into_iter().map(|(address, counter)| (name.clone(), address, counter)));
        }
        changed
    }

    /// The bans that changed since the last call.
    pub fn take_changed_bans(&mut self) -> Vec<(Name, IpAddr, Option<BanEnd>)> {
        let mut changed = Vec::new();
        for watched in &mut self.jails {
            let name = watched.jail.policy().name.clone();
            let bans = watched.jail.take_changed_bans();
            changed.extend(bans.into_iter().map(|(address, until)| (name.clone(), address, until)));
        }
        changed
    }

    /// What the jails want of the journal.
    pub fn journal_matches(&self) -> Vec<JournalMatch> {
        let wanted = |watched: &Watched| match &watched.source {
            JailSource::Journal { wanted, .. } => Some(wanted.clone()),
            _ => None,
        };
        self.jails.iter().filter_map(wanted).collect()
    }

    /// One entry of the journal, for all jails that want it; a good login in it, for the next report.
    pub fn journal(&mut self, entry: &Entry, now: Timestamp) {
        if let Some((address, account)) = entry.good_login() {
            self.good_login(address, "sshd", account, entry.time);
        }
        for Watched { jail, source, spared, .. } in &mut self.jails {
            let JailSource::Journal { wanted, filter } = source else { continue };
            if !wanted.wants(entry) {
                continue;
            }
            let verdict = filter.find_message(&entry.text);
            if let Some(address) = bannable(jail, "journal", &entry.text, &verdict) {
                let failure = failure(address, entry.time, "journal", &entry.text);
                count(jail, &self.ignored, spared, failure, now, &mut self.outlet);
            }
        }
    }

    /// The jails that read files, each with its paths.
    pub fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let paths = |watched: &Watched| match &watched.source {
            JailSource::Files { paths, .. } => Some(paths.clone()),
            _ => None,
        };
        self.jails.iter().enumerate().filter_map(|(index, watched)| Some((index, paths(watched)?))).collect()
    }

    /// Whether any jail wants failed logins, or has to know of good ones.
    pub fn wants_logins(&self) -> bool {
        let wants = |source: &JailSource| matches!(source, JailSource::Logins { .. }) || is_short(source);
        self.jails.iter().any(|watched| wants(&watched.source))
    }

    /// What the jails want of the kernel besides logins.
    pub fn wants_connections(&self) -> Option<kernel::connections::Wanted> {
        let mut wanted = None;
        for watched in &self.jails {
            match &watched.source {
                JailSource::Connections { .. } => drop(wanted.get_or_insert_default()),
                JailSource::Scan { interfaces, .. } => {
                    let wanted: &mut kernel::connections::Wanted = wanted.get_or_insert_default();
                    let named = &mut wanted.scans.get_or_insert_default().interfaces;
                    named.extend(interfaces.iter().cloned());
                    named.sort_unstable();
                    named.dedup();
                }
                _ => {}
            }
        }
        wanted
    }

    /// What the kernel is to count for the jails. Without `logins` that can be seen, nobody could tell a short
    /// connection from a quick login: they are not counted then.
    #[cfg(feature = "kernel")]
    pub fn guards(&self, logins: bool) -> Vec<Guard> {
        let mut spoken_of: Vec<u16> = Vec::new();
        for watched in &self.jails {
            if !matches!(watched.source, JailSource::Connections { .. }) {
                spoken_of.extend(&watched.ports);
            }
        }
        spoken_of.sort_unstable();
        spoken_of.dedup();
        let guard = |watched: &Watched| {
            let of = match &watched.source {
                JailSource::Connections { short } if short.is_none() || logins => {
                    let ports = if watched.ports.is_empty() { &spoken_of } else { &watched.ports };
                    Guarded::Connections { ports: ports.clone(), short: *short }
                }
                JailSource::Scan { unverified, .. } => Guarded::ClosedPorts { unverified: *unverified },
                _ => return None,
            };
            let policy = watched.jail.policy();
            Some(Guard {
                jail: policy.name.clone(),
                limit: policy.maxretry,
                findtime: policy.findtime,
                ipv6_prefix: policy.ipv6_prefix,
                of,
            })
        };
        self.jails.iter().filter_map(guard).collect()
    }

    /// Whether a jail counts short connections.
    pub fn wants_short(&self) -> bool {
        self.jails.iter().any(|watched| is_short(&watched.source))
    }

    /// Whether any jail wants what programs say to syslog.
    pub fn wants_syslog_calls(&self) -> bool {
        self.jails.iter().any(|watched| matches!(watched.source, JailSource::SyslogCalls { .. }))
    }

    /// The host's time zone, as it is now.
    pub fn set_zone(&mut self, zone: TimeZone) {
        self.zone = zone;
    }

    /// The host's own addresses, as they are now.
    pub fn set_own(&mut self, own: Networks) {
        self.ignored.own = own;
    }

    /// The enforcer's allow list, as it is now.
    pub fn set_enforcer_allow(&mut self, allow: Networks) {
        self.ignored.enforcer = allow;
    }

    /// Whole lines of a log file, for the jails that read it. One pass finds the lines that any of them
    /// must look at.
    pub fn lines(&mut self, jails: &[usize], source: &str, block: &[u8], now: Timestamp) {
        let Self { jails: watched, ignored, zone, dateless, scanners, outlet, .. } = self;
        let mut take = |jail: &mut Jail,
                        own: &Option<TimeZone>,
                        spared: &Spared,
                        line: &[u8],
                        verdict: Verdict,
                        dates: &Dates| {
            let Some(address) = bannable(jail, source, line, &verdict) else { return };
            let dated = match &verdict {
                Verdict::Matched(Found { dated: Some(earlier), .. }) => earlier,
                _ => line,
            };
            let time = match dates.find(dated, now, own.as_ref().unwrap_or(zone)) {
                Some(date) => date.time,
                None => {
                    warn_dateless(dateless, source);
                    now
                }
            };
            count(jail, ignored, spared, failure(address, time, source, line), now, outlet);
        };
        if let [only] = jails {
            let Some(Watched { jail, source: JailSource::Files { filter, .. }, zone, spared, .. }) =
                watched.get_mut(*only)
            else {
                return;
            };
            let dates = filter.dates();
            filter.find_in_block(block, |line, verdict| take(jail, zone, spared, line, verdict, &dates));
            return;
        }
        let scanner = match scanners.get(jails) {
            Some(scanner) => scanner.clone(),
            None => {
                let filters = jails.iter().filter_map(|jail| match &watched.get(*jail)?.source {
                    JailSource::Files { filter, .. } => Some((*jail, filter)),
                    _ => None,
                });
                let scanner = Arc::new(Scanner::new(filters));
                scanners.insert(jails.to_vec(), scanner.clone());
                scanner
            }
        };
        scanner.scan(block, |jail, line| {
            let Some(Watched { jail, source: JailSource::Files { filter, .. }, zone, spared, .. }) =
                watched.get_mut(jail)
            else {
                return;
            };
            let verdict = filter.find(line);
            if matches!(verdict, Verdict::Matched(_)) {
                take(jail, zone, spared, line, verdict, &filter.dates());
            }
        });
    }

    /// One syslog message, for all jails that read them.
    pub fn syslog(&mut self, peer: IpAddr, time: Option<Timestamp>, text: &[u8], now: Timestamp) {
        for Watched { jail, source, spared, .. } in &mut self.jails {
            let JailSource::Syslog { filter } = source else { continue };
            let source = format!("syslog from {peer}");
            let verdict = filter.find(text);
            if let Some(address) = bannable(jail, &source, text, &verdict) {
                let failure = failure(address, time.unwrap_or(now), &source, text);
                count(jail, &self.ignored, spared, failure, now, &mut self.outlet);
            }
        }
    }

    /// What a program of root said to syslog, as `host program[123]: message`, for all jails that want the program's.
    pub fn syslog_call(&mut self, program: &str, time: Timestamp, text: &[u8], now: Timestamp) {
        for Watched { jail, source, spared, .. } in &mut self.jails {
            let JailSource::SyslogCalls { programs, filter } = source else { continue };
            if !programs.is_empty() && !programs.iter().any(|wanted| wanted == program) {
                continue;
            }
            let verdict = filter.find_message(text);
            if let Some(address) = bannable(jail, "syslog-calls", text, &verdict) {
                let failure = failure(address, time, "syslog-calls", text);
                count(jail, &self.ignored, spared, failure, now, &mut self.outlet);
            }
        }
    }

    /// One failed login, for all jails that want its service.
    pub fn failed_login(&mut self, login: &FailedLogin<'_>, now: Timestamp) {
        for Watched { jail, source, spared, .. } in &mut self.jails {
            let JailSource::Logins { services } = source else { continue };
            if !services.is_empty() && !services.iter().any(|service| service == login.service) {
                continue;
            }
            let failure = Failure {
                address: login.address,
                time: login.time,
                weight: 1,
                evidence: Evidence::new(login.time, "logins", login.text),
            };
            count(jail, &self.ignored, spared, failure, now, &mut self.outlet);
        }
    }

    /// An address reached the limit of a jail for which the kernel counts.
    pub fn limit_reached(&mut self, reached: &LimitReached<'_>, now: Timestamp) {
        let LimitReached { address, time, count, text, .. } = *reached;
        let Some(watched) = self.jails.iter_mut().find(|watched| watched.jail.policy().name == *reached.jail)
        else {
            return;
        };
        let Watched { jail, source, spared, .. } = watched;
        let kind = match source {
            JailSource::Connections { .. } => "connections",
            JailSource::Scan { .. } => "scan",
            _ => return,
        };
        if is_short(source) {
            let policy = jail.policy();
            let since = now.saturating_sub(policy.findtime.signed()).unwrap_or(Timestamp::MIN);
            let mut logins = self.logins.range(policy.counted_as_one(address));
            if let Some((from, at)) = logins.find(|(_, at)| **at >= since) {
                let jail = &policy.name;
                tracing::info!(%jail, %address, login_from = %from, %at, "spared: somebody logged in from there");
                return;
            }
        }
        let failure = Failure { address, time, weight: count, evidence: Evidence::new(time, kind, text) };
        judge(jail, &self.ignored, spared, failure, now, &mut self.outlet, Jail::crossing);
    }

    /// One login that succeeded, for the next report. Those of this host itself are nobody's business.
    pub fn good_login(&mut self, address: IpAddr, service: &str, account: &str, time: Timestamp) {
        let address = atalaya_wire::canonical(address);
        let is_remote = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
        if is_remote {
            self.outlet.trusted.lock().unwrap_or_else(PoisonError::into_inner).note(address, time);
        }
        if is_remote && self.wants_short() {
            self.remember_login(address, time);
        }
        if let Some(pending) = &mut self.outlet.pending
            && is_remote
        {
            pending.login(address, service, account, time);
        }
    }

    /// Past the bound the oldest login is forgotten.
    fn remember_login(&mut self, address: IpAddr, time: Timestamp) {
        if self.logins.len() >= MOST_LOGINS
            && !self.logins.contains_key(&address)
            && let Some(oldest) = self.logins.iter().min_by_key(|(_, at)| **at).map(|(address, _)| *address)
        {
            self.logins.remove(&oldest);
        }
        let last = self.logins.entry(address).or_insert(time);
        *last = time.max(*last);
    }

    /// Forgets addresses whose failures are all older than their jail's `findtime`, and what waited too
    /// long for its report.
    pub fn sweep(&mut self, now: Timestamp) {
        self.jails.iter_mut().for_each(|watched| watched.jail.sweep(now));
        let short = self.jails.iter().filter(|watched| is_short(&watched.source));
        let longest = short.map(|watched| watched.jail.policy().findtime.signed()).max().unwrap_or_default();
        self.logins.retain(|_, at| now.duration_since(*at) <= longest);
        if let Some(pending) = &mut self.outlet.pending {
            pending.sweep(now);
        }
    }

    /// For each jail: its name, how many addresses it counts now, and its totals since the start.
    pub fn totals(&self) -> impl Iterator<Item = (&Name, usize, crate::jail::Totals)> + '_ {
        self.jails
            .iter()
            .map(|watched| (&watched.jail.policy().name, watched.jail.counted(), watched.jail.totals()))
    }
}

// === impl Chatter ===

impl Chatter {
    /// Whether one more failure may be logged by itself this second. What is kept back is summed up.
    fn may_say(&mut self, now: Timestamp) -> bool {
        if now.as_second() != self.second {
            if self.kept_back > 0 {
                tracing::info!(
                    failures = self.kept_back,
                    "more failures came than are logged one by one; all are counted"
                );
            }
            *self = Self { second: now.as_second(), said: 0, kept_back: 0 };
        }
        if self.said < MOST_SAID {
            self.said += 1;
            return true;
        }
        self.kept_back += 1;
        false
    }
}

// === impl Watched ===

impl Watched {
    /// A jail, which goes on where the one before it stood.
    fn new(config: JailConfig, before: Option<Self>) -> Self {
        let JailConfig { policy, source, ports, zone, ignore, ignorecommand, ignore_self } = config;
        let (mut jail, looked_up, added) = match before {
            // What names stood for holds until they are looked up again.
            Some(before) => (before.jail, before.spared.looked_up, before.spared.added),
            None => (Jail::new(policy.clone()), Networks::default(), Networks::default()),
        };
        jail.set_policy(policy);
        let spared = Spared { looked_up, added, own: ignore_self, command: ignorecommand };
        Self { jail, source, ports, zone, spared, lookups: ignore }
    }

    fn status(&self, now: Timestamp) -> JailStatus {
        let (policy, totals) = (self.jail.policy(), self.jail.totals());
        let (source, exhausted) = match &self.source {
            JailSource::Logins { services } if services.is_empty() => ("logins".to_owned(), 0),
            JailSource::Logins { services } => (format!("logins of {}", services.join(", ")), 0),
            JailSource::Connections { .. } if self.ports.is_empty() => ("connections".to_owned(), 0),
            JailSource::Connections { .. } => (format!("connections to {}", ports::shown(&self.ports)), 0),
            JailSource::Scan { .. } => ("closed ports".to_owned(), 0),
            JailSource::Files { paths, filter } => (paths.join(", "), filter.exhausted()),
            JailSource::Journal { filter, .. } => ("journal".to_owned(), filter.exhausted()),
            JailSource::Syslog { filter } => ("syslog".to_owned(), filter.exhausted()),
            JailSource::SyslogCalls { programs, filter } => {
                let of =
                    if programs.is_empty() { String::new() } else { format!(" of {}", programs.join(", ")) };
                (format!("syslog-calls{of}"), filter.exhausted())
            }
        };
        JailStatus {
            name: policy.name.clone(),
            source,
            maxretry: policy.maxretry,
            findtime: policy.findtime,
            bantime: policy.bantime,
            failing: self.jail.counted(),
            failures: totals.failures,
            offences: totals.offences,
            ignored: totals.ignored + totals.old,
            exhausted,
            banned: self.jail.bans(now).map(BannedAddress::from).collect(),
        }
    }
}

// === impl BannedAddress ===

impl From<(IpAddr, BanEnd)> for BannedAddress {
    fn from((address, until): (IpAddr, BanEnd)) -> Self {
        Self { address, until, dropped: None }
    }
}

// === impl Ignored ===

impl Ignored {
    /// Whether a jail may not count this address: configured, the host's own, on the enforcer's list,
    /// spared by the jail, or not an address of another host at all.
    fn contains(&self, address: IpAddr, spared: &Spared) -> bool {
        let address = atalaya_wire::canonical(address);
        address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || self.configured.contains(address)
            || spared.own && self.own.contains(address)
            || spared.looked_up.contains(address)
            || spared.added.contains(address)
            || self.enforcer.contains(address)
    }
}

fn failure(address: IpAddr, time: Timestamp, source: &str, line: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(line);
    Failure { address, time, weight: 1, evidence: Evidence::new(time, source, text.trim_end()) }
}

/// The address of a line that matched, where it is one that a router can hold.
fn bannable(jail: &Jail, source: &str, line: &[u8], verdict: &Verdict) -> Option<IpAddr> {
    let Verdict::Matched(found) = verdict else { return None };
    match &found.host {
        Host::Address(address) => Some(*address),
        Host::Name(name) => {
            let line = String::from_utf8_lossy(line);
            tracing::debug!(jail = %jail.policy().name, source, ?name, ?line, "a host name is not banned");
            None
        }
    }
}

/// Whether a jail counts short connections.
fn is_short(source: &JailSource) -> bool {
    matches!(source, JailSource::Connections { short: Some(_) })
}

fn count(
    jail: &mut Jail,
    ignored: &Ignored,
    spared: &Spared,
    failure: Failure,
    now: Timestamp,
    outlet: &mut Outlet,
) {
    judge(jail, ignored, spared, failure, now, outlet, |jail, failure| jail.failure(failure, now));
}

fn judge(
    jail: &mut Jail,
    ignored: &Ignored,
    spared: &Spared,
    failure: Failure,
    now: Timestamp,
    outlet: &mut Outlet,
    of: impl FnOnce(&mut Jail, Failure) -> Outcome,
) {
    let name = jail.policy().name.clone();
    let (address, time, weight) = (failure.address, failure.time, failure.weight);
    if ignored.contains(address, spared) {
        tracing::debug!(jail = %name, %address, "ignored: on an allow list, or this host's own");
        return;
    }
    let source = failure.evidence.source.clone();
    let outcome = of(jail, failure);
    let is_counted = matches!(outcome, Outcome::Counted(_) | Outcome::Offence(_));
    match outcome {
        Outcome::Counted(failures) => {
            if outlet.chatter.may_say(now) {
                tracing::info!(jail = %name, %address, failures, of = jail.policy().maxretry, %time, source, "failure");
            }
        }
        Outcome::Offence(offence) => {
            let (failures, bantime) = (offence.failures, offence.bantime);
            (outlet.offended)(offence, spared.command.clone());
            if outlet.chatter.may_say(now) {
                tracing::info!(jail = %name, %address, failures, of = jail.policy().maxretry, %time, source, "failure");
                tracing::info!(jail = %name, %address, %bantime, "offence");
            }
        }
        Outcome::Ignored => tracing::debug!(jail = %name, %address, "ignored by the jail"),
        Outcome::Old => tracing::debug!(jail = %name, %address, %time, "older than findtime"),
    }
    // After the offence, which is in a hurry. Whom an ignorecommand spares is known too late: a failure
    // cannot be taken back from the enforcer.
    if let Some(pending) = &mut outlet.pending
        && is_counted
        && spared.command.is_none()
    {
        pending.failures(name, address, weight, time.min(now));
    }
}

fn warn_dateless(dateless: &mut HashSet<String>, source: &str) {
    const MOST: usize = 10_000;
    if dateless.len() < MOST && dateless.insert(source.to_owned()) {
        tracing::warn!(
            source,
            "lines without a date that can be read count as now; a backlog would count as fresh"
        );
    }
}

#[cfg(test)]
mod tests;
