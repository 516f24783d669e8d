//! Carries out one command: permissions, the tables, system pages, and the texts of refusals.
//!
//! It knows nothing of sockets and time lines: bytes of a reply go into a buffer, and the caller
//! decides when they leave.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use crate::address::Family;
use crate::address_list::{Fields, ListError, PROPERTIES, print_id};
use crate::command::{Command, Verb};
use crate::event::{Event, EventEntry, EventKind};
use crate::journal::Outcome;
use crate::page::{self, Page};
use crate::query::Query;
use crate::reply::Reply;
use crate::state::{Settings, State, lossy};
use crate::terminal::Typed;
use crate::timeout::Timeout;
use crate::user::Policies;

/// What a session is to the router.
pub(crate) struct Caller {
    pub(crate) session: u64,
    pub(crate) settings: Arc<Settings>,
    /// The policies of who is logged in.
    pub(crate) policies: Option<Policies>,
    challenge: Option<[u8; 16]>,
    /// How many properties the last print of an address list showed.
    pub(crate) shown: u32,
}

/// The moment a command is carried out.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    /// When it came in from the wire.
    pub(crate) received: Timestamp,
    /// Now, on the router's clock.
    pub(crate) now: Timestamp,
}

/// A refusal, to be said as a trap.
struct Refusal {
    message: String,
    category: Option<u8>,
}

const WRONG_LOGIN: &str = "invalid user name or password (6)";
const NOT_PERMITTED: &str = "not enough permissions (9)";

/// Attributes of `print` that change nothing here.
const PRINT_FLAGS: [&[u8]; 8] =
    [b"detail", b"terse", b"brief", b"without-paging", b"show-ids", b"as-value", b"value-list", b"all"];

impl Caller {
    pub(crate) fn new(session: u64, settings: Arc<Settings>) -> Self {
        Self { session, settings, policies: None, challenge: None, shown: 0 }
    }

    /// Carries out a command and writes the reply to `out`. After [`Outcome::Fatal`] the connection ends.
    pub(crate) fn execute(
        &mut self,
        state: &mut State,
        command: &Command<'_>,
        moment: Moment,
        out: &mut Vec<u8>,
    ) -> Outcome {
        state.counts.commands += 1;
        let mut reply = Reply::new(out, command.tag);
        let verb = command.verb();
        if verb == Verb::Quit || (self.policies.is_none() && verb != Verb::Login) {
            let reason = if verb == Verb::Quit { "session terminated on request" } else { "not logged in" };
            reply.fatal(reason);
            return Outcome::Fatal { reason: reason.to_owned() };
        }
        let result = match verb {
            _ if self.policies.is_some() && self.is_refused(command.path) => {
                Err(Refusal::new(NOT_PERMITTED, None))
            }
            _ if !self.settings.ipv6 && command.path.starts_with(b"/ipv6/") => {
                Err(Refusal::new("no such command prefix", Some(0)))
            }
            Verb::Login => self.login(state, command, moment),
            Verb::Print(family) => self.print(state, family, command, moment.now, &mut reply),
            Verb::Add(family) => self.add(state, family, command, moment),
            Verb::Set(family) => self.set(state, family, command, moment),
            Verb::Remove(family) => self.remove(state, family, command, moment),
            Verb::Page(page) => self.page(state, page, command, moment.now, &mut reply),
            Verb::Setup(page) => self.set_up(state, page, command),
            // The session has already looked for what to cancel.
            Verb::Cancel | Verb::Quit => Ok(None),
            Verb::UnknownCommand => Err(Refusal::new("no such command", Some(0))),
            Verb::UnknownPrefix => Err(Refusal::new("no such command prefix", Some(0))),
        };
        match result {
            Ok(ret) => {
                reply.done(ret.as_deref().map(str::as_bytes));
                Outcome::Done { ret }
            }
            Err(Refusal { message, category }) => {
                state.counts.traps += 1;
                reply.trap(&message, category);
                reply.done(None);
                Outcome::Trap { message }
            }
        }
    }

    fn login(
        &mut self,
        state: &mut State,
        command: &Command<'_>,
        moment: Moment,
    ) -> Result<Option<String>, Refusal> {
        let name = command.attribute(b"name").unwrap_or_default();
        let response = command.attribute(b"response");
        if self.settings.version.challenges() && response.is_none() {
            let challenge = new_challenge(self.session, moment.received);
            self.challenge = Some(challenge);
            return Ok(Some(HEXLOWER.encode(&challenge)));
        }
        let challenge = self.challenge.take();
        let user = state.site.users.iter().find(|user| user.name.as_bytes() == name && !user.disabled);
        let proven = |password: &str| match (response, command.attribute(b"password")) {
            (Some(response), _) => challenge.is_some_and(|challenge| {
                let digest = Md5::new().chain_update([0]).chain_update(password).chain_update(challenge);
                let expected = format!("00{}", HEXLOWER.encode(&digest.finalize()));
                response.eq_ignore_ascii_case(expected.as_bytes())
            }),
            (None, Some(sent)) => bool::from(sent.ct_eq(password.as_bytes())),
            (None, None) => false,
        };
        let refusal = match user {
            Some(user) if proven(&user.password) => {
                let policies = state.site.policies(user);
                if policies.api() {
                    self.policies = Some(policies);
                    state.counts.logins += 1;
                    state.tell_login(EventKind::Login, moment.received, self.session, name);
                    return Ok(None);
                }
                Refusal::new(NOT_PERMITTED, None)
            }
            _ => Refusal::new(WRONG_LOGIN, None),
        };
        state.counts.login_failures += 1;
        state.tell_login(EventKind::LoginFailure, moment.received, self.session, name);
        Err(refusal)
    }

