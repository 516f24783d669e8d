//! The bans that should stand on this host, and what is to be changed in the kernel for that. A plain
//! function of what it is told and the time; bounded.
//!
//! Several may speak of one network: the jails here, the enforcer, and an earlier run whose bans were found
//! in the kernel. The latest end holds, and a lift by either of the first two lifts it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// When a ban ends, in nanoseconds of `CLOCK_BOOTTIME`; the largest for one without end.
pub type Deadline = u64;

/// Who bans what until when: the union of this sensor's bans, the fleet's and an earlier run's, bounded.
#[derive(Debug)]
pub struct Table {
    most: usize,
    entries: HashMap<IpNet, Deadlines>,
    /// All of them by their end, so that the next to go is found at once.
    ends: BTreeSet<(Deadline, IpNet)>,
    /// How many there are of each family and prefix length, so that those around an address are found at once.
    lengths: BTreeMap<(bool, u8), usize>,
    left_out: u64,
}

/// Who says that a network is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A jail of this sensor, or somebody's hand here.
    Own,
    /// The enforcer, which tells the bans of all sensors and those by hand.
    Fleet,
    /// An earlier run, and nobody else yet.
    Before,
}

/// Who bans a network until when; 0 for who does not.
type Deadlines = [Deadline; 3];

/// What is to be done in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The network is banned until then, whether or not it was.
    Put(IpNet, Deadline),
    /// It is banned no longer.
    Remove(IpNet),
}

// === impl Table ===

impl Table {
    /// No bans yet, and never more than so many. What finds no room is left out, or takes the place of the
    /// ban that ends first where that one ends sooner.
    pub fn new(most: usize) -> Self {
        let (entries, ends, lengths) = (HashMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { most, entries, ends, lengths, left_out: 0 }
    }

    /// Goes on with room for so many.
    pub fn set_most(&mut self, most: usize) -> Vec<Change> {
        self.most = most;
        let mut changes = Vec::new();
        while self.entries.len() > most
            && let Some((_, network)) = self.ends.first().copied()
        {
            self.forget(network);
            self.left_out += 1;
            changes.push(Change::Remove(network));
        }
        changes
    }

    /// Bans a network. Of the jails here the latest end holds; the enforcer's last word replaces its earlier
    /// one.
    pub fn ban(&mut self, by: By, network: IpNet, deadline: Deadline, now: Deadline) -> Vec<Change> {
        let said = self.entries.get(&network).map_or(0, |entry| entry[by as usize]);
        self.say(by, network, if by == By::Fleet { deadline } else { deadline.max(said) }, now)
    }

    /// What somebody says of a network from now on, whatever it said before.
    pub fn say(&mut self, by: By, network: IpNet, deadline: Deadline, now: Deadline) -> Vec<Change> {
        let mut changes = Vec::new();
        if deadline <= now && !self.entries.contains_key(&network) {
            return changes;
        }
        if !self.entries.contains_key(&network) && self.entries.len() >= self.most {
            self.left_out += 1;
            match self.ends.first().copied() {
                Some((first, out)) if first < deadline => {
                    self.forget(out);
                    changes.push(Change::Remove(out));
                }
                _ => return changes,
            }
        }
        self.change(network, &mut changes, |entry| entry[by as usize] = deadline);
        changes
    }

    /// Somebody bans a network no longer; it may be banned by others.
    pub fn withdraw(&mut self, by: By, network: IpNet) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.entries.contains_key(&network) {
            self.change(network, &mut changes, |entry| entry[by as usize] = 0);
        }
        changes
    }

    /// Lifts the ban of a network, whoever asked for it.
    pub fn lift(&mut self, network: IpNet) -> Option<Change> {
        self.forget(network).then_some(Change::Remove(network))
    }

    /// From here on the enforcer tells everything anew: what it does not name until [`Self::settle`] is not
    /// its any more.
    pub fn begin_anew(&mut self) {
        for entry in self.entries.values_mut() {
            let [_, fleet, before] = entry;
            *before = (*fleet).max(*before);
            *fleet = 0;
        }
    }

    /// All that should stand is told: what only an earlier run, or the enforcer before it
    /// [began anew](Self::begin_anew), wanted is lifted.
    pub fn settle(&mut self) -> Vec<Change> {
        let before: Vec<IpNet> = self.banned_by(By::Before).collect();
        before.into_iter().flat_map(|network| self.withdraw(By::Before, network)).collect()
    }

