//! `/desired`: what all routers should hold, and with which lists and marks they were ever run; what a plan
//! is made of.

use std::sync::Arc;

use atalaya_wire::{Name, Problem, ProblemCode};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Answer, Control, Refused};
use crate::desired::Severity;
use crate::desired::{Desired, Label, Origin, Wanted};
use crate::ledger::{Change, Lineage, ListUse};

/// The answer to `GET /desired`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Basis {
    /// The lists and marks that routers were run with.
    pub lists: Vec<ListUse>,
    /// The word of the ledger, by which the routers' entries are known.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// What the bans share.
    pub labels: Vec<LabelAnswer>,
    /// Each ban: its prefix, its end, and the place of its label.
    pub bans: Vec<(IpNet, Option<Timestamp>, usize)>,
}

/// What is said of many bans.
#[derive(Debug, Serialize, Deserialize)]
pub struct LabelAnswer {
    jail: Name,
    sensor: Name,
    severity: Severity,
    comment: String,
}

// === impl Basis ===

impl Basis {
    /// Of bans in memory.
    pub fn new(desired: &Desired, lists: Vec<ListUse>, lineage: Lineage) -> Self {
        let mut places = std::collections::HashMap::new();
        let mut labels: Vec<Arc<Label>> = Vec::new();
        let mut bans = Vec::with_capacity(desired.len());
        desired.each(|prefix, until, label| {
            let place = *places.entry(Arc::as_ptr(label)).or_insert_with(|| {
                labels.push(Arc::clone(label));
                labels.len() - 1
            });
            bans.push((prefix, until.timestamp(), place));
        });
        let labels = labels.iter().map(|label| LabelAnswer {
            jail: label.origin.jail().clone(),
            sensor: label.origin.sensor().clone(),
            severity: label.severity,
            comment: label.comment.clone(),
        });
        Self { lists, lineage: Some(lineage), labels: labels.collect(), bans }
    }

    /// The bans, for a plan.
    pub fn desired(self) -> Desired {
        let label = |LabelAnswer { jail, sensor, severity, comment }| {
            let origin = Origin::from_names(jail, sensor);
            Arc::new(Label { origin, severity, comment, is_scan: false, reason: None })
        };
        let labels: Vec<Arc<Label>> = self.labels.into_iter().map(label).collect();
        let desired = Desired::new();
        desired.set_many(self.bans.into_iter().filter_map(|(prefix, until, place)| {
            Some((prefix, Wanted { until: until.into(), label: labels.get(place)?.clone() }))
        }));
        desired
    }
}

pub(super) async fn desired(State(control): State<Arc<Control>>) -> Answer<Basis> {
    let (desired, ledger) = (control.desired.clone(), control.ledger.clone());
    let basis =
        tokio::task::spawn_blocking(move || Ok(Basis::new(&desired, ledger.lists()?, ledger.lineage())));
    let unavailable =
        |why: String| Refused(StatusCode::SERVICE_UNAVAILABLE, Problem::new(ProblemCode::Unavailable, why));
    let basis: Result<Basis, crate::ledger::LedgerError> =
        basis.await.map_err(|_| unavailable("the enforcer is stopping".to_owned()))?;
    Ok(Json(basis.map_err(|error| unavailable(error.to_string()))?))
}

/// Forgets lists of before on which nothing of ours is left.
pub(super) async fn forget(
    State(control): State<Arc<Control>>,
    Json(uses): Json<Vec<ListUse>>,
) -> Answer<()> {
    let forgotten = uses.into_iter().map(|used| Change::ForgetList(Box::new(used))).collect();
    super::said::committed(control.ledger.write_surely(forgotten)).await?;
    Ok(Json(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_desired_survives_the_way_to_a_command() {
        let desired = Desired::new();
        let bans =
            [("192.0.2.1/32", None), ("2001:db8::/64", Some(Timestamp::from_second(1_900_000_000).unwrap()))];
        for (prefix, until) in bans {
            desired.set(prefix.parse().unwrap(), Wanted { until: until.into(), label: Label::test("x") });
        }
        let text = serde_json::to_string(&Basis::new(&desired, Vec::new(), "k7f2".parse().unwrap())).unwrap();
        let there = serde_json::from_str::<Basis>(&text).unwrap().desired();
        assert_eq!(there.len(), 2);
        for (prefix, until) in bans {
            let wanted = there.get(prefix.parse().unwrap()).unwrap();
            assert_eq!((wanted.until.timestamp(), wanted.label), (until, Label::test("x")));
        }
    }
}
