//! What would be sent to a router, and why, without sending it: one visit that reads, and the reconciler
//! over what it read. Also what is left of ours on lists that the router was configured with before.

use std::sync::Arc;

use atalaya_wire::Name;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::timeout;

use super::RouterConfig;
use super::actual::{Held, Owner};
use super::address_list::{EntryId, Mark, Marks};
use super::endpoint::{API_PORT, API_TLS_PORT};
use super::order::{Action, Order, Shown};
use super::pipeline::{Counts, Pipeline, Table};
use super::sentence::TrapMeaning;
use super::session::{CommandAnswer, Session, SessionError};
use super::view::{View, entries_by_memory};
use crate::desired::{Desired, Moment, Origin};
use crate::ledger::ListUse;
use crate::prefixes::Family;

/// The most removals in flight while a list is tidied.
const WINDOW: usize = 32;

/// What would be sent to one router now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The router's name in the configuration.
    pub router: Name,
    /// The version of RouterOS, where the router told.
    pub version: Option<String>,
    /// Where each table stands, IPv4's first.
    pub tables: [Table; 2],
    /// Entries of the lists that are ours.
    pub ours: usize,
    /// Entries of the lists that are someone else's.
    pub foreign: usize,
    /// Bans that are for this router.
    pub desired: usize,
    /// The most entries of ours that it may hold, and how many bans are left out for that.
    pub limit: Option<usize>,
    /// Bans that are left out because of the limit.
    pub left_out: usize,
    /// The commands, in the order in which they would go.
    pub steps: Vec<Planned>,
    /// What is ours on lists of before; none of the steps touches it.
    pub leftovers: Vec<Leftover>,
}

/// A command that would be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// The prefix of the entry that would change.
    #[serde(with = "crate::prefixes::json")]
    pub prefix: IpNet,
    /// What would be done with it.
    #[serde(flatten)]
    pub does: Does,
    /// What asks for it and what the router has, in words.
    pub why: String,
}

/// What a command would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "does")]
pub enum Does {
    /// Add an entry that is missing.
    Add {
        /// The timeout, in seconds.
        #[serde(rename = "timeout_seconds")]
        timeout: u64,
    },
    /// Give an entry this timeout, and its comment.
    Set {
        /// The timeout, in seconds.
        #[serde(rename = "timeout_seconds")]
        timeout: u64,
    },
    /// Remove an entry of ours that no ban explains.
    Remove,
}

/// Entries of ours on a list that the router was configured with before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// Which of the tables.
    pub family: Family,
    /// The name of the list on the router.
    pub list: String,
    /// How many entries of ours are there.
    pub entries: usize,
    #[serde(skip)]
    ids: Vec<EntryId>,
}

/// One session that reads. Each question is answered before the next.
struct PlanSession {
    session: Session<()>,
    marks: Marks,
}

/// Reads a router and says what would be sent to it, and why. `before` is what routers were configured with.
pub async fn plan(
    config: &RouterConfig,
    desired: Arc<Desired>,
    before: &[ListUse],
    now: Timestamp,
) -> Result<Plan, SessionError> {
    let now = Moment::from(now);
    let mut visit = PlanSession::begin(config).await?;
    let (version, memory) = visit.resource().await?;
    let view = View::new(desired, config.takes(), config.ipv6);
    let mut pipeline = Pipeline::new(view, config.marks(), config.ipv6, Counts::default());
    pipeline.set_limit(config.max_entries.or(memory.map(entries_by_memory)));
    while let Some(family) = pipeline.print_due() {
        pipeline.print_begins(family, now);
        let exists = visit.print(family, config.list(family), |shown| pipeline.row(shown, now)).await?;
        if exists { pipeline.print_ends() } else { pipeline.missing(family) }
    }
    let mut steps = Vec::new();
    let mut budget = usize::MAX;
    while let Some(order) = pipeline.next(now, &mut budget) {
        let why = why(&pipeline, order, now);
        let does = match order.action {
            Action::Add { timeout } => Does::Add { timeout },
            Action::Set { timeout, .. } => Does::Set { timeout },
            Action::Remove { .. } => Does::Remove,
        };
        steps.push(Planned { prefix: order.prefix, does, why });
    }
    let leftovers = visit.leftovers(config, before).await?;
    Ok(Plan {
        router: config.name.clone(),
        version,
        tables: pipeline.tables(),
        ours: pipeline.actual().ours(),
        foreign: pipeline.actual().others(),
        desired: pipeline.view().taken(),
        limit: pipeline.view().limit(),
        left_out: pipeline.view().left_out(),
        steps,
        leftovers,
    })
}

