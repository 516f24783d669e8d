//! Faults planted to show that each invariant is noticed where it does not hold.

use anyhow::{Context, Result};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use routeros_sim::Family;

use crate::claims::ClaimKind;
use crate::invariants::Invariant;
use crate::proxy::Condition;
use crate::record::Record;
use crate::stage::{LIST, Stage};

/// What is planted, after the last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// An ack of a ban that the enforcer never heard of.
    LostAck,
    /// An entry of the enforcer's that nobody asked for.
    Outliving,
    /// An entry of the enforcer's for someone who is allowed.
    Allowed,
    /// A stranger's entry that someone else changed.
    Stranger,
    /// A router that stays cut off.
    CutOff,
    /// Connections to the enforcer's socket that nobody closes.
    Descriptors,
    /// An enforcer that ends.
    End,
}

// === impl Plant ===

impl Plant {
    /// The invariant that it breaks.
    pub fn breaks(self) -> Invariant {
        match self {
            Self::LostAck => Invariant::NothingAckedIsLost,
            Self::Outliving => Invariant::NothingOutlivesItsBan,
            Self::Allowed => Invariant::NobodyAllowedIsBanned,
            Self::Stranger => Invariant::StrangersAreLeftAlone,
            Self::CutOff => Invariant::EverythingSettles,
            Self::Descriptors => Invariant::NothingGrows,
            Self::End => Invariant::ProcessesLive,
        }
    }

    /// Plants it.
    pub async fn set(self, stage: &Stage, record: &Record) -> Result<()> {
        let seat = stage.routers.last().context("a router")?;
        let who: IpNet = "198.51.100.250/32".parse()?;
        let later = Timestamp::now() + SignedDuration::from_mins(10);
        let enter = || {
            let minutes = Some(std::time::Duration::from_mins(5));
            seat.router.insert_foreign(Family::V4, LIST, "198.51.100.250", "atalaya: planted", minutes)
        };
        match self {
            Self::LostAck => {
                let claim = record.ask(who, ClaimKind::Ban { earliest: later, latest: Some(later) });
                record.claims().done(&claim, Timestamp::now());
            }
            Self::Outliving => {
                enter().context("an entry")?;
            }
            Self::Allowed => {
                stage.command(&["allow", "198.51.100.250", "--for", "600"]).await?;
                let claim = record.ask(who, ClaimKind::Allow(later));
                record.claims().done(&claim, Timestamp::now());
                // As if it had been asked for, so that nothing else is wrong with it.
                record.ask(who, ClaimKind::Ban { earliest: later, latest: Some(later) });
                enter().context("an entry")?;
            }
            Self::Stranger => {
                let mut strangers = seat.strangers.values();
                match strangers.next() {
                    Some(entry) => seat.router.edit_comment(Family::V4, &entry.id, "changed")?,
                    None => {
                        seat.router.insert_foreign(Family::V4, "geoblock", "11.9.9.9", "", None);
                    }
                }
            }
            Self::CutOff => {
                seat.way.set(Condition::Cut);
                stage.command(&["ban", "198.51.100.250", "--for", "600"]).await?;
                record.ask(who, ClaimKind::Ban { earliest: later, latest: None });
            }
            Self::Descriptors => {
                for _ in 0..60 {
                    let open = tokio::net::UnixStream::connect(stage.socket()).await?;
                    // It stays open until this program ends.
                    std::mem::forget(open);
                }
            }
            Self::End => stage.enforcer.lock().await.signal(rustix::process::Signal::TERM)?,
        }
        Ok(())
    }
}