    fn print(
        &mut self,
        state: &mut State,
        family: Family,
        command: &Command<'_>,
        now: Timestamp,
        reply: &mut Reply<'_>,
    ) -> Result<Option<String>, Refusal> {
        self.need(Policies::read)?;
        state.counts.prints += 1;
        let query = Query::parse(command.queries.iter().copied())
            .map_err(|error| Refusal::new(error.to_string(), Some(5)))?;
        let known = |name: &[u8]| {
            PRINT_FLAGS.contains(&name) || matches!(name, b".proplist" | b"count-only" | b".id" | b"numbers")
        };
        if command.attributes.iter().any(|(name, _)| !known(name)) {
            return Err(ListError::UnknownParameter.into());
        }
        let table = state.table_mut(family);
        let only = match command.attribute(b".id").or_else(|| command.attribute(b"numbers")) {
            Some(ids) => Some(table.ids(ids)?),
            None => None,
        };
        let properties = properties(command, &PROPERTIES);
        let counting = command.attribute(b"count-only").is_some();
        let mut found = 0usize;
        for (id, record) in table.iter() {
            if only.as_ref().is_some_and(|only| !only.contains(&id)) {
                continue;
            }
            let matches = query.matches(|name| record.property(name, id, now));
            if !matches.map_err(|error| Refusal::new(error.to_string(), Some(5)))? {
                continue;
            }
            found += 1;
            if counting {
                continue;
            }
            reply.row();
            for name in &properties {
                if let Some(value) = record.property(name, id, now) {
                    self.shown = self.shown.saturating_add(1);
                    reply.attribute(name, &value);
                }
            }
            reply.end();
        }
        if counting {
            return Ok(Some(found.to_string()));
        }
        if found == 0 && self.settings.version.says_empty() {
            reply.empty();
        }
        Ok(None)
    }

    fn add(
        &self,
        state: &mut State,
        family: Family,
        command: &Command<'_>,
        moment: Moment,
    ) -> Result<Option<String>, Refusal> {
        self.need(Policies::write)?;
        let fields = Fields::from_attributes(&command.attributes, &[b"copy-from", b"place-before"])?;
        match state.table_mut(family).add(fields, moment.now) {
            Ok(id) => {
                state.counts.adds += 1;
                self.tell(state, EventKind::Add, family, id, moment);
                Ok(Some(print_id(id)))
            }
            Err(error) => {
                if error == ListError::Duplicate {
                    state.counts.duplicates += 1;
                    state.push(|| self.duplicate(family, fields, moment));
                }
                Err(error.into())
            }
        }
    }

    fn set(
        &self,
        state: &mut State,
        family: Family,
        command: &Command<'_>,
        moment: Moment,
    ) -> Result<Option<String>, Refusal> {
        self.need(Policies::write)?;
        let fields = Fields::from_attributes(&command.attributes, &[b".id", b"numbers"])?;
        for id in state.table_mut(family).ids(named_ids(command)?)? {
            state.table_mut(family).set(id, fields, moment.now)?;
            state.counts.sets += 1;
            self.tell(state, EventKind::Set, family, id, moment);
        }
        Ok(None)
    }

    fn remove(
        &self,
        state: &mut State,
        family: Family,
        command: &Command<'_>,
        moment: Moment,
    ) -> Result<Option<String>, Refusal> {
        self.need(Policies::write)?;
        for id in state.table_mut(family).ids(named_ids(command)?)? {
            // An id may be named twice.
            if let Some(record) = state.table_mut(family).remove(id) {
                state.counts.removes += 1;
                let session = Some(self.session);
                state.tell_entry(EventKind::Remove, moment.received, session, family, id, &record);
            }
        }
        Ok(None)
    }

