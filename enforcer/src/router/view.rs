//! What one router should hold: of all bans those that it takes, and of these no more than it can.
//!
//! Where there are more bans than a router may hold entries, each sensor gets its share ([`share`](super::share)), so
//! that one that fills the router displaces its own bans alone; bans by hand come before all. Of what is over a share
//! the lowest severity is left out, and of one severity what ends first: of that the least is lost. Which come first
//! does not change with time, so that one rank is a sensor's border, and moving it is all there is to do.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use atalaya_wire::Name;
use ipnet::IpNet;

use super::share::fair_shares;
use crate::desired::{Desired, Label, Moment, Origin, Severity};
use crate::prefixes::Family;

/// Which bans are for a router.
#[derive(Clone, Debug, Default)]
pub struct Takes {
    /// Only those of these jails; of all where none is named.
    pub jails: Vec<Name>,
    /// Only those of this severity and above.
    pub severity: Severity,
}

/// One router's view of [`Desired`].
#[derive(Debug)]
pub struct View {
    desired: Arc<Desired>,
    takes: Takes,
    /// Of which families the router has a table.
    families: [bool; 2],
    limit: Option<usize>,
    /// Bans below these ranks are left out, by the name of the sensor, or of what stands in its place.
    borders: HashMap<Name, u64>,
    left_out: usize,
}

// === impl Takes ===

impl Takes {
    /// Of a router that takes the bans of every jail and severity.
    pub fn all() -> Self {
        Self { jails: Vec::new(), severity: Severity::Low }
    }

    /// Whether bans of this jail and severity are for the router.
    pub fn takes(&self, jail: &Name, severity: Severity) -> bool {
        severity >= self.severity && (self.jails.is_empty() || self.jails.contains(jail))
    }
}

// === impl View ===

impl View {
    /// A view without a limit.
    pub fn new(desired: Arc<Desired>, takes: Takes, ipv6: bool) -> Self {
        Self { desired, takes, families: [true, ipv6], limit: None, borders: HashMap::new(), left_out: 0 }
    }

    /// Sets how many entries the router may hold.
    pub fn set_limit(&mut self, limit: Option<usize>) {
        self.limit = limit;
        self.settle();
    }

    /// The router has no table for this family.
    pub fn lacks(&mut self, family: Family) {
        self.families[family.index()] = false;
    }

    /// Draws the border anew. A limited router is given a little less than its limit, so that what comes
    /// next does not move the border each time.
    pub fn settle(&mut self) {
        self.borders.clear();
        self.left_out = 0;
        let Some(limit) = self.limit else { return };
        if self.taken() <= limit {
            return;
        }
        let mut by_hand = Vec::new();
        let mut ranks: HashMap<Name, Vec<u64>> = HashMap::new();
        self.desired.each(|prefix, until, label| {
            if self.takes(prefix, label) {
                let rank = rank(prefix, until, label.severity);
                match label.origin {
                    Origin::Hand => by_hand.push(rank),
                    _ => match ranks.get_mut(label.origin.sensor()) {
                        Some(ranks) => ranks.push(rank),
                        None => drop(ranks.insert(label.origin.sensor().clone(), vec![rank])),
                    },
                }
            }
        });
        let keep = limit - self.margin();
        let left = keep.saturating_sub(by_hand.len());
        let (names, mut ranks): (Vec<Name>, Vec<Vec<u64>>) = ranks.into_iter().unzip();
        let asked: Vec<usize> = ranks.iter().map(Vec::len).collect();
        for ((name, ranks), share) in names.into_iter().zip(&mut ranks).zip(fair_shares(&asked, left)) {
            self.draw(name, ranks, share);
        }
        self.draw(Origin::Hand.sensor().clone(), &mut by_hand, keep);
    }

    /// Leaves out what is more than a share.
    fn draw(&mut self, name: Name, ranks: &mut [u64], share: usize) {
        let over = ranks.len().saturating_sub(share);
        if over == 0 {
            return;
        }
        let border = if over == ranks.len() { u64::MAX } else { *ranks.select_nth_unstable(over).1 };
        self.borders.insert(name, border);
        self.left_out += over;
    }

    /// When the ban of this (canonical) prefix ends; `None` where none stands that the router should hold.
    pub fn until(&self, prefix: IpNet) -> Option<Moment> {
        let look = |until, label: &Arc<Label>| self.wants(prefix, until, label).then_some(until);
        self.desired.look(prefix, look).flatten()
    }

    /// What is said of the ban of this (canonical) prefix.
    pub fn label(&self, prefix: IpNet) -> Option<Arc<Label>> {
        self.desired.look(prefix, |_, label| Arc::clone(label))
    }

