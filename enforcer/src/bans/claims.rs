//! Who asked for which ban. A ban stands once for a prefix, whoever asks; a sensor that takes its own back leaves those
//! of the others. Kept here is only what the ban itself does not tell: the claims of bans that several asked for, and how
//! many claims each sensor has.

use std::collections::HashMap;

use atalaya_wire::Name;
use ipnet::IpNet;

use crate::desired::{Moment, Origin};
use crate::ledger::Claim;

/// The most claims of one ban; for a further one, the one that ends first goes.
const MOST_OF_ONE: usize = 64;

/// Who asked for which ban.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// All claims of bans that have several.
    several: HashMap<IpNet, Vec<(Origin, Moment)>>,
    /// How many claims each has, by the name of the sensor or of what stands in its place.
    counts: HashMap<Name, usize>,
}

/// What is left of a ban when a sensor takes back what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remainder {
    /// The sensor did not ask for it.
    NotTheirs,
    /// Nobody else asked for it.
    Nothing,
    /// Others asked for it: the one whose ban ends last, and when.
    Others(Origin, Moment),
}

// === impl Claims ===

impl Claims {
    /// Takes over a ban that stands and who asked for it last.
    pub fn load(&mut self, owner: &Origin) {
        self.count(owner);
    }

    /// Takes over that somebody asked for a ban, which stands for an owner until a moment.
    pub fn load_claim(&mut self, Claim { prefix, origin, until }: Claim, (owner, end): (&Origin, Moment)) {
        // The owner asked for it also where a disk that was full took only the claims of others.
        let several = self.several.entry(prefix).or_insert_with(|| vec![(owner.clone(), end)]);
        match several.iter_mut().find(|(known, _)| *known == origin) {
            Some((_, known)) => *known = until,
            None => {
                several.push((origin.clone(), until));
                self.count(&origin);
            }
        }
    }

    /// How many bans a sensor asked for.
    pub fn of(&self, sensor: &Name) -> usize {
        self.counts.get(sensor).copied().unwrap_or(0)
    }

    /// Takes note of a new ban, and who asked for it.
    pub fn begin(&mut self, origin: &Origin) {
        self.count(origin);
    }

    /// Takes note that somebody asks for a ban, until a moment, that stands for an owner until another. What is to be
    /// written for it.
    pub fn join(
        &mut self,
        prefix: IpNet,
        (owner, end): (&Origin, Moment),
        origin: &Origin,
        until: Moment,
    ) -> Vec<Claim> {
        let claim = |origin: &Origin, until| Claim { prefix, origin: origin.clone(), until };
        let Some(several) = self.several.get_mut(&prefix) else {
            if owner == origin {
                return Vec::new();
            }
            self.several.insert(prefix, vec![(owner.clone(), end), (origin.clone(), until)]);
            self.count(origin);
            return vec![claim(owner, end), claim(origin, until)];
        };
        if let Some((_, known)) = several.iter_mut().find(|(known, _)| known == origin) {
            let is_later = until > *known;
            *known = until.max(*known);
            return if is_later { vec![claim(origin, until)] } else { Vec::new() };
        }
        if several.len() >= MOST_OF_ONE {
            let first = (0..several.len()).min_by_key(|place| several[*place].1);
            let Some(first) = first.filter(|place| several[*place].1 < until) else { return Vec::new() };
            let (gone, _) = several.swap_remove(first);
            self.uncount(&gone);
        }
        self.several.entry(prefix).or_default().push((origin.clone(), until));
        self.count(origin);
        vec![claim(origin, until)]
    }

    /// Forgets all claims of a ban that ends, and that stood for an owner.
    pub fn end(&mut self, prefix: IpNet, owner: &Origin) {
        match self.several.remove(&prefix) {
            Some(several) => several.iter().for_each(|(origin, _)| self.uncount(origin)),
            None => self.uncount(owner),
        }
    }

