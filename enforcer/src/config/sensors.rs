//! The `[sensors]` table: what one sensor may take of what all share.

use std::ops::Range;

use atalaya_program::config_file::ConfigError;
use serde::Deserialize;
use toml::Spanned;

use crate::intake::SensorLimits;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSensors {
    offences: Option<Spanned<u32>>,
    bans: Option<Spanned<usize>>,
    logins: Option<Spanned<usize>>,
}

// === impl RawSensors ===

impl RawSensors {
    pub(super) fn check(
        self,
        at: &impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<SensorLimits, ConfigError> {
        let usual = SensorLimits::default();
        let count =
            |key: &str, value: Option<Spanned<usize>>, usual: Option<usize>, least: usize, most: usize| {
                let Some(value) = value else { return Ok(usual) };
                match *value.get_ref() {
                    0 => Ok(None),
                    found if (least..=most).contains(&found) => Ok(Some(found)),
                    found => {
                        let text =
                            format!("{key} is {found}; expected {least} to {most}, or 0 for any number");
                        Err(at(value.span(), text))
                    }
                }
            };
        let offences = match self.offences {
            None => usual.offences,
            Some(value) => match *value.get_ref() {
                0 => None,
                found @ 1..=1_000_000 => Some(found),
                found => {
                    let text =
                        format!("offences is {found}; expected 1 to 1000000 a second, or 0 for any number");
                    return Err(at(value.span(), text));
                }
            },
        };
        Ok(SensorLimits {
            offences,
            bans: count("bans", self.bans, usual.bans, 100, 100_000_000)?,
            logins: count("logins", self.logins, usual.logins, 1, 100_000)?,
        })
    }
}
