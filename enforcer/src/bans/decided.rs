//! What was decided of an offence, as the log and the ledger have it.

use std::net::IpAddr;

use atalaya_wire::Offence;
use ipnet::IpNet;
use jiff::Timestamp;

use super::decision::Decision;
use crate::desired::{Moment, Origin};
use crate::ledger::{Change, GoodLogin, ProtectedOffence};

/// A decision, to be logged once the routers know.
pub(super) struct Decided {
    pub decision: Decision,
    pub address: IpAddr,
    /// What its ban covers.
    pub prefix: IpNet,
    pub origin: Origin,
    /// The time of the offence.
    pub time: Timestamp,
    pub failures: u32,
    /// The successful login that protects the address.
    pub login: Option<GoodLogin>,
}

// === impl Decided ===

impl Decided {
    /// What the ledger keeps of an offence that led to no ban because of a successful login.
    pub fn protected(&self, offence: Offence, now: Timestamp) -> Option<Change> {
        let login = self.login.as_ref()?;
        let why =
            format!("{} logged in on {} by {} at {}", login.account, login.sensor, login.service, login.last);
        Some(Change::Protected(Box::new(ProtectedOffence {
            address: self.address,
            jail: self.origin.jail().clone(),
            sensor: self.origin.sensor().clone(),
            at: now,
            why,
            evidence: offence.evidence,
        })))
    }

    pub fn log(&self) {
        let (address, failures) = (self.address, self.failures);
        let (jail, sensor) = (self.origin.jail(), self.origin.sensor());
        let covers = Some(self.prefix).filter(|prefix| prefix.prefix_len() < prefix.max_prefix_len());
        let covers = covers.map(tracing::field::display);
        let until =
            |end: Moment| end.timestamp().map_or_else(|| "permanently".to_owned(), |until| until.to_string());
        match self.decision {
            Decision::Banned(end) => {
                tracing::info!(%address, covers, %jail, %sensor, failures, until = until(end), "ban");
            }
            Decision::Extended(end) => {
                tracing::info!(%address, covers, %jail, %sensor, failures, until = until(end), "extended");
            }
            Decision::AlreadyBanned => tracing::debug!(%address, %jail, %sensor, "already banned"),
            Decision::Allowed => {
                tracing::info!(%address, %jail, %sensor, "not banned: the address is on the allow list");
            }
            Decision::Protected => {
                if let Some(login) = &self.login {
                    tracing::warn!(
                        %address, %jail, %sensor, failures,
                        account = login.account, service = login.service, host = %login.sensor, login = %login.last,
                        "not banned: protected by a successful login from this address; `atalaya-enforcer ban --force` bans it all the same"
                    );
                }
            }
            Decision::Over => {
                tracing::info!(%address, %jail, %sensor, time = %self.time, "not banned: the ban would be over already");
            }
        }
    }
}