    /// Takes back what a sensor asked for, by one jail or by all; what is left. Where that is nothing the claim stays,
    /// for [`Self::end`].
    pub fn take_back(
        &mut self,
        prefix: IpNet,
        owner: &Origin,
        sensor: &Name,
        jail: Option<&Name>,
    ) -> Remainder {
        let is_theirs =
            |origin: &Origin| origin.sensor() == sensor && jail.is_none_or(|jail| origin.jail() == jail);
        let Some(several) = self.several.get_mut(&prefix) else {
            return if is_theirs(owner) { Remainder::Nothing } else { Remainder::NotTheirs };
        };
        if !several.iter().any(|(origin, _)| is_theirs(origin)) {
            return Remainder::NotTheirs;
        }
        let others = several.iter().filter(|(origin, _)| !is_theirs(origin));
        let Some((origin, until)) = others.max_by_key(|(_, until)| *until).cloned() else {
            return Remainder::Nothing;
        };
        let gone: Vec<Origin> =
            several.extract_if(.., |(origin, _)| is_theirs(origin)).map(|(origin, _)| origin).collect();
        if several.len() == 1 {
            self.several.remove(&prefix);
        }
        gone.iter().for_each(|origin| self.uncount(origin));
        Remainder::Others(origin, until)
    }

    fn count(&mut self, origin: &Origin) {
        match self.counts.get_mut(origin.sensor()) {
            Some(count) => *count += 1,
            None => drop(self.counts.insert(origin.sensor().clone(), 1)),
        }
    }

    fn uncount(&mut self, origin: &Origin) {
        if let Some(count) = self.counts.get_mut(origin.sensor()) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(origin.sensor());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn origin(sensor: &str, jail: &str) -> Origin {
        Origin::Sensor { jail: jail.parse().unwrap(), sensor: sensor.parse().unwrap() }
    }

    fn until(second: i64) -> Moment {
        Timestamp::from_second(second).unwrap().into()
    }

    #[test]
    fn who_takes_back_a_ban_leaves_those_of_the_others_and_the_last_one_ends_it() {
        let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
        let mut claims = Claims::default();
        let [one, mail, two] = [("one", "ssh"), ("one", "mail"), ("two", "ssh")].map(|(s, j)| origin(s, j));
        let (first, second): (Name, Name) = ("one".parse().unwrap(), "two".parse().unwrap());
        claims.begin(&one);
        assert_eq!(claims.join(prefix, (&one, until(9)), &one, until(5)), []);
        assert_eq!(claims.take_back(prefix, &one, &second, None), Remainder::NotTheirs);
        assert_eq!(claims.join(prefix, (&one, until(9)), &two, until(7)).len(), 2, "both are to be written");
        assert_eq!(claims.join(prefix, (&one, until(9)), &mail, until(8)).len(), 1);
        assert_eq!((claims.of(&first), claims.of(&second)), (2, 1));
        let ssh: Name = "ssh".parse().unwrap();
        assert_eq!(
            claims.take_back(prefix, &one, &first, Some(&ssh)),
            Remainder::Others(mail.clone(), until(8))
        );
        assert_eq!(claims.take_back(prefix, &mail, &first, None), Remainder::Others(two.clone(), until(7)));
        assert_eq!(claims.take_back(prefix, &two, &first, None), Remainder::NotTheirs);
        assert_eq!(claims.take_back(prefix, &two, &second, None), Remainder::Nothing);
        claims.end(prefix, &two);
        assert!(claims.counts.is_empty() && claims.several.is_empty());
    }

    #[test]
    fn of_one_ban_no_more_than_so_many_claims_are_kept_and_those_that_end_last_stay() {
        let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
        let mut claims = Claims::default();
        let all: Vec<Origin> = (0..=MOST_OF_ONE).map(|number| origin(&format!("s{number}"), "ssh")).collect();
        claims.begin(&all[0]);
        for (end, origin) in (1..).zip(&all[1..]) {
            claims.join(prefix, (&all[0], until(0)), origin, until(end));
        }
        assert_eq!(claims.several[&prefix].len(), MOST_OF_ONE);
        assert_eq!(claims.of(all[0].sensor()), 0, "the one that ends first goes");
        assert_eq!(claims.join(prefix, (&all[64], until(64)), &all[0], until(0)), []);
        claims.end(prefix, &all[64]);
        assert!(claims.counts.is_empty());
    }
}
