//! One connection: reads commands, carries them out in their turn, sends replies when they are due.
//!
//! A single task does all three, so that nothing needs to be agreed between tasks. What it holds is
//! bounded: commands not yet carried out, and replies not yet sent.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::address_list::print_id;
use crate::command::{Command, Verb};
use crate::console::{Caller, Moment};
use crate::cost::Turn;
use crate::fault::Fault;
use crate::journal::Outcome;
use crate::page::Page;
use crate::reply::Reply;
use crate::sentence::{Decoder, Sentence, SentenceError};
use crate::shared::Shared;
use crate::site::Rule;
use crate::state::State;

/// The most commands read ahead of the one at work.
const MAX_QUEUED: usize = 4096;
/// The most bytes of commands read ahead.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;
/// With this many bytes of replies unsent, no further command is carried out.
const MAX_UNSENT: usize = 1024 * 1024;
/// In what pieces rows leave that take time to be made, in bytes.
const PIECE: usize = 1024;
/// How much one read may bring.
const READ: usize = 64 * 1024;

struct Session {
    shared: Arc<Shared>,
    caller: Caller,
    decoder: Decoder,
    queue: VecDeque<Job>,
    queued_bytes: usize,
    /// The command whose turn is reserved but not over.
    running: Option<(Job, Turn)>,
    replies: Replies,
    arrived: Arrival,
    stage: Stage,
    /// The tag of a print whose rows never end, and how many were sent.
    endless: Option<(Option<Vec<u8>>, u32)>,
}

/// A command that waits for its turn.
struct Job {
    sentence: Sentence,
    arrived: Arrival,
}

#[derive(Clone, Copy)]
struct Arrival {
    instant: Instant,
    clock: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The peer sends no more; what it sent is still carried out and answered.
    HalfClosed,
    /// Nothing is carried out any more; what is written leaves, then the connection closes.
    Closing,
    /// Neither reads nor writes.
    Stalled,
    /// Closes the connection without an answer.
    Closed,
}

/// Replies and when they are due, the first due first.
#[derive(Default)]
struct Replies {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    /// What of the first chunk is sent.
    sent: usize,
    bytes: usize,
}