    /// Forgets bans that are over.
    pub fn sweep(&mut self, now: Deadline) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((deadline, network)) = self.ends.first().copied()
            && deadline <= now
        {
            self.forget(network);
            changes.push(Change::Remove(network));
        }
        changes
    }

    /// The bans, and when each ends.
    pub fn bans(&self) -> impl Iterator<Item = (IpNet, Deadline)> + '_ {
        self.ends.iter().map(|(deadline, network)| (*network, *deadline))
    }

    /// When the ban of this very network ends.
    pub fn deadline(&self, network: IpNet) -> Option<Deadline> {
        self.entries.get(&network).map(latest)
    }

    /// The banned networks that an address lies in, the largest first.
    pub fn around(&self, address: IpAddr) -> impl Iterator<Item = IpNet> + '_ {
        let family = (address.is_ipv6(), u8::MIN)..=(address.is_ipv6(), u8::MAX);
        self.lengths.range(family).filter_map(move |((_, length), _)| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            self.entries.contains_key(&network).then_some(network)
        })
    }

    /// Whether somebody says that this very network is banned.
    pub fn is_banned_by(&self, by: By, network: IpNet) -> bool {
        self.entries.get(&network).is_some_and(|entry| entry[by as usize] > 0)
    }

    /// The networks that somebody says are banned.
    pub fn banned_by(&self, by: By) -> impl Iterator<Item = IpNet> + '_ {
        let said = self.entries.iter().filter(move |(_, entry)| entry[by as usize] > 0);
        said.map(|(network, _)| *network)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How often there was no room.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn change(&mut self, network: IpNet, changes: &mut Vec<Change>, change: impl FnOnce(&mut Deadlines)) {
        let mut entry = self.entries.get(&network).copied().unwrap_or_default();
        let before = latest(&entry);
        change(&mut entry);
        let after = latest(&entry);
        if after == 0 {
            if self.forget(network) {
                changes.push(Change::Remove(network));
            }
            return;
        }
        if self.entries.insert(network, entry).is_none() {
            *self.lengths.entry(length(network)).or_default() += 1;
        }
        if after != before {
            self.ends.remove(&(before, network));
            self.ends.insert((after, network));
            changes.push(Change::Put(network, after));
        }
    }

    fn forget(&mut self, network: IpNet) -> bool {
        let Some(entry) = self.entries.remove(&network) else { return false };
        self.ends.remove(&(latest(&entry), network));
        let length = length(network);
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
        true
    }
}

/// The family of a network, and the length of its prefix.
fn length(network: IpNet) -> (bool, u8) {
    (network.addr().is_ipv6(), network.prefix_len())
}