/// What is ours on the lists that a router was configured with before.
pub async fn leftovers(config: &RouterConfig, before: &[ListUse]) -> Result<Vec<Leftover>, SessionError> {
    PlanSession::begin(config).await?.leftovers(config, before).await
}

/// Removes what is ours from the lists that a router was configured with before; tells of each removal, and
/// returns how many the router carried out. What was gone already is as good.
pub async fn tidy(
    config: &RouterConfig,
    leftovers: &[Leftover],
    mut removed: impl FnMut(usize),
) -> Result<usize, SessionError> {
    let mut visit = PlanSession::begin(config).await?;
    let mut left = leftovers.iter().flat_map(|left| left.ids.iter().map(|id| (left.family, *id)));
    let mut done = 0;
    loop {
        while visit.session.in_flight() < WINDOW
            && let Some((family, id)) = left.next()
        {
            let command = visit.session.command(family.remove()).attribute(".id", Some(&id.to_string()));
            visit.session.send(command, ());
        }
        if visit.session.in_flight() == 0 {
            return Ok(done);
        }
        match visit.session.answer().await? {
            CommandAnswer::Done(..) => {
                done += 1;
                removed(done);
            }
            CommandAnswer::Trap((), trap) if trap.meaning != TrapMeaning::NoSuchItem => {
                return Err(SessionError::Refused { command: "the removal of an old entry", trap });
            }
            CommandAnswer::Trap(..) | CommandAnswer::Row(..) => {}
        }
    }
}

/// Whether a list and mark of before are other than a router's of today.
pub fn is_of_before(config: &RouterConfig, used: &ListUse) -> bool {
    used.router == config.name && used.list != config.list(used.family)
}

/// The marks that our entries on a router's lists of today had before.
pub fn old_marks(config: &RouterConfig, before: &[ListUse]) -> Vec<String> {
    let same_list =
        before.iter().filter(|used| used.router == config.name && used.list == config.list(used.family));
    let mut marks: Vec<String> =
        same_list.map(|used| used.mark.clone()).filter(|mark| *mark != config.mark).collect();
    marks.sort_unstable();
    marks.dedup();
    marks
}

fn why(pipeline: &Pipeline, order: Order, now: Moment) -> String {
    let held = pipeline.actual().get(order.prefix).filter(|held| !held.lapsed(now));
    let label = pipeline.view().label(order.prefix);
    let what = label.map_or_else(
        || "no ban stands".to_owned(),
        |label| match &label.origin {
            Origin::Sensor { jail, sensor } => format!("{jail} from {sensor} bans it"),
            other => format!("it is banned {other}"),
        },
    );
    let left = |held: Held| {
        let seconds = held.expires.seconds_after(now);
        if held.expires == Moment::FOREVER { "no timeout".to_owned() } else { format!("{seconds} s left") }
    };
    match (order.action, held) {
        (Action::Add { .. }, Some(held)) if held.disabled => {
            format!("{what}, and the entry that the router holds is disabled")
        }
        (Action::Add { .. }, Some(held)) if held.owner != Owner::Foreign => format!("{what}; it expires now"),
        (Action::Add { .. }, _) => format!("{what}, and the router does not hold it"),
        (Action::Set { timeout, .. }, Some(held)) if held.stale => {
            format!("{what}; its comment is of before, and it has {} of {timeout} s", left(held))
        }
        (Action::Set { timeout, .. }, Some(held)) => {
            format!("{what} for {timeout} s more, and the router has {}", left(held))
        }
        (Action::Remove { .. }, Some(held))
            if held.disabled && pipeline.view().until(order.prefix).is_some() =>
        {
            format!("{what}, but the entry is disabled: it is replaced")
        }
        (Action::Remove { .. }, Some(held)) if pipeline.view().until(order.prefix).is_some() => {
            format!("{what}, but the entry has {}: it is replaced", left(held))
        }
        (Action::Remove { .. }, Some(held)) if pipeline.view().label(order.prefix).is_some() => {
            format!("{what}, but not for this router, or it is left out at the limit; {}", left(held))
        }
        (Action::Remove { .. }, Some(held)) => format!("it carries our mark and {what}; {}", left(held)),
        (_, None) => what,
    }
}