/// Serves one connection until it ends or `gone` is cancelled.
pub(crate) async fn serve<S>(stream: S, shared: Arc<Shared>, number: u64, gone: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send,
{
    let arrived = Arrival { instant: Instant::now(), clock: shared.clock.now() };
    let session = Session {
        caller: Caller::new(number, Arc::clone(&shared.settings)),
        shared,
        decoder: Decoder::default(),
        queue: VecDeque::new(),
        queued_bytes: 0,
        running: None,
        replies: Replies::default(),
        arrived,
        stage: Stage::Open,
        endless: None,
    };
    match session.run(stream, gone).await {
        Ok(()) => tracing::debug!(session = number, "session ended"),
        Err(error) => tracing::debug!(session = number, %error, "session broke"),
    }
}

impl Session {
    async fn run<S>(mut self, stream: S, gone: CancellationToken) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut resumed = self.shared.resumed.subscribe();
        let mut unflushed = false;
        loop {
            self.read_ahead();
            self.execute();
            self.add_rows();
            self.shared.drain_events_if_many().await;
            let now = Instant::now();
            let idle = self.queue.is_empty() && self.running.is_none();
            let finished = match self.stage {
                Stage::Closed => return Ok(()),
                Stage::Closing => true,
                Stage::HalfClosed => idle,
                Stage::Open | Stage::Stalled => false,
            };
            if finished && self.replies.bytes == 0 && !unflushed {
                // A peer that has gone already is no error.
                let _ = writer.shutdown().await;
                return Ok(());
            }
            let stalled = self.stage == Stage::Stalled;
            if !stalled {
                // Only a resume that comes during the stall ends it.
                resumed.mark_unchanged();
            }
            let room = self.queue.len() < MAX_QUEUED && self.queued_bytes < MAX_QUEUED_BYTES;
            let wake = self.next_wake(now);
            let due = self.replies.due(now);
            let buffer = self.decoder.buffer();
            buffer.reserve(READ);
            tokio::select! {
                biased;
                () = gone.cancelled() => return Ok(()),
                _ = resumed.changed(), if stalled => {
                    self.stage = Stage::Open;
                }
                // Before what is sent, which may never end.
                read = reader.read_buf(buffer), if self.stage == Stage::Open && room => {
                    if read? == 0 {
                        self.stage = Stage::HalfClosed;
                    }
                    self.arrived = Arrival { instant: Instant::now(), clock: self.shared.clock.now() };
                }
                sent = send(&mut writer, due), if !stalled && (!due.is_empty() || unflushed) => {
                    match sent? {
                        Some(0) => return Ok(()),
                        Some(count) => {
                            self.replies.advance(count);
                            unflushed = true;
                        }
                        None => unflushed = false,
                    }
                }
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() && !stalled => {}
            }
        }
    }

    /// When something is to be done although nothing comes in. A reply that is due already is none.
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let turn = self.running.as_ref().map(|(_, turn)| turn.end).filter(|_| self.replies.has_room());
        let reply = self.replies.chunks.front().map(|(due, _)| *due).filter(|due| *due > now);
        [turn, reply].into_iter().flatten().min()
    }

    /// Makes commands of what was read. A `/cancel` acts at once, past those that wait.
    fn read_ahead(&mut self) {
        if matches!(self.stage, Stage::Closing | Stage::Stalled | Stage::Closed) {
            return;
        }
        while self.queue.len() < MAX_QUEUED && self.queued_bytes < MAX_QUEUED_BYTES {
            match self.decoder.take_sentence() {
                Ok(Some(sentence)) => {
                    let job = Job { sentence, arrived: self.arrived };
                    let cancels = Command::parse_path(&job.sentence) == b"/cancel";
                    if cancels && self.caller.policies.is_some() {
                        self.cancel(&job);
                    }
                    self.queued_bytes += job.sentence.size();
                    self.queue.push_back(job);
                }
                Ok(None) => return,
                Err(error) => return self.give_up(&error),
            }
        }
    }

    fn give_up(&mut self, error: &SentenceError) {
        tracing::debug!(session = self.caller.session, %error, "not the RouterOS API");
        self.stage = Stage::Closing;
    }

    /// Interrupts the commands with the tag that `/cancel` names, or all. RouterOS says the trap of the
    /// one interrupted first, then `!done` of the cancel, then `!done` of the one interrupted: so the
    /// cancel itself is answered here and leaves an answered job behind.
    fn cancel(&mut self, cancel: &Job) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let command = Command::parse(&cancel.sentence);
        let target = command.attribute(b"tag");
        let wanted = |job: &Job| target.is_none_or(|tag| Command::parse(&job.sentence).tag == Some(tag));
        let mut interrupted = Vec::new();
        if let Some((job, turn)) = self.running.take_if(|(job, _)| wanted(job)) {
            state.processor.release(turn, Instant::now());
            interrupted.push(job);
        }
        let (gone, kept): (VecDeque<Job>, VecDeque<Job>) = self.queue.drain(..).partition(wanted);
        self.queue = kept;
        self.queued_bytes -= gone.iter().map(|job| job.sentence.size()).sum::<usize>();
        interrupted.extend(gone);

        let mut out = Vec::new();
        for job in &interrupted {
            Reply::new(&mut out, Command::parse(&job.sentence).tag).trap("interrupted", Some(2));
        }
        Reply::new(&mut out, command.tag).done(None);
        for job in interrupted {
            Reply::new(&mut out, Command::parse(&job.sentence).tag).done(None);
            state.counts.cancelled += 1;
            state.counts.traps += 1;
            let outcome = Outcome::Trap { message: "interrupted".to_owned() };
            state.journal.record(job.arrived.clock, self.caller.session, job.sentence, outcome);
        }
        let due = Instant::now() + state.costs.round_trip;
        self.replies.push(due, |bytes| bytes.extend_from_slice(&out));
    }

    /// Carries out every command whose turn is over, and reserves the next one's.
    fn execute(&mut self) {
        if self.queue.is_empty() && self.running.is_none() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let now = Instant::now();
        let clock = shared.clock.now();
        state.lapse(clock);
        while matches!(self.stage, Stage::Open | Stage::HalfClosed) && self.replies.has_room() {
            let (job, turn) = match self.running.take() {
                Some(running) => running,
                None => match self.queue.pop_front() {
                    Some(job) => {
                        self.queued_bytes -= job.sentence.size();
                        let cost = cost(&mut state, &job.sentence);
                        let turn = state.processor.reserve(job.arrived.instant, cost);
                        (job, turn)
                    }
                    None => break,
                },
            };
            if turn.end > now {
                self.running = Some((job, turn));
                break;
            }
            self.apply(&mut state, job, turn, clock);
        }
        let rebooted = self.stage == Stage::Closed;
        shared.commit(state);
        if rebooted {
            shared.drop_sessions();
        }
    }

    /// Keeps some rows unsent, where a print never ends.
    fn add_rows(&mut self) {
        let Some((tag, sent)) = &mut self.endless else { return };
        if self.stage == Stage::Stalled {
            return;
        }
        while self.replies.bytes < READ {
            *sent = sent.wrapping_add(1);
            let address = std::net::Ipv4Addr::from(0x0B00_0000 | *sent & 0x00FF_FFFF).to_string();
            self.replies.push(Instant::now(), |out| {
                let mut reply = Reply::new(out, tag.as_deref());
                reply.row();
                reply.attribute(b".id", print_id(u64::from(*sent)).as_bytes());
                reply.attribute(b"list", b"endless");
                reply.attribute(b"address", address.as_bytes());
                reply.end();
            });
        }
    }

    fn apply(&mut self, state: &mut State, job: Job, turn: Turn, now: Timestamp) {
        let command = Command::parse(&job.sentence);
        let moment = Moment { received: job.arrived.clock, now };
        let due = turn.end + state.costs.round_trip;
        let session = self.caller.session;
        let outcome = match state.faults.strike(command.path) {
            None if command.verb() == Verb::Cancel && self.caller.policies.is_some() => {
                // Answered when it was read.
                state.counts.commands += 1;
                Outcome::Done { ret: None }
            }
            None => {
                self.caller.shown = 0;
                let mut whole = Vec::new();
                let outcome = self.caller.execute(state, &command, moment, &mut whole);
                // Rows leave while they are made, and occupy the router meanwhile.
                let making = state.costs.print_per_property.saturating_mul(self.caller.shown);
                let rows = state.processor.reserve(turn.end, making);
                self.replies.push_over(due, rows.end - turn.end, &whole);
                if matches!(outcome, Outcome::Fatal { .. }) {
                    self.stage = Stage::Closing;
                }
                outcome
            }
            Some(Fault::Stall) => {
                self.stage = Stage::Stalled;
                Outcome::Lost { applied: false }
            }
            Some(Fault::CloseMidReply) => {
                let mut whole = Vec::new();
                self.caller.execute(state, &command, moment, &mut whole);
                self.replies.push(due, |out| out.extend_from_slice(&whole[..whole.len() / 2]));
                self.stage = Stage::Closing;
                Outcome::Lost { applied: true }
            }
            Some(Fault::DropReply) => {
                self.caller.execute(state, &command, moment, &mut Vec::new());
                self.stage = Stage::Closing;
                Outcome::Lost { applied: true }
            }
            Some(Fault::EndlessRows) => {
                self.endless = Some((command.tag.map(<[u8]>::to_vec), 0));
                Outcome::Lost { applied: false }
            }
            Some(Fault::Swallow { applied }) => {
                if applied {
                    self.caller.execute(state, &command, moment, &mut Vec::new());
                }
                Outcome::Lost { applied }
            }
            Some(Fault::Trap { message, category }) => {
                state.counts.commands += 1;
                state.counts.traps += 1;
                self.replies.push(due, |out| {
                    let mut reply = Reply::new(out, command.tag);
                    reply.trap(&message, category);
                    reply.done(None);
                });
                Outcome::Trap { message }
            }
            Some(Fault::Reboot) => {
                state.reboot(now);
                self.stage = Stage::Closed;
                Outcome::Lost { applied: false }
            }
        };
        state.journal.record(job.arrived.clock, session, job.sentence, outcome);
    }
}

