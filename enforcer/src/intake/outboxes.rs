//! Up to which sequence each outbox of each sensor was taken. A sensor that loses its state on every start has a new
//! outbox each time, so how many are remembered of one is bounded.

use std::collections::HashMap;

use atalaya_wire::Name;

/// The largest sequence of each outbox, by sensor.
#[derive(Debug, Default)]
pub(super) struct Outboxes(HashMap<Name, HashMap<Name, u64>>);

// === impl Outboxes ===

impl Outboxes {
    /// The most outboxes of one sensor.
    pub const MOST: usize = 100;

    /// The largest sequence that was taken of an outbox; `None` for one that is new.
    pub fn through(&self, sensor: &Name, outbox: &Name) -> Option<u64> {
        self.0.get(sensor)?.get(outbox).copied()
    }

    /// Whether another outbox of a sensor is one too many.
    pub fn is_full(&self, sensor: &Name) -> bool {
        self.0.get(sensor).is_some_and(|outboxes| outboxes.len() >= Self::MOST)
    }

    /// Takes note that everything up to a sequence was taken; the largest that was.
    pub fn note(&mut self, sensor: &Name, outbox: &Name, sequence: u64) -> u64 {
        let outboxes = self.0.entry(sensor.clone()).or_default();
        let through = outboxes.entry(outbox.clone()).or_insert(0);
        *through = sequence.max(*through);
        *through
    }

    /// Forgets the outbox of a sensor that has come least far, where a new one would be one too many.
    pub fn make_room(&mut self, sensor: &Name, outbox: &Name) {
        if !self.is_full(sensor) || self.through(sensor, outbox).is_some() {
            return;
        }
        let Some(outboxes) = self.0.get_mut(sensor) else { return };
        let least = outboxes.iter().min_by_key(|(_, sequence)| **sequence);
        if let Some(least) = least.map(|(outbox, _)| outbox.clone()) {
            outboxes.remove(&least);
        }
    }
}

impl FromIterator<((Name, Name), u64)> for Outboxes {
    fn from_iter<T: IntoIterator<Item = ((Name, Name), u64)>>(saved: T) -> Self {
        let mut outboxes = Self::default();
        for ((sensor, outbox), sequence) in saved {
            outboxes.note(&sensor, &outbox, sequence);
        }
        outboxes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensor_has_so_many_outboxes_and_the_one_that_came_least_far_makes_room() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let sensor = name("web-1");
        let mut outboxes = Outboxes::default();
        for number in 0..Outboxes::MOST as u64 {
            assert!(!outboxes.is_full(&sensor));
            outboxes.note(&sensor, &name(&format!("o{number}")), 1000 - number);
        }
        assert!(outboxes.is_full(&sensor) && !outboxes.is_full(&name("web-2")));
        assert_eq!(outboxes.note(&sensor, &name("o0"), 7), 1000, "it went back");
        outboxes.make_room(&sensor, &name("o5"));
        assert!(outboxes.is_full(&sensor), "a known outbox needs no room");
        outboxes.make_room(&sensor, &name("new"));
        assert_eq!(outboxes.through(&sensor, &name("o99")), None);
        assert_eq!(outboxes.through(&sensor, &name("o98")), Some(902));
    }
}
