//! What was seen of a router: plain values, so that what they mean is decided without one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use atalaya_wire::Fingerprint;
use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};

use super::release::Release;
use super::rules::{Chains, Rule};
use super::speed::Sample;
use crate::ledger::Lineage;
use crate::prefixes::Family;
use crate::router::address_list::Belonging;
use crate::router::networks::RouterNetworks;
use crate::router::sentence::{Row, Trap, TrapMeaning};
use crate::router::session::SessionError;

/// What a row of `/ip/service` calls the networks that the service may be used from, in releases from 7.24 on and
/// before (MikroTik's change log).
const ACCESS: [&str; 2] = ["available-from", "address"];

/// What one visit to a router saw.
#[derive(Debug, Default)]
pub struct Facts {
    /// The addresses behind the configured host, where they were tried one by one: how long each took to
    /// answer, or why it did not.
    pub addresses: Vec<(SocketAddr, Result<Duration, String>)>,
    /// Why there was no session; `None` where there was one.
    pub entry: Option<SessionError>,
    /// Why the session ended before everything was read.
    pub broke: Option<String>,
    /// From the first question to its answer.
    pub round_trip: Option<Duration>,
    /// The port of api-ssl, and the certificate that it presented or why it did not; only where no
    /// certificate is pinned.
    pub presented: Option<(u16, Result<Fingerprint, String>)>,
    /// The address from which this host reaches the router, before anything that translates it.
    pub local: Option<IpAddr>,
    /// `/system/identity`: the name that the administrator gave it.
    pub identity: Page<String>,
    /// `/system/resource`: version, model and memory.
    pub resource: Page<Resource>,
    /// `/system/clock`: date, time of day and time zone.
    pub clock: Page<ClockFace>,
    /// `/user`, our own row; `None` where there is none, as for users of RADIUS.
    pub user: Page<Option<User>>,
    /// `/user/group`: which policies each grants.
    pub groups: Page<Vec<Group>>,
    /// `/ip/service`, but for its list of open connections.
    pub services: Page<Vec<IpService>>,
    /// `/certificate`: those that the router has, of which api-ssl presents one.
    pub certificates: Page<Vec<Certificate>>,
    /// The raw rules of each family that name its list, or decide on packets.
    pub raw: [Page<Vec<Rule>>; 2],
    /// The same of the filter rules.
    pub filter: [Page<Vec<Rule>>; 2],
    /// Its own addresses, and the private networks behind it.
    pub networks: RouterNetworks,
    /// What each family's list holds.
    pub lists: [Page<ListContent>; 2],
    /// Whether the user could change a list.
    pub write: WriteTest,
    /// Some adds that were timed, where nobody measured the board.
    pub sample: Option<Sample>,
}

/// A page of the router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Page<T> {
    /// The router answered, with this.
    Shown(T),
    /// The user may not read it.
    Refused,
    /// The router has no such page.
    Missing,
    /// The router refused it with another reason.
    Failed(String),
    /// It was not asked for, or the session ended before.
    #[default]
    Unread,
}

/// A row of `/system/resource`, of which there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Such as `7.24 (stable)`.
    pub version: String,
    /// RouterOS's `board-name`, such as `hEX S`.
    pub board: String,
    /// In bytes; `None` where the router does not say.
    pub total_memory: Option<u64>,
    /// In bytes, at that moment; `None` where the router does not say.
    pub free_memory: Option<u64>,
}

/// `/system/clock`, and what our clock said when it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockFace {
    /// As the router wrote it.
    pub text: String,
    /// The moment that it means; `None` where the text is not understood.
    pub shows: Option<Timestamp>,
    /// Our clock at that moment.
    pub ours: Timestamp,
}

/// A row of `/user`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The group whose policies it has.
    pub group: String,
    /// From where it may log in; empty for anywhere.
    pub address: String,
}

/// A row of `/user/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Such as `full`, `write`, or the administrator's own.
    pub name: String,
    /// The policies that it grants.
    pub policies: Vec<String>,
}

