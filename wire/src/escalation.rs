//! How bans grow for those who come back.

use serde::{Deserialize, Serialize};

use crate::{BanTime, Seconds};

/// How much longer a ban is for an address that was banned before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escalation {
    /// What the jail's time is multiplied with, in thousandths: the first for an address that was never
    /// banned, the next for one that was banned once, and so on; the last repeats.
    pub thousandths: Vec<u64>,
    /// The longest that a ban grows; without end where there is none.
    #[serde(default)]
    pub max: Option<Seconds>,
    /// Up to so much is added by chance to a ban that has grown, so that nobody can tell its end.
    #[serde(default)]
    pub random: Option<Seconds>,
    /// Whether bans of other jails count too.
    #[serde(default)]
    pub overall: bool,
    /// For each such time since the last ban ended, one earlier ban is forgotten; none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<Seconds>,
}

/// An escalation as a configuration file has it: a table whose every key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EscalationTable {
    /// What the jail's time is multiplied with, for an address that was never banned, once, twice and so on; the last
    /// repeats. Without it the time doubles, twenty times, as fail2ban's does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multipliers: Option<Vec<f64>>,
    /// As [`Escalation::max`], in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Seconds>,
    /// As [`Escalation::random`], in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random: Option<Seconds>,
    /// As [`Escalation::overall`]; false unless set.
    #[serde(default)]
    pub overall: bool,
    /// As [`Escalation::decay`], in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<Seconds>,
}

/// What is wrong with an [`EscalationTable`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum EscalationError {
    /// There is none, or there are more than are told apart.
    #[error("{0} multipliers; expected 1 to {most}", most = Escalation::MOST_STEPS)]
    Count(usize),
    /// One is out of bounds, or no number.
    #[error("the multiplier {0} is not from 0.001 to 1e12")]
    Multiplier(f64),
}

// === impl EscalationTable ===

impl TryFrom<EscalationTable> for Escalation {
    type Error = EscalationError;

    fn try_from(table: EscalationTable) -> Result<Self, EscalationError> {
        let EscalationTable { multipliers, max, random, overall, decay } = table;
        let multipliers =
            multipliers.unwrap_or_else(|| (0..=20_u32).map(|count| f64::from(1_u32 << count)).collect());
        if multipliers.is_empty() || multipliers.len() > Self::MOST_STEPS {
            return Err(EscalationError::Count(multipliers.len()));
        }
        if let Some(wrong) = multipliers.iter().find(|number| !(0.001..=1e12).contains(*number)) {
            return Err(EscalationError::Multiplier(*wrong));
        }
        let thousandths = multipliers.iter().map(|number| (number * 1000.0).round() as u64).collect();
        Ok(Self { thousandths, max, random, overall, decay })
    }
}

// === impl Escalation ===

impl Escalation {
    /// The most steps that are told apart.
    pub const MOST_STEPS: usize = 100;

    /// How many of so many earlier bans still count, so long after the last of them ended.
    pub fn remembered(&self, earlier: u32, quiet: Seconds) -> u32 {
        let Some(decay) = self.decay.filter(|decay| decay.0 > 0) else { return earlier };
        earlier.saturating_sub(u32::try_from(quiet.0 / decay.0).unwrap_or(u32::MAX))
    }

    /// The time of a ban after so many earlier ones. `chance` is from 0 to 1. A permanent ban stays one.
    pub fn time(&self, bantime: BanTime, earlier: u32, chance: f64) -> BanTime {
        let BanTime::For(base) = bantime else { return bantime };
        if earlier == 0 {
            return bantime;
        }
        let steps = &self.thousandths[..self.thousandths.len().min(Self::MOST_STEPS)];
        let Some(times) = steps.get(earlier as usize).or(steps.last()) else { return bantime };
        let grown = u128::from(base.0) * u128::from(*times) / 1000;
        let random = self.random.map_or(0.0, |random| random.0 as f64 * chance.clamp(0.0, 1.0)) as u128;
        let longest = self.max.unwrap_or(Seconds::LONGEST).0.min(Seconds::LONGEST.0);
        let seconds = (grown + random).clamp(1, u128::from(longest.max(1)));
        BanTime::For(Seconds(u64::try_from(seconds).unwrap_or(longest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_multipliers_doubles_and_one_out_of_bounds_is_refused() {
        let escalation = Escalation::try_from(EscalationTable::default()).unwrap();
        assert_eq!(escalation.thousandths[..4], [1000, 2000, 4000, 8000]);
        assert_eq!(escalation.thousandths.len(), 21);
        let of = |multipliers: Vec<f64>| {
            Escalation::try_from(EscalationTable { multipliers: Some(multipliers), ..Default::default() })
        };
        assert_eq!(of(vec![0.5, 1.25]).unwrap().thousandths, [500, 1250]);
        assert_eq!(of(Vec::new()), Err(EscalationError::Count(0)));
        assert_eq!(of(vec![1.0; 101]), Err(EscalationError::Count(101)));
        assert_eq!(of(vec![1.0, 0.0]), Err(EscalationError::Multiplier(0.0)));
        assert!(of(vec![f64::NAN]).is_err());
    }

    #[test]
    fn a_ban_grows_with_each_one_before_it_up_to_its_end() {
        let escalation = Escalation {
            thousandths: vec![1000, 2000, 4500],
            max: Some(Seconds(5000)),
            random: Some(Seconds(100)),
            overall: false,
            decay: None,
        };
        let time = |earlier, chance| escalation.time(BanTime::For(Seconds(600)), earlier, chance);
        assert_eq!(time(0, 1.0), BanTime::For(Seconds(600)));
        assert_eq!(time(1, 0.0), BanTime::For(Seconds(1200)));
        assert_eq!(time(1, 0.5), BanTime::For(Seconds(1250)));
        assert_eq!(time(2, 0.0), BanTime::For(Seconds(2700)));
        assert_eq!(time(9, 0.0), BanTime::For(Seconds(2700)));
        assert_eq!(escalation.time(BanTime::For(Seconds(3000)), 2, 1.0), BanTime::For(Seconds(5000)));
        assert_eq!(escalation.time(BanTime::Permanent, 2, 1.0), BanTime::Permanent);
        let decaying = Escalation { decay: Some(Seconds(100)), ..escalation.clone() };
        assert_eq!([99, 100, 250, 9000].map(|quiet| decaying.remembered(3, Seconds(quiet))), [3, 2, 1, 0]);
        assert_eq!(escalation.remembered(3, Seconds(9000)), 3);
        let endless =
            Escalation { thousandths: vec![u64::MAX], max: None, random: None, overall: true, decay: None };
        assert_eq!(endless.time(BanTime::For(Seconds(600)), 1, 0.0), BanTime::For(Seconds::LONGEST));
    }
}