impl Replies {
    /// Lets `write` append a reply that is due then.
    fn push<T>(&mut self, due: Instant, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        // Replies leave in order, so none is due before the one ahead of it.
        let due = self.chunks.back().map_or(due, |(last, _)| due.max(*last));
        if self.chunks.back().is_none_or(|(last, bytes)| *last != due || bytes.len() >= READ) {
            self.chunks.push_back((due, Vec::new()));
        }
        let (_, bytes) = self.chunks.back_mut().expect("a chunk was just made sure of");
        let before = bytes.len();
        let result = write(bytes);
        self.bytes += bytes.len() - before;
        result
    }

    /// Appends a reply whose bytes become due one after another within this time.
    fn push_over(&mut self, due: Instant, within: Duration, bytes: &[u8]) {
        if within.is_zero() {
            return self.push(due, |out| out.extend_from_slice(bytes));
        }
        let mut before = 0;
        for piece in bytes.chunks(PIECE) {
            before += piece.len();
            let share = before as f64 / bytes.len() as f64;
            self.push(due + within.mul_f64(share), |out| out.extend_from_slice(piece));
        }
    }

    fn due(&self, now: Instant) -> &[u8] {
        match self.chunks.front() {
            Some((due, bytes)) if *due <= now => &bytes[self.sent..],
            _ => &[],
        }
    }

    fn advance(&mut self, count: usize) {
        self.bytes -= count;
        self.sent += count;
        if self.chunks.front().is_some_and(|(_, bytes)| bytes.len() == self.sent) {
            self.chunks.pop_front();
            self.sent = 0;
        }
    }

    fn has_room(&self) -> bool {
        self.bytes < MAX_UNSENT
    }
}

/// Writes some of these bytes and returns how many, or flushes when there are none.
async fn send(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<Option<usize>> {
    if bytes.is_empty() {
        writer.flush().await?;
        return Ok(None);
    }
    writer.write(bytes).await.map(Some)
}

/// How long a command occupies the router.
fn cost(state: &mut State, sentence: &Sentence) -> Duration {
    let costs = state.costs;
    match Command::verb_of(Command::parse_path(sentence)) {
        Verb::Add(_) | Verb::Set(_) => costs.insert,
        Verb::Remove(_) => costs.remove.unwrap_or(costs.insert),
        Verb::Print(family) => {
            let entries = u32::try_from(state.table_mut(family).len()).unwrap_or(u32::MAX);
            costs.scan_per_entry.saturating_mul(entries)
        }
        Verb::Page(Page::Rules(family, chains)) => {
            let here = |rule: &&Rule| rule.family == family && rule.chains == chains;
            let rules = u32::try_from(state.site.rules.iter().filter(here).count()).unwrap_or(u32::MAX);
            costs.scan_per_entry.saturating_mul(rules)
        }
        _ => Duration::ZERO,
    }
}