/// A row of `/ip/service`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpService {
    /// Such as `api-ssl`, which the check needs, or `api`.
    pub name: String,
    /// The TCP port; `None` where the row has none that is a number.
    pub port: Option<u16>,
    /// Whether it is off.
    pub disabled: bool,
    /// From where it may be used; `None` where the row does not say.
    pub access: Option<Access>,
    /// The certificate's name, where it has one.
    pub certificate: Option<String>,
    /// The most connections at once, where the release has that setting.
    pub max_sessions: Option<u32>,
}

/// From where a service may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What this release calls the property.
    pub property: &'static str,
    /// Networks with commas between them; empty for anywhere.
    pub from: String,
}

/// A row of `/certificate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The router's own name for it, by which a command names it.
    pub name: String,
    /// Its SHA-256, once it is signed.
    pub fingerprint: Option<Fingerprint>,
}

/// What an address list holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListContent {
    /// Entries with our mark.
    pub ours: usize,
    /// Entries of everyone else's.
    pub foreign: usize,
    /// Of these, how many have which other mark of an enforcer; at most [`MARKS`] marks.
    pub marks: BTreeMap<String, usize>,
    /// Of these, how many have our mark and the word of which other ledger; at most [`MARKS`] words.
    pub rivals: BTreeMap<Lineage, usize>,
}

/// How many other marks are told apart.
pub const MARKS: usize = 8;

/// Whether the user can change a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WriteTest {
    /// An entry was added, changed and removed.
    Passed,
    /// A step was refused.
    Failed {
        /// `add`, `set` or `remove`.
        step: &'static str,
        /// What the router said.
        trap: Trap,
    },
    /// What was added was not there a moment later.
    Vanished,
    /// It was not to be tried.
    #[default]
    Skipped,
    /// The session ended before.
    Unfinished,
}

// === impl Facts ===

impl Facts {
    /// The version of RouterOS, where it is known.
    pub fn release(&self) -> Option<Release> {
        self.resource.shown().and_then(|resource| Release::parse(&resource.version))
    }

    /// Whether the router has no IPv6 address list at all.
    pub fn lacks_ipv6(&self) -> bool {
        self.lists[1] == Page::Missing
    }

    /// The page of a family's rules in one of the tables.
    pub fn rules(&mut self, family: Family, table: Chains) -> &mut Page<Vec<Rule>> {
        match table {
            Chains::Raw => &mut self.raw[family.index()],
            Chains::Filter => &mut self.filter[family.index()],
        }
    }

    /// The service of this name.
    pub fn service(&self, name: &str) -> Option<&IpService> {
        self.services.shown()?.iter().find(|service| service.name == name)
    }
}

// === impl Page ===

impl<T> Page<T> {
    /// What a refusal says of a page.
    pub fn refused(trap: &Trap) -> Self {
        match trap.meaning {
            TrapMeaning::Permission => Self::Refused,
            TrapMeaning::NoSuchCommand => Self::Missing,
            _ => Self::Failed(trap.message.clone()),
        }
    }

    /// What the page shows.
    pub fn shown(&self) -> Option<&T> {
        match self {
            Self::Shown(shown) => Some(shown),
            _ => None,
        }
    }

    /// Why it shows nothing, in words.
    pub fn silence(&self) -> String {
        match self {
            Self::Shown(_) => "it is shown".to_owned(),
            Self::Refused => "the user may not read it".to_owned(),
            Self::Missing => "this router has no such page".to_owned(),
            Self::Failed(why) => why.clone(),
            Self::Unread => "it was not read".to_owned(),
        }
    }
}

// === impl Resource ===

impl Resource {
    pub(super) fn read(row: &Row) -> Self {
        let bytes = |key| row.text(key).and_then(|text| text.parse().ok());
        Self {
            version: shown(row, "version"),
            board: shown(row, "board-name"),
            total_memory: bytes("total-memory"),
            free_memory: bytes("free-memory"),
        }
    }
}

// === impl ClockFace ===

