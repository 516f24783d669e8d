//! The jails of this sensor and what they are fed with: lines and login attempts in, offences out.
//! It does no input or output of its own; the service calls it under one lock, so that a position
//! in a file and the counters that its lines moved are saved together.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use atalaya_wire::{Evidence, Name, Networks, Offence};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::{JailConfig, JailSource};
use crate::date::Dates;
use crate::filter::{Found, Host, Scanner, Verdict};
use crate::jail::{Counter, Failure, Jail, Outcome};

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
    report: Box<dyn FnMut(Offence) + Send>,
}

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

struct Watched {
    jail: Jail,
    source: JailSource,
    zone: Option<TimeZone>,
}

// === impl Detector ===

impl Detector {
    /// Makes the jails; `report` is called with each offence, at once.
    pub fn new(
        jails: Vec<JailConfig>,
        ignored: Ignored,
        zone: TimeZone,
        report: impl FnMut(Offence) + Send + 'static,
    ) -> Self {
        let jails = jails
            .into_iter()
            .map(|config| Watched {
                jail: Jail::new(config.policy),
                source: config.source,
                zone: config.zone,
            })
            .collect();
        Self {
            jails,
            ignored,
            zone,
            dateless: HashSet::new(),
            scanners: HashMap::new(),
            report: Box::new(report),
        }
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

    /// The jails that read files, each with its paths.
    pub fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let paths = |watched: &Watched| match &watched.source {
            JailSource::Files { paths, .. } => Some(paths.clone()),
            _ => None,
        };
        self.jails.iter().enumerate().filter_map(|(index, watched)| Some((index, paths(watched)?))).collect()
    }

    /// Whether any jail wants failed logins.
    pub fn wants_logins(&self) -> bool {
        self.jails.iter().any(|watched| matches!(watched.source, JailSource::Logins { .. }))
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
        let Self { jails: watched, ignored, zone, dateless, scanners, report } = self;
        let mut take =
            |jail: &mut Jail, own: &Option<TimeZone>, line: &[u8], verdict: Verdict, dates: &Dates| {
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
                count(jail, ignored, failure(address, time, source, line), now, report);
            };
        if let [only] = jails {
            let Some(Watched { jail, source: JailSource::Files { filter, .. }, zone }) =
                watched.get_mut(*only)
            else {
                return;
            };
            let dates = filter.dates();
            filter.find_in_block(block, |line, verdict| take(jail, zone, line, verdict, &dates));
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
            let Some(Watched { jail, source: JailSource::Files { filter, .. }, zone }) =
                watched.get_mut(jail)
            else {
                return;
            };
            let verdict = filter.find(line);
            if matches!(verdict, Verdict::Matched(_)) {
                take(jail, zone, line, verdict, &filter.dates());
            }
        });
    }

    /// One syslog message, for all jails that read them.
    pub fn syslog(&mut self, peer: IpAddr, time: Option<Timestamp>, text: &[u8], now: Timestamp) {
        for Watched { jail, source, .. } in &mut self.jails {
            let JailSource::Syslog { filter } = source else { continue };
            let source = format!("syslog from {peer}");
            let verdict = filter.find(text);
            if let Some(address) = bannable(jail, &source, text, &verdict) {
                let failure = failure(address, time.unwrap_or(now), &source, text);
                count(jail, &self.ignored, failure, now, &mut self.report);
            }
        }
    }

    /// One failed login, for all jails that want its service.
    pub fn failed_login(&mut self, login: &FailedLogin<'_>, now: Timestamp) {
        for Watched { jail, source, .. } in &mut self.jails {
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
            count(jail, &self.ignored, failure, now, &mut self.report);
        }
    }

    /// Forgets addresses whose failures are all older than their jail's `findtime`.
    pub fn sweep(&mut self, now: Timestamp) {
        self.jails.iter_mut().for_each(|watched| watched.jail.sweep(now));
    }

    /// For each jail: its name, how many addresses it counts now, and its totals since the start.
    pub fn totals(&self) -> impl Iterator<Item = (&Name, usize, crate::jail::Totals)> + '_ {
        self.jails
            .iter()
            .map(|watched| (&watched.jail.policy().name, watched.jail.counted(), watched.jail.totals()))
    }
}

// === impl Ignored ===

impl Ignored {
    /// Whether no jail may count this address: configured, the host's own, on the enforcer's list,
    /// or not an address of another host at all.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = atalaya_wire::canonical(address);
        address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || self.configured.contains(address)
            || self.own.contains(address)
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

fn count(
    jail: &mut Jail,
    ignored: &Ignored,
    failure: Failure,
    now: Timestamp,
    report: &mut dyn FnMut(Offence),
) {
    let name = jail.policy().name.clone();
    let (address, time) = (failure.address, failure.time);
    if ignored.contains(address) {
        tracing::debug!(jail = %name, %address, "ignored: on an allow list, or this host's own");
        return;
    }
    let source = failure.evidence.source.clone();
    match jail.failure(failure, now) {
        Outcome::Counted(failures) => {
            tracing::info!(jail = %name, %address, failures, of = jail.policy().maxretry, %time, source, "failure");
        }
        Outcome::Offence(offence) => {
            tracing::info!(jail = %name, %address, failures = offence.failures, of = jail.policy().maxretry, %time, source, "failure");
            tracing::info!(jail = %name, %address, bantime = %offence.bantime, "offence");
            report(offence);
        }
        Outcome::Ignored => tracing::debug!(jail = %name, %address, "ignored by the jail"),
        Outcome::Old => tracing::debug!(jail = %name, %address, %time, "older than findtime"),
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
