//! `GET /address`: all that is known of one address or network.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::allow::AllowedBecause;
use super::holding::{self, Goal, RouterHolding};
use super::{Answer, Control};
use crate::bans::Standing;
use crate::ledger::{Ban, GoodLogin, Ledger, LedgerError, Selection, Sort, Which};

/// How many bans of each kind are listed at most.
const MOST: u64 = 100;

/// How long the ledger may take. Another program may hold its lock, and the answer that counts is in memory.
const PATIENCE: Duration = Duration::from_secs(1);

const SLOW: &str = "the ledger does not answer: another program has locked it, or the disk is slow";

/// The query of `GET /address`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressRequest {
    /// The address or network.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
}

/// The answer to `GET /address`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AddressAnswer {
    /// The address or network.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// When this was so, by the enforcer's clock.
    pub now: Timestamp,
    /// What keeps it out now, also where the ledger cannot be read.
    pub standing: Standing,
    /// Why its history is not told: the ledger cannot be read. What the ledger tells is left out then.
    pub history_trouble: Option<String>,
    /// Its ban that stands, as the ledger has it.
    pub ban: Option<Ban>,
    /// Bans that stand of networks around it, which keep it out too.
    pub around: Vec<Ban>,
    /// Bans that stand within it, where it is a network; at most 100.
    pub within: Vec<Ban>,
    /// Its bans that are over, the latest first; at most 100.
    pub earlier: Vec<Ban>,
    /// Why it, or a part of it, is never banned.
    pub allowed: Option<AllowedBecause>,
    /// The last successful login from it.
    pub login: Option<GoodLogin>,
    /// The successful login that protects it, or a part of it, from bans.
    pub protected: Option<GoodLogin>,
    /// The network that routers hold in its place, because many addresses of it are banned.
    #[serde(with = "crate::prefixes::json::option")]
    pub widened: Option<IpNet>,
    /// What each router holds for it or for a network around it.
    pub routers: Vec<RouterHolding>,
}

pub(super) async fn address(
    State(control): State<Arc<Control>>,
    Query(AddressRequest { prefix }): Query<AddressRequest>,
) -> Answer<AddressAnswer> {
    let prefix = control.bans.clients(prefix);
    let now = control.clock.now();
    let ledger = control.ledger.clone();
    let read = tokio::task::spawn_blocking(move || Record::read(&ledger, prefix, now));
    let (record, history_trouble) = match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(Ok(record))) => (record, None),
        Ok(Ok(Err(error))) => (Record::default(), Some(error.to_string())),
        Ok(Err(_)) => (Record::default(), Some("the enforcer is stopping".to_owned())),
        Err(_) => (Record::default(), Some(SLOW.to_owned())),
    };
    let Record { ban, around, within, earlier, login } = record;
    let standing = control.bans.standing(prefix);
    let widened = standing.widened.as_ref().map(|widened| widened.prefix);
    let routers = holding::ask(
        &control.routers.now(),
        |router| control.down_since(router),
        &standing.held_as,
        Goal::Look,
    )
    .await;
    let (allowed, protected) = (control.bans.allowed_because(prefix), control.bans.protected_by(prefix, now));
    let answer = AddressAnswer {
        prefix,
        now,
        standing,
        history_trouble,
        ban,
        around,
        within,
        earlier,
        allowed,
        login,
        protected,
        widened,
        routers,
    };
    Ok(Json(answer))
}

/// What the ledger has.
#[derive(Default)]
struct Record {
    ban: Option<Ban>,
    around: Vec<Ban>,
    within: Vec<Ban>,
    earlier: Vec<Ban>,
    login: Option<GoodLogin>,
}

// === impl Record ===

impl Record {
    fn read(ledger: &Ledger, prefix: IpNet, now: Timestamp) -> Result<Self, LedgerError> {
        let mut record = Self::default();
        // Networks around it come before what is within.
        let mut selection = Selection {
            address: Some(prefix),
            sort: Sort::Address,
            limit: Some(MOST + u64::from(prefix.max_prefix_len())),
            ..Selection::default()
        };
        ledger.each_ban(&selection, now, &mut |ban| {
            if ban.prefix == prefix {
                record.ban = Some(ban.clone());
            } else if ban.prefix.contains(&prefix) {
                record.around.push(ban.clone());
            } else if record.within.len() < MOST as usize {
                record.within.push(ban.clone());
            }
            true
        })?;
        (selection.which, selection.sort, selection.limit) = (Which::Over, Sort::Latest, None);
        ledger.each_ban(&selection, now, &mut |ban| {
            if ban.prefix == prefix {
                record.earlier.push(ban.clone());
            }
            record.earlier.len() < MOST as usize
        })?;
        if prefix.prefix_len() == prefix.max_prefix_len() {
            record.login = ledger.login_of(prefix.addr())?;
        }
        Ok(record)
    }
}