// === impl PlanSession ===

impl PlanSession {
    async fn begin(config: &RouterConfig) -> Result<Self, SessionError> {
        let port = if config.tls.is_some() { API_TLS_PORT } else { API_PORT };
        let deadline = config.deadlines.connect;
        let addresses = timeout(deadline, config.address.resolve(port))
            .await
            .map_err(|_| SessionError::ConnectDeadline(deadline))?
            .map_err(|source| SessionError::Resolve { host: config.address.host.clone(), source })?;
        let mut session = Session::open(config, &addresses).await?;
        session.set_idle(config.deadlines.scan);
        Ok(Self { session, marks: config.marks() })
    }

    /// The version, and the memory in bytes, where the router tells them.
    async fn resource(&mut self) -> Result<(Option<String>, Option<u64>), SessionError> {
        let command = self.session.command("/system/resource/print");
        self.session.send(command.attribute(".proplist", Some("version,total-memory")), ());
        let mut told = (None, None);
        loop {
            match self.session.answer().await? {
                CommandAnswer::Row((), row) => {
                    told =
                        (row.shown("version"), row.text("total-memory").and_then(|text| text.parse().ok()));
                }
                // Nice to know, but nothing depends on it.
                CommandAnswer::Done(..) | CommandAnswer::Trap(..) => return Ok(told),
            }
        }
    }

    /// Reads one list; false where the router has no such table.
    async fn print(
        &mut self,
        family: Family,
        list: &str,
        mut each: impl FnMut(Shown),
    ) -> Result<bool, SessionError> {
        let command = Shown::ask(self.session.command(family.print()), list);
        self.session.send(command, ());
        loop {
            match self.session.answer().await? {
                CommandAnswer::Row((), row) => {
                    if let Some(shown) = Shown::read(family, &row, &self.marks) {
                        each(shown);
                    }
                }
                CommandAnswer::Done(..) => return Ok(true),
                CommandAnswer::Trap((), _) if family == Family::V6 => return Ok(false),
                CommandAnswer::Trap((), trap) => {
                    return Err(SessionError::Refused { command: family.print(), trap });
                }
            }
        }
    }

    async fn leftovers(
        &mut self,
        config: &RouterConfig,
        before: &[ListUse],
    ) -> Result<Vec<Leftover>, SessionError> {
        let mut found = Vec::new();
        for used in before.iter().filter(|used| is_of_before(config, used)) {
            let marks = Marks::new(Mark::new(&used.mark), []);
            self.marks = marks.of_lineage(config.lineage, &config.adopted);
            let mut ids = Vec::new();
            self.print(used.family, &used.list, |shown| {
                ids.extend(shown.id.filter(|_| shown.comment.is_some()));
            })
            .await?;
            if !ids.is_empty() {
                found.push(Leftover {
                    family: used.family,
                    list: used.list.clone(),
                    entries: ids.len(),
                    ids,
                });
            }
        }
        Ok(found)
    }
}