    /// The prefixes of one family that the router should hold.
    pub fn prefixes(&self, family: Family) -> Vec<IpNet> {
        let mut prefixes = Vec::new();
        self.desired.each(|prefix, until, label| {
            if Family::of(prefix) == family && self.wants(prefix, until, label) {
                prefixes.push(prefix);
            }
        });
        prefixes
    }

    /// Tells the next prefixes after one that the router should hold, of at most so many bans that it looks at, and
    /// when their bans end; after which it ended, or `None` at the end of all.
    pub fn each_after(
        &self,
        after: Option<IpNet>,
        most: usize,
        mut tell: impl FnMut(IpNet, Moment),
    ) -> Option<IpNet> {
        let (mut looked_at, mut last) = (0, None);
        self.desired.each_after(after, most, |prefix, until, label| {
            (looked_at, last) = (looked_at + 1, Some(prefix));
            if self.wants(prefix, until, label) {
                tell(prefix, until);
            }
        });
        last.filter(|_| looked_at == most)
    }

    /// Why bans of this kind are not for the router, whatever its limit; `None` where they are.
    pub fn refusal(&self, family: Family, jail: &Name, severity: Severity) -> Option<String> {
        let Takes { jails, severity: least } = &self.takes;
        if !jails.is_empty() && !jails.contains(jail) {
            let jails: Vec<&str> = jails.iter().map(Name::as_str).collect();
            return Some(format!("takes the bans of {} alone", jails.join(", ")));
        }
        if severity < *least {
            return Some(format!("takes bans of severity {least} and above alone"));
        }
        (!self.families[family.index()]).then(|| format!("keeps no {family} list"))
    }

    /// Keeps of these (canonical) prefixes those that the router should not hold.
    pub fn keep_unwanted(&self, prefixes: &mut Vec<IpNet>) {
        prefixes.retain(|prefix| self.until(*prefix).is_none());
    }

    /// How many bans are for the router, those that are left out included.
    pub fn taken(&self) -> usize {
        self.desired
            .count(|family, jail, severity| self.families[family.index()] && self.takes.takes(jail, severity))
    }

    /// How many bans were left out when the border was drawn.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// How many entries the router may hold.
    pub fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// By how much the border leaves the limit open.
    pub fn margin(&self) -> usize {
        self.limit.map_or(0, |limit| limit / 32)
    }

    /// Whether any ban is left out.
    pub fn is_bordered(&self) -> bool {
        !self.borders.is_empty()
    }

    fn takes(&self, prefix: IpNet, label: &Label) -> bool {
        self.families[Family::of(prefix).index()] && self.takes.takes(label.jail(), label.severity)
    }

    fn wants(&self, prefix: IpNet, until: Moment, label: &Label) -> bool {
        let border = if self.borders.is_empty() { None } else { self.borders.get(label.origin.sensor()) };
        let is_over = border.is_some_and(|border| rank(prefix, until, label.severity) < *border);
        self.takes(prefix, label) && !is_over
    }
}

/// How many entries a router with so many bytes of memory is given where nothing is configured: 32,768 for
/// each 256 MiB and at most 131,072. Routers of 256 MiB were seen to struggle past 35,000 entries, and
/// the largest ones past 146,000.
pub fn entries_by_memory(bytes: u64) -> usize {
    const FOR_EACH: u64 = 256 * 1024 * 1024;
    const MOST: u64 = 131_072;
    // A router keeps a little of its memory to itself and tells of the rest.
    let quarters = bytes.saturating_add(FOR_EACH / 4) / FOR_EACH;
    (quarters * 32_768).clamp(8192, MOST) as usize
}