impl ClockFace {
    pub(super) fn read(row: &Row, ours: Timestamp) -> Self {
        let (date, time, offset) = (shown(row, "date"), shown(row, "time"), shown(row, "gmt-offset"));
        Self { shows: moment(&date, &time, &offset), text: format!("{date} {time} {offset}"), ours }
    }
}

/// The moment that a router's clock means: `2026-11-25` or `nov/25/2026`, `12:34:56`, `+01:00`.
pub(super) fn moment(date: &str, time: &str, offset: &str) -> Option<Timestamp> {
    let iso = match date.split('/').collect::<Vec<_>>()[..] {
        [month, day, year] => {
            let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
            let month = months.iter().position(|name| name.eq_ignore_ascii_case(month))? + 1;
            format!("{year}-{month:02}-{day}")
        }
        _ => date.to_owned(),
    };
    let civil: DateTime = format!("{iso}T{time}").parse().ok()?;
    let east = offset_seconds(offset)?;
    let utc = civil.checked_sub(SignedDuration::from_secs(east)).ok()?;
    jiff::tz::Offset::UTC.to_timestamp(utc).ok()
}

/// `+01:00`, `-03:30`, or seconds, which some releases write as an unsigned number of 32 bits.
fn offset_seconds(text: &str) -> Option<i64> {
    let day = 86_400;
    let seconds = match text.split_once(':') {
        Some((hours, rest)) => {
            let minutes: i64 = rest.split(':').next()?.parse().ok()?;
            let negative = hours.starts_with('-');
            let hours: i64 = hours.parse().ok()?;
            let all = hours.checked_abs()?.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?;
            if negative { -all } else { all }
        }
        None => {
            let number: i64 = text.parse().ok()?;
            if number > i64::from(i32::MAX) { number - (1 << 32) } else { number }
        }
    };
    (-day..=day).contains(&seconds).then_some(seconds)
}

// === impl User ===

impl User {
    pub(super) fn read(row: &Row) -> Self {
        Self { group: shown(row, "group"), address: shown(row, "address") }
    }
}

// === impl Group ===

impl Group {
    pub(super) fn read(row: &Row) -> Self {
        Self { name: shown(row, "name"), policies: granted(row.text("policy").unwrap_or_default()) }
    }
}

