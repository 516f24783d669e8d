//! Who holds the places of the offenders that fleet jails count. Each counts to the sensor that reported it first. Where
//! there is no room, the sensor that holds most gives up its own: first those that nobody else reported, which an
//! attack on many hosts is not, and of them the one that was quiet longest. So a sensor that invents offenders pushes
//! out what it invented itself.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

/// What the place of an offender weighs, in reports about it: as many are kept for each as there is room for on average.
const PLACE: usize = super::MOST_EVENTS / super::MOST_OFFENDERS;

/// The places of all sensors.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By the sensors' numbers.
    holders: Vec<Holder>,
    /// The sensors by what they hold.
    by_weight: BTreeSet<(usize, u32)>,
}

/// What one sensor holds, by when it was last active.
#[derive(Debug, Default)]
struct Holder {
    alone: BTreeMap<u64, CountedAt>,
    shared: BTreeMap<u64, CountedAt>,
    weight: usize,
}

/// Where an offender is counted: the place of its jail, and its prefix.
pub(super) type CountedAt = (usize, IpNet);

/// Under what an offender's place is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldPlace {
    /// The number of the sensor that reported it first.
    pub holder: u32,
    /// Whether others reported it too.
    pub is_shared: bool,
    /// When it was last active: no other has the same.
    pub active: u64,
    /// How many reports about it are kept.
    pub events: usize,
}

// === impl Places ===

impl Places {
    /// Notes the place of an offender.
    pub fn put(&mut self, held: HeldPlace, place: CountedAt) {
        let number = held.holder as usize;
        if self.holders.len() <= number {
            self.holders.resize_with(number + 1, Holder::default);
        }
        self.holders[number].queue(held.is_shared).insert(held.active, place);
        self.weigh(held.holder, |weight| weight + held.weight());
    }

    /// Gives up a place that was noted.
    pub fn give_up(&mut self, held: HeldPlace) {
        let Some(holder) = self.holders.get_mut(held.holder as usize) else { return };
        if holder.queue(held.is_shared).remove(&held.active).is_some() {
            self.weigh(held.holder, |weight| weight.saturating_sub(held.weight()));
        }
    }

    /// Whose place goes where there is no room.
    pub fn first_to_go(&self) -> Option<CountedAt> {
        let (_, holder) = self.by_weight.last()?;
        let holder = self.holders.get(*holder as usize)?;
        let quietest = holder.alone.first_key_value().or_else(|| holder.shared.first_key_value());
        quietest.map(|(_, place)| *place)
    }

    /// How many places are held.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.holders.iter().map(|holder| holder.alone.len() + holder.shared.len()).sum()
    }

    fn weigh(&mut self, number: u32, change: impl FnOnce(usize) -> usize) {
        let Some(holder) = self.holders.get_mut(number as usize) else { return };
        self.by_weight.remove(&(holder.weight, number));
        holder.weight = change(holder.weight);
        if holder.weight > 0 {
            self.by_weight.insert((holder.weight, number));
        }
    }
}

// === impl Holder ===

impl Holder {
    fn queue(&mut self, is_shared: bool) -> &mut BTreeMap<u64, CountedAt> {
        if is_shared { &mut self.shared } else { &mut self.alone }
    }
}

// === impl HeldPlace ===

impl HeldPlace {
    fn weight(self) -> usize {
        PLACE + self.events
    }
}