/// How much a ban is worth to a router that cannot hold all: its severity, then its end, then something
/// that only tells bans apart.
fn rank(prefix: IpNet, until: Moment, severity: Severity) -> u64 {
    const SECONDS: u64 = (1 << 34) - 1;
    let seconds = until.unix_seconds().clamp(1, SECONDS.cast_signed()).cast_unsigned();
    let mut hasher = DefaultHasher::new();
    prefix.hash(&mut hasher);
    (severity as u64) << 62 | seconds << 28 | hasher.finish() >> 36
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::desired::{Origin, Wanted};

    fn view(bans: &[(u16, Option<i64>, Severity)], limit: usize) -> (Arc<Desired>, View) {
        let desired = Arc::new(Desired::new());
        for (number, until, severity) in bans {
            let label = Label { severity: *severity, ..(*Label::test("x")).clone() };
            let until = until.map(|second| Timestamp::from_second(second).unwrap());
            desired.set(prefix(*number), Wanted { until: until.into(), label: label.into() });
        }
        let mut view = View::new(Arc::clone(&desired), Takes::all(), true);
        view.set_limit(Some(limit));
        (desired, view)
    }

    fn prefix(number: u16) -> IpNet {
        IpNet::from(std::net::IpAddr::from((0x0B00_0000 | u32::from(number)).to_be_bytes()))
    }

    fn severities() -> impl Strategy<Value = Severity> {
        prop_oneof![Just(Severity::Low), Just(Severity::Medium), Just(Severity::High)]
    }

    proptest! {
        #[test]
        fn what_is_left_out_is_worth_no_more_than_anything_that_is_kept(
            bans in prop::collection::btree_map(
                0..400_u16, (prop::option::of(1_800_000_000..1_800_000_100_i64), severities()), 0..300),
            limit in 1..300_usize,
        ) {
            let bans: Vec<_> =
                bans.into_iter().map(|(number, (until, severity))| (number, until, severity)).collect();
            let (_, view) = view(&bans, limit);
            let kept = view.prefixes(Family::V4).len();
            prop_assert_eq!(kept + view.left_out(), bans.len());
            prop_assert!(kept <= limit);
            prop_assert!(kept == bans.len() || kept >= limit - limit / 32);
            let view = &view;
            let worth = |wanted: bool| bans.iter()
                .filter(move |(number, ..)| view.until(prefix(*number)).is_some() == wanted)
                .map(|(_, until, severity)| (*severity, until.unwrap_or(i64::MAX)));
            if let (Some(best), Some(worst)) = (worth(false).max(), worth(true).min()) {
                prop_assert!(best <= worst);
            }
        }
    }

    #[test]
    fn a_sensor_that_fills_a_router_displaces_its_own_bans_alone_and_none_by_hand() {
        let desired = Arc::new(Desired::new());
        let sensor =
            |name: &str| Origin::Sensor { jail: "x".parse().unwrap(), sensor: name.parse().unwrap() };
        let ban = |number: u16, origin: Origin, severity, until: i64| {
            let label = Label { origin, severity, ..(*Label::test("x")).clone() };
            let until = Some(Timestamp::from_second(1_800_000_000 + until).unwrap());
            desired.set(prefix(number), Wanted { until: until.into(), label: label.into() });
        };
        for number in 0..1000 {
            ban(number, sensor("evil"), Severity::High, 100_000 + i64::from(number));
        }
        for number in 1000..1020 {
            ban(number, sensor("good"), Severity::Low, 1);
        }
        for number in 1020..1030 {
            ban(number, Origin::Hand, Severity::Medium, 2);
        }
        let mut view = View::new(Arc::clone(&desired), Takes::all(), true);
        view.set_limit(Some(100));
        let held = |range: std::ops::Range<u16>| -> Vec<u16> {
            range.filter(|number| view.until(prefix(*number)).is_some()).collect()
        };
        assert_eq!(held(0..1000), (1000 - 67..1000).collect::<Vec<_>>(), "of its own, those that end last");
        assert_eq!((held(1000..1020).len(), held(1020..1030).len(), view.left_out()), (20, 10, 933));
    }

    #[test]
    fn permanent_bans_alike_in_everything_fill_the_limit_all_the_same() {
        let bans: Vec<_> = (0..1000).map(|number| (number, None, Severity::Medium)).collect();
        let (desired, mut view) = view(&bans, 100);
        assert_eq!(view.prefixes(Family::V4).len(), 97);
        for number in 0..950 {
            desired.remove(prefix(number));
        }
        view.settle();
        assert_eq!((view.prefixes(Family::V4).len(), view.left_out()), (50, 0));
    }

    #[test]
    fn memory_sets_the_limit_where_nothing_is_configured() {
        let mebibytes = |count: u64| entries_by_memory(count * 1024 * 1024);
        assert_eq!(
            [32, 64, 250, 256, 1024, 16_384].map(mebibytes),
            [8192, 8192, 32_768, 32_768, 131_072, 131_072]
        );
        assert_eq!(entries_by_memory(u64::MAX), 131_072);
    }

    #[test]
    fn a_router_gets_the_jails_and_severities_that_it_takes() {
        let desired = Arc::new(Desired::new());
        for (number, jail, severity) in
            [(1, "ssh", Severity::High), (2, "ssh", Severity::Low), (3, "smtp", Severity::High)]
        {
            let label = Label {
                origin: Origin::Fleet { jail: jail.parse().unwrap() },
                severity,
                ..(*Label::test("x")).clone()
            };
            desired.set(prefix(number), Wanted { until: Moment::FOREVER, label: label.into() });
        }
        let takes = Takes { jails: vec!["ssh".parse().unwrap()], severity: Severity::Medium };
        let view = View::new(desired, takes, true);
        assert_eq!((view.taken(), view.prefixes(Family::V4)), (1, vec![prefix(1)]));
    }
}
