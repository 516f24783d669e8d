//! One API session: login, then commands, each answered with sentences that carry its tag.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::address::{Address, Family};
use crate::command::Command;
use crate::event::What;
use crate::fault::Fault;
use crate::query;
use crate::router::Shared;
use crate::sentence::{Decoder, Sentence, encode_word};
use crate::table::Row;
use crate::timeout::Timeout;

/// How much is read at once.
const READ: usize = 64 * 1024;
/// How many pieces of answers may wait for a client that does not read.
const WAITING: usize = 1024;

/// A refusal: the message and its category.
struct Trap(String, Option<u8>);

/// What becomes of the session after a command.
enum After {
    GoOn,
    /// Closes after what was written.
    Close,
    /// Answers nothing any more.
    Stall,
}

struct Session {
    shared: Arc<Shared>,
    logged_in: bool,
    /// Answers that are not on their way yet.
    out: Vec<u8>,
    answers: mpsc::Sender<(Instant, Vec<u8>)>,
}

/// Serves a connection until either side ends it.
pub(crate) async fn run(stream: impl AsyncRead + AsyncWrite + Send + 'static, shared: Arc<Shared>) {
    let boot = {
        let mut state = shared.lock();
        if state.sessions >= shared.config.max_sessions {
            return;
        }
        state.sessions += 1;
        state.boot.clone()
    };
    let (reader, writer) = tokio::io::split(stream);
    let (answers, waiting) = mpsc::channel(WAITING);
    let mut session = Session { shared: shared.clone(), logged_in: false, out: Vec::new(), answers };
    let work = async {
        tokio::join!(
            async {
                session.read(reader).await;
                drop(session);
            },
            write(writer, waiting)
        );
    };
    tokio::select! {
        () = boot.cancelled() => {}
        () = work => {}
    }
    shared.lock().sessions -= 1;
}

