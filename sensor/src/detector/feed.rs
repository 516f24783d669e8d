//! Feeding the jails: lines, messages and login attempts in; what comes of each goes to the outlet.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use atalaya_wire::{Evidence, Name};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Detector;
use super::bans;
use super::clock::Delivery;
use super::clocks::Clocks;
use super::connected::Connected;
use super::dated::{Common, DatedLine, count_dated, host_of};
use super::ignored::{Ignored, Spared};
use super::outlet::Outlet;
use super::watched::Watched;
use super::witness::Witness;
use crate::carrier::Carried;
use crate::date::Dates;
use crate::filter::{Host, LineOutcome, Match, Scanner};
use crate::jail::{Failure, Jail, Outcome};
use crate::rfc5424::Rfc5424Message;
use crate::source::journal::Entry;

/// The most addresses whose last login is remembered.
const MOST_LOGINS: usize = 100_000;

/// A login attempt as a jail sees it, whichever probe saw it.
#[derive(Clone, Debug)]
pub struct FailedLogin<'a> {
    /// Where it came from.
    pub address: IpAddr,
    /// The service: `sshd`, `vsftpd`…
    pub service: &'a str,
    /// Its program, which may have another name.
    pub program: &'a str,
    /// By this host's clock.
    pub time: Timestamp,
    /// What was seen, in words.
    pub text: &'a str,
}

/// An address that reached a jail's limit where the kernel counts for the jail.
#[derive(Clone, Debug)]
pub struct LimitReached<'a> {
    /// One of a source that the kernel counts.
    pub jail: &'a Name,
    /// The one that connected, or touched closed ports; counted alone or for its IPv6 network.
    pub address: IpAddr,
    /// When the limit was reached, by this host's clock.
    pub time: Timestamp,
    /// How many there were.
    pub count: u32,
    /// What was counted, in words.
    pub text: &'a str,
}

/// Whom a line accuses, and how often.
#[derive(Clone, Copy, Debug)]
struct Accused {
    address: IpAddr,
    times: u32,
    port: Option<u16>,
}

impl Detector {
    /// One entry of the journal, for all jails that want it; a successful login in it, for the next report.
    pub fn journal(&mut self, entry: &Entry, now: Timestamp) {
        if let Some((address, account)) = entry.good_login() {
            self.witnessed_login(address, "sshd", account, entry.time, Witness::Journal);
        }
        for Watched { jail, source, spared, silence, .. } in &mut self.jails {
            let Some(filter) = source.take_entry(entry) else { continue };
            silence.end(now);
            let verdict = match entry.carried() {
                Some(carried) => match filter.find_carried(carried.text) {
                    LineOutcome::Missed => filter.find_message(&entry.text),
                    verdict => verdict,
                },
                None => filter.find_message(&entry.text),
            };
            if let Some(found) = bannable(jail, &self.connected, "journal", &entry.text, &verdict) {
                let container =
                    entry.carried().map(|carried| format!("journal (container {})", carried.container));
                let source = container.as_deref().unwrap_or("journal");
                let failure = failure(jail, found, entry.time, source, &entry.text);
                count(jail, &self.ignored, spared, failure, now, &mut self.outlet);
            }
        }
    }

    /// Whole lines of a log file, for the jails that read it. One pass finds the lines that any of them
    /// must look at.
    pub fn lines(&mut self, jails: &[usize], source: &str, block: &[u8], now: Timestamp) {
        let Self { jails: watched, ignored, connected, zone, dateless, skewed, scanners, outlet, .. } = self;
        let mut common = Common { ignored, skewed, outlet };
        let dated_line = DatedLine { clock: source, delivery: Delivery::Read, now };
        if !block.is_empty() {
            for jail in jails {
                if let Some(watched) = watched.get_mut(*jail) {
                    watched.silence.end(now);
                }
            }
        }
        let common = &mut common;
        let mut take = |jail: &mut Jail,
                        own: &Option<TimeZone>,
                        spared: &Spared,
                        clocks: &mut Clocks,
                        line: &[u8],
                        verdict: LineOutcome,
                        dates: &Dates| {
            let Some(found) = bannable(jail, connected, source, line, &verdict) else { return };
            let dated = match &verdict {
                LineOutcome::Matched(Match { dated: Some(earlier), .. }) => earlier,
                _ => line,
            };
            match dates.find(dated, now, own.as_ref().unwrap_or(zone)) {
                Some(date) => {
                    let failure = failure(jail, found, date.time, source, line);
                    count_dated(jail, clocks, spared, failure, dated_line, common);
                }
                None => {
                    warn_dateless(dateless, source);
                    let failure = failure(jail, found, now, source, line);
                    count(jail, common.ignored, spared, failure, now, common.outlet);
                }
            }
        };
        if let [only] = jails {
            let Some(Watched { jail, source, zone, spared, clocks, .. }) = watched.get_mut(*only) else {
                return;
            };
            let Some(filter) = source.take_line() else { return };
            let dates = filter.dates();
            filter.find_in_block(block, |line, verdict| {
                take(jail, zone, spared, clocks, line, verdict, &dates);
            });
        } else {
            let scanner = match scanners.get(jails) {
                Some(scanner) => scanner.clone(),
                None => {
                    let filters = jails.iter().filter_map(|jail| {
                        let source = &watched.get(*jail)?.source;
                        source.paths().and(source.filter()).map(|filter| (*jail, filter))
                    });
                    let scanner = Arc::new(Scanner::new(filters));
                    scanners.insert(jails.to_vec(), scanner.clone());
                    scanner
                }
            };
            scanner.scan(block, |jail, line| {
                let Some(Watched { jail, source, zone, spared, clocks, .. }) = watched.get_mut(jail) else {
                    return;
                };
                let Some(filter) = source.take_line() else { return };
                let verdict = filter.find(line);
                if matches!(verdict, LineOutcome::Matched(_)) {
                    take(jail, zone, spared, clocks, line, verdict, &filter.dates());
                }
            });
        }
        for jail in jails {
            let Some(watched) =
                watched.get_mut(*jail).filter(|watched| watched.clocks.suspect(dated_line.clock))
            else {
                continue;
            };
            // Lines that are no failures show the clock as well.
            let dates = watched.source.take_line().map(|filter| filter.dates());
            let date = last_line(block)
                .zip(dates)
                .and_then(|(line, dates)| dates.find(line, now, watched.zone.as_ref().unwrap_or(zone)));
            if let Some(date) = date {
                watched.look_at_clock(date.time, dated_line, common);
            }
        }
    }