    fn page(
        &self,
        state: &mut State,
        page: Page,
        command: &Command<'_>,
        now: Timestamp,
        reply: &mut Reply<'_>,
    ) -> Result<Option<String>, Refusal> {
        self.need(Policies::read)?;
        let settings = &self.settings;
        let lines = match page {
            Page::Identity => vec![page::identity(&settings.identity)],
            Page::Clock => vec![page::clock(settings.version, &settings.zone, now)],
            Page::Resource => {
                let uptime = now.duration_since(state.booted).as_secs().try_into().unwrap_or(0);
                let load = state
                    .cpu_load
                    .unwrap_or_else(|| state.processor.load(Instant::now(), settings.board.cores));
                vec![page::resource(settings.version, &settings.board, state.sessions, uptime, load)]
            }
            _ => state.site.lines(page),
        };
        let query = Query::parse(command.queries.iter().copied())
            .map_err(|error| Refusal::new(error.to_string(), Some(5)))?;
        let wanted = command.attribute(b".proplist").filter(|list| !list.is_empty());
        let counting = command.attribute(b"count-only").is_some();
        let mut found = 0usize;
        for line in lines {
            let matches = query.matches(|name| line.get(name).map(|value| value.as_bytes().into()));
            if !matches.map_err(|error| Refusal::new(error.to_string(), Some(5)))? {
                continue;
            }
            found += 1;
            if counting {
                continue;
            }
            reply.row();
            for (name, value) in line.properties() {
                if wanted.is_none_or(|list| list.split(|&byte| byte == b',').any(|one| one == name)) {
                    reply.attribute(name, value);
                }
            }
            reply.end();
        }
        if counting {
            return Ok(Some(found.to_string()));
        }
        if found == 0 && settings.version.says_empty() {
            reply.empty();
        }
        Ok(None)
    }

    /// What an administrator can do at the terminal too, with ids in place of names and of `[find …]`.
    fn set_up(
        &self,
        state: &mut State,
        page: Page,
        command: &Command<'_>,
    ) -> Result<Option<String>, Refusal> {
        self.need(Policies::write)?;
        if matches!(page, Page::Users | Page::Groups) {
            self.need(Policies::policy)?;
        }
        let path = lossy(command.path);
        let (directory, verb) = path.trim_start_matches('/').rsplit_once('/').unwrap_or_default();
        let named = |name: &[u8]| matches!(name, b".id" | b"numbers");
        let parameters = command.attributes.iter().filter(|(name, _)| !named(name));
        let parameters: Vec<_> = parameters.map(|(name, value)| (lossy(name), lossy(value))).collect();
        let ids = named_ids(command).map(lossy).ok();
        let items: Vec<Option<String>> = match &ids {
            Some(ids) => ids.split(',').map(|id| Some(state.site.item(page, id))).collect(),
            None => vec![None],
        };
        for item in items {
            let (directory, verb) = (directory.to_owned(), verb.to_owned());
            let typed = Typed { directory, verb, item, parameters: parameters.clone() };
            state.site.carry_out(typed).map_err(|error| Refusal::new(error.to_string(), None))?;
        }
        state.site.present();
        Ok((verb == "add").then(|| state.site.last_id(page)).flatten())
    }

    fn is_refused(&self, path: &[u8]) -> bool {
        self.settings.refused.iter().any(|refused| path.starts_with(refused.as_bytes()))
    }

    fn need(&self, granted: impl Fn(Policies) -> bool) -> Result<(), Refusal> {
        if self.policies.is_some_and(granted) {
            return Ok(());
        }
        Err(Refusal::new(NOT_PERMITTED, None))
    }

    fn tell(&self, state: &mut State, kind: EventKind, family: Family, id: u64, moment: Moment) {
        if state.events.is_some() {
            let record = state.table_mut(family).get(id).cloned();
            if let Some(record) = record {
                state.tell_entry(kind, moment.received, Some(self.session), family, id, &record);
            }
        }
    }

    fn duplicate(&self, family: Family, fields: Fields<'_>, moment: Moment) -> Event {
        let text = |field: Option<&[u8]>| lossy(field.unwrap_or_default());
        Event {
            kind: EventKind::Duplicate,
            at: moment.received,
            session: Some(self.session),
            user: None,
            entry: Some(EventEntry {
                family,
                id: String::new(),
                list: text(fields.list),
                address: text(fields.address),
                timeout: fields.timeout.and_then(Timeout::parse).map(|timeout| timeout.to_string()),
                comment: text(fields.comment),
                disabled: matches!(fields.disabled, Some(b"yes" | b"true")),
            }),
        }
    }
}

impl Refusal {
    fn new(message: impl Into<String>, category: Option<u8>) -> Self {
        Self { message: message.into(), category }
    }
}

impl From<ListError> for Refusal {
    fn from(error: ListError) -> Self {
        Self::new(error.to_string(), error.category())
    }
}

fn named_ids<'a>(command: &Command<'a>) -> Result<&'a [u8], ListError> {
    command.attribute(b".id").or_else(|| command.attribute(b"numbers")).ok_or(ListError::MissingId)
}

/// The properties that `.proplist` wants, or all; unknown names in it are ignored.
fn properties<'a>(command: &Command<'a>, all: &[&'a [u8]]) -> Vec<&'a [u8]> {
    match command.attribute(b".proplist") {
        Some(list) if !list.is_empty() => {
            list.split(|&byte| byte == b',').filter(|name| all.contains(name)).collect()
        }
        _ => all.to_vec(),
    }
}

/// Old routers draw it at random; a simulator needs it only to differ each time.
fn new_challenge(session: u64, at: Timestamp) -> [u8; 16] {
    let digest =
        Md5::new().chain_update(session.to_be_bytes()).chain_update(at.as_nanosecond().to_be_bytes());
    digest.finalize().into()
}