fn latest(entry: &Deadlines) -> Deadline {
    entry.iter().copied().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(number: u8) -> IpNet {
        format!("192.0.2.{number}/32").parse().unwrap()
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ban(By, u8, Deadline),
        Say(By, u8, Deadline),
        Withdraw(By, u8),
        Lift(u8),
        BeginAnew,
        Settle,
        Pass(Deadline),
    }

    fn step() -> impl Strategy<Value = Step> {
        let by = prop_oneof![Just(By::Own), Just(By::Fleet), Just(By::Before)];
        prop_oneof![
            6 => (by.clone(), 0_u8..6, 1_u64..100).prop_map(|(by, net, deadline)| Step::Ban(by, net, deadline)),
            2 => (by.clone(), 0_u8..6, 1_u64..100).prop_map(|(by, net, deadline)| Step::Say(by, net, deadline)),
            2 => (by, 0_u8..6).prop_map(|(by, net)| Step::Withdraw(by, net)),
            1 => (0_u8..6).prop_map(Step::Lift),
            1 => Just(Step::BeginAnew),
            1 => Just(Step::Settle),
            2 => (1_u64..20).prop_map(Step::Pass),
        ]
    }

    /// Does to a copy of the kernel's maps what the table asks for.
    fn apply(kernel: &mut HashMap<IpNet, Deadline>, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Put(network, deadline) => {
                    assert_ne!(kernel.insert(network, deadline), Some(deadline));
                }
                Change::Remove(network) => {
                    assert!(kernel.remove(&network).is_some(), "{network} was not there");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_kernel_holds_for_each_network_the_latest_end_that_somebody_says(
            steps in prop::collection::vec(step(), 1..60)
        ) {
            let mut table = Table::new(100);
            let mut kernel = HashMap::new();
            let mut said: HashMap<(u8, usize), Deadline> = HashMap::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Ban(by, net, deadline) => {
                        let deadline = now + deadline;
                        apply(&mut kernel, table.ban(by, network(net), deadline, now));
                        let old = said.entry((net, by as usize)).or_default();
                        *old = if by == By::Fleet { deadline } else { deadline.max(*old) };
                    }
                    Step::Say(by, net, deadline) => {
                        apply(&mut kernel, table.say(by, network(net), now + deadline, now));
                        said.insert((net, by as usize), now + deadline);
                    }
                    Step::Withdraw(by, net) => {
                        apply(&mut kernel, table.withdraw(by, network(net)));
                        said.remove(&(net, by as usize));
                    }
                    Step::Lift(net) => {
                        apply(&mut kernel, table.lift(network(net)));
                        said.retain(|(of, _), _| *of != net);
                    }
                    Step::BeginAnew => {
                        table.begin_anew();
                        for net in 0..6 {
                            if let Some(fleet) = said.remove(&(net, By::Fleet as usize)) {
                                let before = said.entry((net, By::Before as usize)).or_default();
                                *before = fleet.max(*before);
                            }
                        }
                    }
                    Step::Settle => {
                        apply(&mut kernel, table.settle());
                        said.retain(|(_, by), _| *by != By::Before as usize);
                    }
                    Step::Pass(time) => {
                        now += time;
                        apply(&mut kernel, table.sweep(now));
                        let over: Vec<u8> = (0..6)
                            .filter(|net| (0..3).all(|by| said.get(&(*net, by)).is_none_or(|end| *end <= now)))
                            .collect();
                        said.retain(|(net, _), _| !over.contains(net));
                    }
                }
                let mut expected: HashMap<IpNet, Deadline> = HashMap::new();
                for ((net, _), deadline) in &said {
                    let end = expected.entry(network(*net)).or_default();
                    *end = (*end).max(*deadline);
                }
                prop_assert_eq!(&kernel, &expected);
                prop_assert_eq!(table.len(), expected.len());
                prop_assert_eq!(table.bans().collect::<HashMap<_, _>>(), expected);
            }
        }

        #[test]
        fn there_are_never_more_than_fit_and_those_that_end_last_stay(ends in prop::collection::vec(1_u64..1000, 1..40)) {
            let mut table = Table::new(5);
            let mut kernel = HashMap::new();
            for (number, end) in ends.iter().enumerate() {
                apply(&mut kernel, table.ban(By::Fleet, network(number as u8), *end, 0));
                prop_assert!(kernel.len() <= 5);
            }
            let mut kept: Vec<Deadline> = kernel.into_values().collect();
            kept.sort_unstable();
            let mut ends = ends;
            ends.sort_unstable();
            prop_assert_eq!(kept, &ends[ends.len().saturating_sub(5)..]);
            prop_assert_eq!(table.left_out(), ends.len().saturating_sub(5) as u64);
            table.set_most(2);
            let kept: Vec<Deadline> = table.bans().map(|(_, end)| end).collect();
            prop_assert_eq!(kept, &ends[ends.len().saturating_sub(2)..]);
        }
    }

    #[test]
    fn networks_around_an_address_are_found_as_long_as_they_are_banned() {
        let mut table = Table::new(9);
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        for (number, text) in
            ["192.0.2.7/32", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::/64"].iter().enumerate()
        {
            table.ban(By::Fleet, net(text), 10 + number as Deadline, 0);
        }
        table.ban(By::Own, net("192.0.2.7/32"), 90, 0);
        let around =
            |table: &Table, address: &str| table.around(address.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(around(&table, "192.0.2.7"), [net("0.0.0.0/0"), net("192.0.2.0/24"), net("192.0.2.7/32")]);
        assert_eq!(around(&table, "2001:db8::5"), [net("2001:db8::/64")]);
        assert_eq!(around(&table, "::"), []);
        table.withdraw(By::Fleet, net("192.0.2.7/32"));
        assert!(table.is_banned_by(By::Own, net("192.0.2.7/32")));
        assert!(!table.is_banned_by(By::Fleet, net("192.0.2.7/32")));
        assert_eq!(table.banned_by(By::Own).collect::<Vec<_>>(), [net("192.0.2.7/32")]);
        table.sweep(11);
        table.lift(net("0.0.0.0/0"));
        assert_eq!(around(&table, "192.0.2.7"), [net("192.0.2.7/32")]);
        table.say(By::Own, net("192.0.2.7/32"), 0, 0);
        assert!(around(&table, "192.0.2.7").is_empty() && table.lengths.len() == 1);
    }

    #[test]
    fn a_ban_that_is_over_when_it_comes_changes_nothing() {
        let mut table = Table::new(5);
        assert_eq!(table.ban(By::Own, network(1), 10, 10), []);
        assert!(table.is_empty());
    }
}