    /// What programs in a container wrote to a log file, for the jails that read it. `container` is asked for its
    /// name where one of the lines is a failure.
    pub fn carried_lines(
        &mut self,
        jails: &[usize],
        source: &str,
        container: impl Fn() -> Option<String>,
        lines: &[Carried<'_>],
        now: Timestamp,
    ) {
        let mut shown = None;
        for index in jails {
            for Carried { time, text } in lines {
                // A line that the engine did not write.
                let Some(time) = *time else {
                    self.lines(&[*index], source, text, now);
                    continue;
                };
                let Some(Watched { jail, source: from, spared, .. }) = self.jails.get_mut(*index) else {
                    break;
                };
                let Some(filter) = from.take_line() else { break };
                let verdict = filter.find_carried(text);
                let Some(found) = bannable(jail, &self.connected, source, text, &verdict) else { continue };
                let shown = shown.get_or_insert_with(|| match container() {
                    Some(container) => format!("{source} (container {container})"),
                    None => source.to_owned(),
                });
                count(
                    jail,
                    &self.ignored,
                    spared,
                    failure(jail, found, time, shown, text),
                    now,
                    &mut self.outlet,
                );
            }
        }
    }

    /// One syslog message, for all jails that read them.
    pub fn syslog(&mut self, peer: IpAddr, time: Option<Timestamp>, text: &[u8], now: Timestamp) {
        let source = format!("syslog from {peer}");
        let clock = host_of(text).map_or_else(|| source.clone(), |host| format!("{source}, host {host}"));
        let line = DatedLine { clock: &clock, delivery: Delivery::Sent, now };
        let Self { jails, ignored, skewed, connected, outlet, .. } = self;
        let mut common = Common { ignored, skewed, outlet };
        for watched in jails {
            let Watched { jail, source: from, spared, silence, clocks, .. } = watched;
            let Some(filter) = from.take_syslog() else { continue };
            silence.end(now);
            let verdict = filter.find(text);
            let found = bannable(jail, connected, &source, text, &verdict);
            match (found, time) {
                (Some(found), Some(time)) => {
                    let failure = failure(jail, found, time, &source, text);
                    count_dated(jail, clocks, spared, failure, line, &mut common);
                }
                (Some(found), None) => {
                    let failure = failure(jail, found, now, &source, text);
                    count(jail, common.ignored, spared, failure, now, common.outlet);
                }
                (None, Some(time)) if clocks.suspect(&clock) => {
                    watched.look_at_clock(time, line, &mut common);
                }
                (None, _) => {}
            }
        }
    }

    /// What a program of root said to syslog, as `host program[123]: message`, for all jails that want the program's.
    pub fn syslog_call(&mut self, program: &str, time: Timestamp, text: &[u8], now: Timestamp) {
        for Watched { jail, source, spared, silence, .. } in &mut self.jails {
            let Some(filter) = source.take_syslog_call(program) else { continue };
            silence.end(now);
            let verdict = filter.find_message(text);
            if let Some(found) = bannable(jail, &self.connected, "syslog-calls", text, &verdict) {
                let failure = failure(jail, found, time, "syslog-calls", text);
                count(jail, &self.ignored, spared, failure, now, &mut self.outlet);
            }
        }
    }

    /// One failed login, for all jails that want its service.
    pub fn failed_login(&mut self, login: &FailedLogin<'_>, now: Timestamp) {
        for Watched { jail, source, spared, silence, .. } in &mut self.jails {
            if !source.takes_login(login.service) && !source.takes_login(login.program) {
                continue;
            }
            silence.end(now);
            let failure = Failure {
                address: login.address,
                time: login.time,
                weight: 1,
                port: None,
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
        if !source.is_counted_by_kernel() {
            return;
        }
        let policy = jail.policy();
        let client = self.ignored.nat64.client(address);
        if client != atalaya_wire::canonical(address) && policy.ipv6_prefix < 128 {
            // The kernel counted all hosts behind the translator as one.
            tracing::debug!(jail = %policy.name, %address, "not told apart from others behind the NAT64");
            return;
        }
        let address = client;
        let kind = source.kind();
        if source.is_short() {
            let policy = jail.policy();
            let since = now.saturating_sub(policy.findtime.signed()).unwrap_or(Timestamp::MIN);
            let mut logins = self.logins.range(policy.counted_as_one(address));
            if let Some((from, at)) = logins.find(|(_, at)| **at >= since) {
                let jail = &policy.name;
                tracing::info!(%jail, %address, login_from = %from, %at, "protected: somebody logged in from there");
                return;
            }
        }
        let failure =
            Failure { address, time, weight: count, port: None, evidence: Evidence::new(time, kind, text) };
        judge(jail, &self.ignored, spared, failure, now, &mut self.outlet, Jail::crossing);
    }

    /// One login that succeeded, as the kernel's side saw it, for the next report. Those of this host itself are
    /// nobody's business.
    pub fn good_login(&mut self, address: IpAddr, service: &str, account: &str, time: Timestamp) {
        self.witnessed_login(address, service, account, time, Witness::Kernel);
    }

    fn witnessed_login(
        &mut self,
        address: IpAddr,
        service: &str,
        account: &str,
        time: Timestamp,
        by: Witness,
    ) {
        let address = self.ignored.nat64.client(address);
        if service == "sshd" && !self.witnessed.is_new(address, time, by) {
            return;
        }
        for Watched { source, silence, .. } in &mut self.jails {
            if source.takes_login(service) {
                silence.end(time);
            }
        }
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
}

fn failure(jail: &Jail, found: Accused, time: Timestamp, source: &str, line: &[u8]) -> Failure {
    // Structured data would leave no room for the text.
    let read = Rfc5424Message::read(line).map(|message| message.line().bytes);
    let text = String::from_utf8_lossy(read.as_deref().unwrap_or(line));
    let text = text.trim_end();
    let evidence = match jail.policy().scan {
        Some(_) => Evidence::new(time, Evidence::SCAN, &format!("{source}: {text}")),
        None => Evidence::new(time, source, text),
    };
    Failure { address: found.address, time, weight: found.times, port: found.port, evidence }
}

/// The address of a line that matched, where it is one that a router can hold. Of a scan, whose sender may be forged,
/// only one that connected to this host lately, unless the jail counts all.
fn bannable(
    jail: &Jail,
    connected: &Connected,
    source: &str,
    line: &[u8],
    verdict: &LineOutcome,
) -> Option<Accused> {
    let LineOutcome::Matched(found) = verdict else { return None };
    match &found.host {
        Host::Address(address) => {
            let scan = jail.policy().scan;
            if scan.is_some_and(|scan| !scan.unverified && !connected.knows(*address)) {
                return None;
            }
            let port = found.port.filter(|_| scan.is_some());
            Some(Accused { address: *address, times: found.times, port })
        }
        Host::Name(name) => {
            let line = String::from_utf8_lossy(line);
            tracing::debug!(jail = %jail.policy().name, source, ?name, ?line, "a host name is not banned");
            None
        }
    }
}

pub(super) fn count(
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
    mut failure: Failure,
    now: Timestamp,
    outlet: &mut Outlet,
    of: impl FnOnce(&mut Jail, Failure) -> Outcome,
) {
    let name = jail.policy().name.clone();
    failure.address = ignored.nat64.client(failure.address);
    let (address, time, weight) = (failure.address, failure.time, failure.weight);
    // Its policy's own list, in the other forms of the address.
    let mut behind = ignored.nat64.forms(address).skip(1);
    if ignored.contains(address, spared) || behind.any(|form| jail.policy().ignore.contains(form)) {
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
            let handed = (outlet.offended)(offence, spared.command.clone());
            bans::handed(jail, address, handed);
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
        // Anyone can forge a scan: no fleet jail is to hear of it.
        && jail.policy().scan.is_none()
    {
        pending.failures(name, address, weight, time.min(now));
    }
}

/// The last whole line of a block.
fn last_line(block: &[u8]) -> Option<&[u8]> {
    let block = block.strip_suffix(b"\n")?;
    let start = memchr::memrchr(b'\n', block).map_or(0, |end| end + 1);
    Some(&block[start..])
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