/// The policies of a list that has a `!` before those that are denied. Nothing but words gets through, for
/// they are shown.
fn granted(policies: &str) -> Vec<String> {
    let word = |policy: &&str| {
        (1..=32).contains(&policy.len()) && policy.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    policies.split(',').filter(word).take(64).map(str::to_owned).collect()
}

// === impl IpService ===

impl IpService {
    /// `None` for a row that stands for an open connection, which newer releases list too.
    pub(super) fn read(row: &Row) -> Option<Self> {
        if is_yes(row, "dynamic") || is_yes(row, "connection") {
            return None;
        }
        let certificate = shown(row, "certificate");
        Some(Self {
            name: shown(row, "name"),
            port: row.text("port").and_then(|port| port.parse().ok()),
            disabled: is_yes(row, "disabled"),
            access: ACCESS
                .into_iter()
                .find(|property| row.text(property).is_some())
                .map(|property| Access { property, from: shown(row, property) }),
            certificate: Some(certificate).filter(|name| !matches!(name.as_str(), "" | "none")),
            max_sessions: row.text("max-sessions").and_then(|number| number.parse().ok()),
        })
    }
}

// === impl Certificate ===

impl Certificate {
    pub(super) fn read(row: &Row) -> Self {
        let fingerprint = row.text("fingerprint").and_then(|text| text.parse().ok());
        Self { name: shown(row, "name"), fingerprint }
    }
}

// === impl ListContent ===

impl ListContent {
    /// Counts an entry by its comment.
    pub(super) fn count(&mut self, comment: &str, whose: Belonging) {
        match whose {
            Belonging::Ours => return self.ours += 1,
            Belonging::Rival(word) => {
                self.foreign += 1;
                if self.rivals.contains_key(&word) || self.rivals.len() < MARKS {
                    *self.rivals.entry(word).or_default() += 1;
                }
                return;
            }
            Belonging::Other => self.foreign += 1,
        }
        // An enforcer's comment: its mark, a colon, the jail and the sensor.
        let Some((mark, _)) = comment.split_once(": ").filter(|(_, rest)| rest.contains(" from ")) else {
            return;
        };
        let plain = (1..=64).contains(&mark.len()) && mark.chars().all(|c| c.is_ascii_graphic());
        if plain && (self.marks.contains_key(mark) || self.marks.len() < MARKS) {
            *self.marks.entry(mark.to_owned()).or_default() += 1;
        }
    }
}

/// `0` for IPv4, `1` for IPv6.
pub(super) fn families(ipv6: bool) -> impl Iterator<Item = Family> {
    [Family::V4, Family::V6].into_iter().take(if ipv6 { 2 } else { 1 })
}

fn shown(row: &Row, key: &str) -> String {
    row.shown(key).unwrap_or_default()
}

fn is_yes(row: &Row, key: &str) -> bool {
    matches!(row.text(key), Some("true" | "yes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2026-11-25", "13:00:05", "+01:00")]
    #[case("nov/25/2026", "13:00:05", "+01:00")]
    #[case("Nov/25/2026", "08:30:05", "-03:30")]
    #[case("nov/25/2026", "12:00:05", "0")]
    #[case("nov/25/2026", "13:00:05", "3600")]
    #[case("nov/25/2026", "11:00:05", "4294963696")]
    #[case("2026-11-25", "17:30:05", "+05:30")]
    #[case("2026-11-25", "12:00:05", "00:00:00")]
    #[case("2026-11-25", "11:30:05", "-00:30")]
    fn every_form_of_a_clock_is_read(#[case] date: &str, #[case] time: &str, #[case] offset: &str) {
        let noon: Timestamp = "2026-11-25T12:00:05Z".parse().unwrap();
        assert_eq!(moment(date, time, offset), Some(noon));
    }

    #[rstest]
    #[case("", "", "")]
    #[case("2026-11-25", "12:00:05", "")]
    #[case("2026-11-25", "25:00:00", "+00:00")]
    #[case("foo/25/2026", "12:00:00", "+00:00")]
    #[case("nov/31/2026", "12:00:00", "+00:00")]
    #[case("2026-11-25", "12:00:00", "+99:00")]
    #[case("2026-11-25", "12:00:00", "9223372036854775807")]
    #[case("-9999-01-01", "00:00:00", "+14:00")]
    fn what_is_no_clock_is_not_guessed(#[case] date: &str, #[case] time: &str, #[case] offset: &str) {
        assert_eq!(moment(date, time, offset), None);
    }

    #[test]
    fn denied_policies_and_what_is_no_word_are_left_out() {
        assert_eq!(granted("read,rest-api,!write,\u{1b}[2J,,api"), ["read", "rest-api", "api"]);
        assert_eq!(granted(&"x,".repeat(5000)).len(), 64);
    }

    #[test]
    fn another_enforcers_entries_are_told_from_a_persons() {
        let mut list = ListContent::default();
        list.count("atalaya: ssh from web-1", Belonging::Ours);
        list.count("other: ssh from web-1", Belonging::Other);
        list.count("other: smtp from mx", Belonging::Other);
        list.count("bad guy: from the forum", Belonging::Other);
        list.count("manual", Belonging::Other);
        for number in 0..100 {
            list.count(&format!("m{number}: ssh from web-1"), Belonging::Other);
        }
        assert_eq!((list.ours, list.foreign, list.marks.len()), (1, 104, MARKS));
        assert_eq!(list.marks["other"], 2);
    }

    proptest! {
        #[test]
        fn no_text_of_a_router_makes_a_parser_panic(text in "\\PC{0,30}", likely in "[-+0-9:/a-z.]{0,24}") {
            for text in [&text, &likely] {
                moment(text, "12:00:00", "+01:00");
                moment("2026-11-25", text, "+01:00");
                moment("2026-11-25", "12:00:00", text);
                granted(text);
                Release::parse(text);
                ListContent::default().count(text, Belonging::Other);
            }
        }
    }
}