/// Sends answers when they are due, so that a round trip delays and does not slow down.
async fn write(mut writer: impl AsyncWrite + Unpin, mut waiting: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((due, bytes)) = waiting.recv().await {
        tokio::time::sleep_until(due).await;
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

// === impl Session ===

impl Session {
    async fn read(&mut self, mut reader: impl AsyncRead + Unpin) {
        let mut decoder = Decoder::default();
        loop {
            let buffer = decoder.buffer();
            buffer.reserve(READ);
            match reader.read_buf(buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let received = Timestamp::now();
            loop {
                let sentence = match decoder.next() {
                    Ok(Some(sentence)) => sentence,
                    Ok(None) => break,
                    Err(error) => {
                        self.reply(&[b"!fatal", error.to_string().as_bytes()], None);
                        self.send().await;
                        return;
                    }
                };
                match self.command(&sentence, received).await {
                    After::GoOn => {}
                    After::Close => {
                        self.send().await;
                        return;
                    }
                    After::Stall => {
                        let mut sink = [0; 1024];
                        while reader.read(&mut sink).await.is_ok_and(|read| read > 0) {}
                        return;
                    }
                }
            }
            self.send().await;
        }
    }

    /// Puts what was answered on its way.
    async fn send(&mut self) {
        if !self.out.is_empty() {
            let due = Instant::now() + self.shared.config.round_trip;
            let _ = self.answers.send((due, std::mem::take(&mut self.out))).await;
        }
    }

    async fn command(&mut self, sentence: &Sentence, received: Timestamp) -> After {
        let Some(command) = Command::parse(sentence) else {
            self.reply(&[b"!trap", b"=message=no such command"], None);
            self.reply(&[b"!done"], None);
            return After::GoOn;
        };
        let fault = {
            let mut state = self.shared.lock();
            if self.shared.config.insert_cost.is_zero() && command.path != "/login" {
                // Fast routers are driven for throughput: their journal would be most of the cost.
            } else {
                state.record(redacted(sentence));
            }
            state.fault(command.path)
        };
        match fault {
            Some(Fault::Stall) => return After::Stall,
            Some(Fault::Reboot) => {
                self.shared.reboot();
                return After::Close;
            }
            Some(Fault::Trap { message, category }) => {
                self.trap(&Trap(message, category), command.tag);
                return After::GoOn;
            }
            Some(fault @ (Fault::CloseMidReply | Fault::DropReply)) => {
                self.send().await;
                let _ = self.carry_out(&command, received).await;
                let keep = if fault == Fault::DropReply { 0 } else { self.out.len() / 2 };
                self.out.truncate(keep);
                return After::Close;
            }
            None => {}
        }
        self.carry_out(&command, received).await
    }

    async fn carry_out(&mut self, command: &Command<'_>, received: Timestamp) -> After {
        if command.path == "/login" {
            return self.login(command, received);
        }
        if !self.logged_in {
            self.reply(&[b"!fatal", b"not logged in"], None);
            return After::Close;
        }
        let done = match command.path {
            "/quit" => {
                self.reply(&[b"!fatal", b"session terminated on request"], None);
                return After::Close;
            }
            "/cancel" => {
                // Commands are carried out one after another: the one to cancel is over.
                Ok(None)
            }
            "/system/identity/print" => {
                let name = [&b"=name="[..], self.shared.config.identity.as_bytes()].concat();
                self.reply(&[b"!re", &name], command.tag);
                Ok(None)
            }
            "/system/resource/print" => {
                self.resource(command);
                Ok(None)
            }
            path => match path.strip_prefix("/ip/firewall/address-list/") {
                Some(verb) => self.address_list(Family::V4, verb, command, received).await,
                None => match path.strip_prefix("/ipv6/firewall/address-list/") {
                    Some(verb) => self.address_list(Family::V6, verb, command, received).await,
                    None => Err(Trap("no such command prefix".to_owned(), Some(0))),
                },
            },
        };
        match done {
            Ok(None) => self.reply(&[b"!done"], command.tag),
            Ok(Some(ret)) => self.reply(&[b"!done", &[b"=ret=", ret.as_bytes()].concat()], command.tag),
            Err(trap) => self.trap(&trap, command.tag),
        }
        After::GoOn
    }

    fn login(&mut self, command: &Command<'_>, received: Timestamp) -> After {
        let config = &self.shared.config;
        if is_before(&config.version, 6, 43) {
            // The old way: a challenge, whatever was sent. No client of ours answers it.
            self.reply(&[b"!done", b"=ret=ebddd18303a54111e2dea05a92ab46b4"], command.tag);
            return After::GoOn;
        }
        let user = command.text("name").unwrap_or_default();
        let right = user == config.user
            && command.get("password").unwrap_or_default() == config.password.as_bytes()
            && config.policies.iter().any(|policy| policy == "api");
        let mut state = self.shared.lock();
        if right {
            state.counts.logins += 1;
            drop(state);
            self.logged_in = true;
            self.reply(&[b"!done"], command.tag);
            self.shared.tell(received, || What::Login { user });
        } else {
            state.counts.refused += 1;
            drop(state);
            self.trap(&Trap("invalid user name or password (6)".to_owned(), None), command.tag);
            self.shared.tell(received, || What::LoginFailure { user });
        }
        After::GoOn
    }

    fn resource(&mut self, command: &Command<'_>) {
        let uptime = self.shared.now().duration_since(self.shared.lock().booted).as_secs();
        let properties = [
            ("uptime", Timeout(uptime.max(0).cast_unsigned()).to_string()),
            ("version", format!("{} (stable)", self.shared.config.version)),
            ("cpu-load", "3".to_owned()),
            ("board-name", "simulator".to_owned()),
            ("platform", "MikroTik".to_owned()),
        ];
        let wanted = proplist(command);
        let words: Vec<Vec<u8>> = properties
            .iter()
            .filter(|(name, _)| wanted.as_ref().is_none_or(|wanted| wanted.iter().any(|want| want == name)))
            .map(|(name, value)| format!("={name}={value}").into_bytes())
            .collect();
        let mut reply: Vec<&[u8]> = vec![b"!re"];
        reply.extend(words.iter().map(Vec::as_slice));
        self.reply(&reply, command.tag);
    }

    async fn address_list(
        &mut self,
        family: Family,
        verb: &str,
        command: &Command<'_>,
        received: Timestamp,
    ) -> Result<Option<String>, Trap> {
        let needs = if matches!(verb, "print" | "getall") { "read" } else { "write" };
        if !self.shared.config.policies.iter().any(|policy| policy == needs) {
            return Err(Trap("not enough permissions (9)".to_owned(), None));
        }
        match verb {
            "add" => self.add(family, command, received).await.map(Some),
            "print" | "getall" => self.print(family, command).await,
            "set" => self.set(family, command, received).map(|()| None),
            "remove" => self.remove(family, command, received).map(|()| None),
            _ => Err(Trap("no such command".to_owned(), Some(0))),
        }
    }

    async fn add(
        &mut self,
        family: Family,
        command: &Command<'_>,
        received: Timestamp,
    ) -> Result<String, Trap> {
        let known = ["list", "address", "timeout", "comment", "disabled", "dynamic"];
        if let Some(unknown) = command.names().find(|name| !known.contains(name)) {
            return Err(Trap(format!("unknown parameter {unknown}"), Some(0)));
        }
        let list = command.text("list").filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| Trap("missing value(s) of argument(s) list".to_owned(), Some(0)))?;
        let text = command.get("address").unwrap_or_default();
        let address = Address::parse(family, text).map_err(|error| Trap(error.to_string(), None))?;
        let timeout = command.get("timeout").map(parse_timeout).transpose()?;
        let cost = self.shared.config.insert_cost;
        if !cost.is_zero() {
            let done = self.shared.lock().occupy(cost);
            self.wait(done).await;
        }
        let now = self.shared.now();
        let mut state = self.shared.lock();
        let until = match timeout {
            Some(timeout) => state.table(family).end(timeout, now).map_err(|text| Trap(text, Some(1)))?,
            None => None,
        };
        let comment = command.get("comment").unwrap_or_default().to_vec();
        let row = Row {
            list: list.as_str().into(),
            address: address.clone(),
            until,
            created: now,
            comment: comment.clone(),
            disabled: is_yes(command.get("disabled")),
            dynamic: timeout.is_some() || is_yes(command.get("dynamic")),
        };
        match state.table(family).add(row) {
            Ok(id) => {
                state.counts.adds += 1;
                drop(state);
                self.shared.tell_changed();
                self.shared.tell(received, || What::Add {
                    family,
                    list,
                    address: address.to_string(),
                    timeout: timeout.map(|timeout| timeout.to_string()).unwrap_or_default(),
                    comment: String::from_utf8_lossy(&comment).into_owned(),
                });
                Ok(format!("*{id:X}"))
            }
            Err(text) => {
                state.counts.duplicates += 1;
                drop(state);
                self.shared.tell(received, || What::Duplicate { list, address: address.to_string() });
                Err(Trap(text, None))
            }
        }
    }

    async fn print(&mut self, family: Family, command: &Command<'_>) -> Result<Option<String>, Trap> {
        let scan = self.shared.config.scan_cost;
        let done = {
            let mut state = self.shared.lock();
            state.counts.prints += 1;
            let cost = scan * u32::try_from(state.table(family).len()).unwrap_or(u32::MAX);
            state.occupy(cost)
        };
        self.wait(done).await;
        let now = self.shared.now();
        let wanted = proplist(command);
        let count_only = command.get("count-only").is_some();
        let mut count = 0;
        let mut out = std::mem::take(&mut self.out);
        let mut failed = None;
        {
            let mut state = self.shared.lock();
            for (id, row) in state.table(family).rows() {
                let properties = properties(id, row, now);
                let get = |name: &[u8]| {
                    properties
                        .iter()
                        .find(|(known, _)| known.as_bytes() == name)
                        .map(|(_, value)| value.as_slice())
                };
                match query::matches(&command.queries, &get) {
                    Ok(true) => count += 1,
                    Ok(false) => continue,
                    Err(error) => {
                        failed = Some(Trap(error.to_string(), None));
                        break;
                    }
                }
                if !count_only {
                    encode_row(&mut out, command.tag, &properties, wanted.as_deref());
                }
            }
        }
        self.out = out;
        if let Some(trap) = failed {
            return Err(trap);
        }
        if count_only {
            return Ok(Some(count.to_string()));
        }
        if count == 0 && !is_before(&self.shared.config.version, 7, 18) {
            self.reply(&[b"!empty"], command.tag);
        }
        Ok(None)
    }

    fn set(&mut self, family: Family, command: &Command<'_>, received: Timestamp) -> Result<(), Trap> {
        let now = self.shared.now();
        let timeout = command.get("timeout").map(parse_timeout).transpose()?;
        for id in ids(command)? {
            let mut state = self.shared.lock();
            let table = state.table(family);
            let until = match timeout {
                Some(timeout) => Some(table.end(timeout, now).map_err(|text| Trap(text, Some(1)))?),
                None => None,
            };
            table
                .change(id, |row| {
                    if let Some(until) = until {
                        row.until = until;
                        row.dynamic = true;
                    }
                    if let Some(comment) = command.get("comment") {
                        row.comment = comment.to_vec();
                    }
                    if let Some(list) = command.text("list") {
                        row.list = list.into();
                    }
                    if let Some(disabled) = command.get("disabled") {
                        row.disabled = is_yes(Some(disabled));
                    }
                })
                .map_err(|text| Trap(text, Some(0)))?;
            let changed = table.row(id).map(|row| (row.list.to_string(), row.address.to_string()));
            state.counts.sets += 1;
            drop(state);
            self.shared.tell_changed();
            if let Some((list, address)) = changed {
                let timeout = timeout.map(|timeout| timeout.to_string()).unwrap_or_default();
                self.shared.tell(received, || What::Set { list, address, timeout });
            }
        }
        Ok(())
    }

    fn remove(&mut self, family: Family, command: &Command<'_>, received: Timestamp) -> Result<(), Trap> {
        for id in ids(command)? {
            let mut state = self.shared.lock();
            let row =
                state.table(family).remove(id).ok_or_else(|| Trap("no such item".to_owned(), Some(0)))?;
            state.counts.removes += 1;
            drop(state);
            self.shared.tell_changed();
            let (list, address) = (row.list.to_string(), row.address.to_string());
            self.shared.tell(received, || What::Remove { list, address });
        }
        Ok(())
    }

    /// Waits until the router is done. What was answered before goes on its way meanwhile.
    async fn wait(&mut self, done: Instant) {
        if done > Instant::now() {
            self.send().await;
            tokio::time::sleep_until(done).await;
        }
    }

    fn trap(&mut self, Trap(message, category): &Trap, tag: Option<&[u8]>) {
        let message = format!("=message={message}");
        let category = category.map(|category| format!("=category={category}"));
        let mut words: Vec<&[u8]> = vec![b"!trap"];
        words.extend(category.as_deref().map(str::as_bytes));
        words.push(message.as_bytes());
        self.reply(&words, tag);
        self.reply(&[b"!done"], tag);
    }

    /// A sentence; the tag comes right after its first word.
    fn reply(&mut self, words: &[&[u8]], tag: Option<&[u8]>) {
        for (index, word) in words.iter().enumerate() {
            encode_word(&mut self.out, word);
            if index == 0
                && let Some(tag) = tag
            {
                encode_word(&mut self.out, &[b".tag=", tag].concat());
            }
        }
        self.out.push(0);
    }
}

fn encode_row(
    out: &mut Vec<u8>,
    tag: Option<&[u8]>,
    properties: &[(&str, Vec<u8>)],
    wanted: Option<&[String]>,
) {
    encode_word(out, b"!re");
    if let Some(tag) = tag {
        encode_word(out, &[b".tag=", tag].concat());
    }
    for (name, value) in properties {
        if wanted.is_none_or(|wanted| wanted.iter().any(|want| want == name)) {
            encode_word(out, &[b"=", name.as_bytes(), b"=", value].concat());
        }
    }
    out.push(0);
}

fn properties(id: u32, row: &Row, now: Timestamp) -> Vec<(&'static str, Vec<u8>)> {
    let flag = |is: bool| if is { b"true".to_vec() } else { b"false".to_vec() };
    let mut properties = vec![
        (".id", format!("*{id:X}").into_bytes()),
        ("list", row.list.as_bytes().to_vec()),
        ("address", row.address.to_string().into_bytes()),
        ("creation-time", row.created.strftime("%Y-%m-%d %H:%M:%S").to_string().into_bytes()),
    ];
    if let Some(left) = row.left(now) {
        properties.push(("timeout", Timeout(left.as_secs()).to_string().into_bytes()));
    }
    properties.push(("dynamic", flag(row.dynamic)));
    properties.push(("disabled", flag(row.disabled)));
    if !row.comment.is_empty() {
        properties.push(("comment", row.comment.clone()));
    }
    properties
}

fn proplist(command: &Command<'_>) -> Option<Vec<String>> {
    let text = command.text(".proplist")?;
    Some(text.split(',').map(|name| name.trim().to_owned()).collect())
}

fn ids(command: &Command<'_>) -> Result<Vec<u32>, Trap> {
    let text = command.text(".id").or_else(|| command.text("numbers"));
    let text = text.ok_or_else(|| Trap("missing value(s) of argument(s) .id".to_owned(), Some(0)))?;
    text.split(',')
        .map(|id| {
            let digits = id.trim().strip_prefix('*');
            digits
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .ok_or_else(|| Trap("no such item".to_owned(), Some(0)))
        })
        .collect()
}

fn parse_timeout(text: &[u8]) -> Result<Timeout, Trap> {
    Timeout::parse(text).ok_or_else(|| {
        Trap(format!("invalid time value for argument timeout: {}", String::from_utf8_lossy(text)), Some(1))
    })
}

fn is_yes(value: Option<&[u8]>) -> bool {
    matches!(value, Some(b"yes" | b"true"))
}

/// Whether a release such as `7.18.2` is older than the given one.
fn is_before(version: &str, major: u32, minor: u32) -> bool {
    let mut parts = version.split(['.', ' ']).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (major, minor)
}

/// A sentence as text, without the password.
fn redacted(sentence: &Sentence) -> String {
    let words: Vec<String> = sentence
        .words()
        .map(|word| {
            if word.starts_with(b"=password=") {
                "=password=…".to_owned()
            } else {
                String::from_utf8_lossy(word).into_owned()
            }
        })
        .collect();
    words.join(" ")
}
