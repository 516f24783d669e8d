//! One API session with one router, over mikrotik-rs's codec and commands: connecting, TLS, login,
//! tagged commands in flight, and the deadlines that mikrotik-rs leaves to its user.
//!
//! Reading and writing go on at once, so that a peer which does not read while it writes cannot lock
//! us up. What is buffered is bounded: by the caller's window outwards, by [`LONGEST_SENTENCE`] inwards.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use atalaya_wire::{Fingerprint, Name};
use mikrotik_rs::proto::codec::{self, Decode};
use mikrotik_rs::proto::command::Cmd;
use mikrotik_rs::{CommandBuilder, Tag};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::pin::Pin;
use super::sentence::{ProtocolBreach, Reply, Row, Trap};
use super::{Deadlines, RouterConfig};

/// The largest sentence that is taken from a router, in bytes.
pub const LONGEST_SENTENCE: usize = 1024 * 1024;

/// How much is read at once, in bytes.
const READ: usize = 64 * 1024;

/// The most rows that are taken in answer to one command. Tables of 185,000 entries were seen; what sends more
/// than ten times as many is no router that works.
pub const MOST_ROWS: u32 = 2_097_152;

/// After how long without a packet the system asks whether a router's host is there, how long it waits for each
/// answer, and how many may stay out.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 4);

/// A logged-in session. Each command carries a context of type `C` that comes back with its answers.
pub struct Session<C> {
    wire: Wire,
    /// What is in flight, and how many rows came in answer.
    in_flight: HashMap<Tag, (C, u32)>,
    most_rows: u32,
    last_tag: u32,
    idle: Duration,
    /// Since when the router owes us a sentence, where commands are in flight.
    quiet_since: Instant,
}

/// An answer to a command in flight.
#[derive(Debug)]
pub enum CommandAnswer<C> {
    /// A row; the command goes on.
    Row(C, Row),
    /// The command was done, with the value of its `=ret=`.
    Done(C, Option<String>),
    /// The command was refused.
    Trap(C, Trap),
}

/// Why there is no session, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The host's name has no address.
    #[error("the name `{host}` cannot be resolved: {source}")]
    Resolve {
        /// The host of `address`, a name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address of the router took the connection.
    #[error("cannot connect to {address}: {source}; is the router up, and its API service on (/ip/service)?")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Resolving or connecting took too long.
    #[error("no connection within {}: the router is down, or a firewall drops the packets", seconds(.0))]
    ConnectDeadline(Duration),
    /// The router's certificate is not the pinned one.
    #[error(
        "the router presented the certificate {presented}, but {expected} is pinned: if its certificate was renewed, pin the new one; if not, someone stands between"
    )]
    WrongCertificate {
        /// SHA-256 of the certificate that was presented.
        presented: Fingerprint,
        /// SHA-256 of the certificate that is pinned.
        expected: Fingerprint,
    },
    /// The TLS handshake failed.
    #[error(
        "the TLS handshake failed: {0}; does the API-SSL service have a certificate (/ip/service set api-ssl certificate=…)?"
    )]
    Tls(io::Error),
    /// The router closed the connection in the middle of the TLS handshake.
    #[error(
        "port {0} closed the connection in the TLS handshake: it speaks no TLS, as the plain API's (8728) does not, or api-ssl has no certificate (/ip/service set api-ssl certificate=…); the port of api-ssl is usually 8729"
    )]
    TlsClosed(u16),
    /// The TLS handshake took too long.
    #[error(
        "connected, but no TLS handshake within {}: it seems to speak no TLS, as the plain API's (8728) does not; the port of api-ssl is usually 8729",
        seconds(.0)
    )]
    TlsDeadline(Duration),
    /// What came back to the plain API is TLS.
    #[error(
        "port {0} speaks TLS: it is api-ssl's; set `fingerprint` for it, or the port of the plain API (8728)"
    )]
    SpeaksTls(u16),
    /// What came back to TLS is none.
    #[error(
        "port {0} does not speak TLS: it is the plain API's, or another service's; set the port of api-ssl (8729)"
    )]
    SpeaksPlain(u16),
    /// The router refused the login.
    #[error(
        "the router refused the login of `{user}`: {reason}; check user and password, and that the user's group has the policies read, write and api"
    )]
    Login {
        /// RouterOS's user for the API, as configured.
        user: String,
        /// What the router said.
        reason: String,
    },
    /// The login took too long.
    #[error("no answer to the login within {}; is the port the API's?", seconds(.0))]
    LoginDeadline(Duration),
    /// The router answered the login with a challenge.
    #[error(
        "the router wants the challenge login of RouterOS before 6.43, which is not supported: update RouterOS"
    )]
    ChallengeLogin,
    /// The router ended the session.
    #[error("the router ended the session: {0}")]
    Fatal(String),
    /// The router closed the connection.
    #[error("the router closed the connection")]
    Closed,
    /// The router owed an answer for too long.
    #[error("the router was silent for {} with commands in flight", seconds(.0))]
    Silent(Duration),
    /// Another section of the configuration is for the same router.
    #[error(
        "this is the same router as [router.{other}], by its serial number {serial}: both sections are for list {list}, and each would remove what the other adds. Make them one section, with the jails of both, or give one a `list` of its own"
    )]
    SameRouter {
        /// The router's name in the section that keeps it.
        other: Name,
        /// The board's serial number.
        serial: String,
        /// The list that both are for.
        list: String,
    },
    /// A command was answered with rows without end.
    #[error(
        "the router answered one command with over {MOST_ROWS} rows, more than any router holds: is it a router, and is it well?"
    )]
    Flood,
    /// The socket failed, or the router closed it.
    #[error("the connection broke: {0}")]
    Io(io::Error),
    /// The router sent what is no API sentence.
    #[error(transparent)]
    Protocol(#[from] ProtocolBreach),
    /// A command that the session cannot do without was refused.
    #[error("{command} was refused: {trap}; the user needs the policies read, write and api")]
    Refused {
        /// The command's path, or what it was to do.
        command: &'static str,
        /// What the router said, and what it means.
        trap: Trap,
    },
}

/// How the record of an alert begins, by which TLS answers what it does not understand (RFC 8446, 5.1): its type, and the
/// first byte of every version. As the API's it would be a word of 21 bytes that begins with a control character.
const TLS_ALERT: [u8; 2] = [21, 3];

/// Bytes to and from the router, in both directions at once.
struct Wire {
    stream: Box<dyn Stream>,
    outbox: Vec<u8>,
    /// How much of `outbox` is written.
    written: usize,
    /// Whether something was written that the stream may still hold.
    unflushed: bool,
    inbox: Vec<u8>,
    /// How much of `inbox` is consumed.
    consumed: usize,
    scratch: Box<[u8]>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

// === impl SessionError ===

impl SessionError {
    /// Whether nothing that is the router's answered, where the login was not done yet: it is away or starts just now.
    pub(super) fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. }
                | Self::Connect { .. }
                | Self::ConnectDeadline(_)
                | Self::Closed
                | Self::Io(_)
        )
    }
}

// === impl Session ===

impl<C: Copy> Session<C> {
    /// Connects to the first of the addresses that answers, and logs in. Each step has its
    /// deadline.
    pub async fn open(config: &RouterConfig, addresses: &[SocketAddr]) -> Result<Self, SessionError> {
        let Deadlines { connect, login, answer, .. } = config.deadlines;
        let stream = connect_first(addresses, connect).await?;
        let port = stream.peer_addr().map_or(0, |address| address.port());
        let mut wire = Wire::new(secure(stream, config).await?);
        let admitted = timeout(login, wire.login(&config.user, config.password.expose())).await;
        if config.tls.is_none() && wire.inbox.starts_with(&TLS_ALERT) {
            return Err(SessionError::SpeaksTls(port));
        }
        admitted.unwrap_or(Err(SessionError::LoginDeadline(login)))?;
        Ok(Self {
            wire,
            in_flight: HashMap::new(),
            most_rows: MOST_ROWS,
            last_tag: 0,
            idle: answer,
            quiet_since: Instant::now(),
        })
    }

    /// Begins a command; end it with [`Session::send`].
    pub fn command(&mut self, path: &str) -> CommandBuilder<Cmd> {
        loop {
            self.last_tag = self.last_tag.wrapping_add(1);
            let tag = Tag::from_raw(self.last_tag);
            if tag != Tag::LOGIN && !self.in_flight.contains_key(&tag) {
                return CommandBuilder::with_tag(tag).command(path);
            }
        }
    }

    /// Puts a command on its way; the bytes go out in the next [`Session::answer`], many commands in
    /// one write. The caller bounds how many are in flight.
    pub fn send(&mut self, command: CommandBuilder<Cmd>, context: C) {
        let command = command.build();
        if self.in_flight.is_empty() {
            self.quiet_since = Instant::now();
        }
        self.in_flight.insert(command.tag, (context, 0));
        self.wire.outbox.extend_from_slice(command.data());
    }

    /// The next answer, writing what is to be sent meanwhile. Pending for ever while nothing is in
    /// flight and the router keeps the connection. Cancel-safe.
    pub async fn answer(&mut self) -> Result<CommandAnswer<C>, SessionError> {
        loop {
            if let Some(answer) = self.received()? {
                return Ok(answer);
            }
            let turn = poll_fn(|cx| self.wire.poll(cx));
            if self.in_flight.is_empty() {
                turn.await?;
            } else {
                timeout_at(self.quiet_since + self.idle, turn)
                    .await
                    .unwrap_or(Err(SessionError::Silent(self.idle)))?;
            }
        }
    }

    /// An answer that has already been read, if any.
    pub fn received(&mut self) -> Result<Option<CommandAnswer<C>>, SessionError> {
        while let Some((tag, reply)) = self.wire.reply()? {
            self.quiet_since = Instant::now();
            let asked = tag.and_then(|tag| self.in_flight.get_mut(&tag));
            let context = asked.as_ref().map(|(context, _)| *context);
            return Ok(Some(match (context, reply) {
                (_, Reply::Fatal(reason)) => return Err(SessionError::Fatal(reason)),
                (Some(context), Reply::Row(row)) => {
                    let rows = asked.map_or(0, |(_, rows)| {
                        *rows += 1;
                        *rows
                    });
                    if rows > self.most_rows {
                        return Err(SessionError::Flood);
                    }
                    CommandAnswer::Row(context, row)
                }
                (Some(context), Reply::Done { ret }) => {
                    self.retire(tag);
                    CommandAnswer::Done(context, ret)
                }
                (Some(context), Reply::Trap(trap)) => {
                    self.retire(tag);
                    CommandAnswer::Trap(context, trap)
                }
                (None, Reply::Trap(trap)) if tag.is_none() => {
                    return Err(ProtocolBreach(format!("a trap for no command: {trap}")).into());
                }
                // The `!done` that follows a trap or an `!empty`, or an answer that came too late.
                (None, _) => continue,
            }));
        }
        Ok(None)
    }

    /// For how long the router may owe the next sentence from here on.
    pub fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }

    /// Gives up the commands in flight for which the function returns true: what is answered to them from here
    /// on is ignored.
    pub fn give_up(&mut self, mut lost: impl FnMut(&C) -> bool) -> Vec<C> {
        self.in_flight.extract_if(|_, (context, _)| lost(context)).map(|(_, (context, _))| context).collect()
    }

    /// How many commands await their end.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn retire(&mut self, tag: Option<Tag>) {
        if let Some(tag) = tag {
            self.in_flight.remove(&tag);
        }
    }
}

// === impl Wire ===

impl Wire {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            outbox: Vec::new(),
            written: 0,
            unflushed: false,
            inbox: Vec::new(),
            consumed: 0,
            scratch: vec![0; READ].into(),
        }
    }

    async fn login(&mut self, user: &str, password: &str) -> Result<(), SessionError> {
        self.outbox.extend_from_slice(CommandBuilder::login(user, Some(password)).data());
        let refused = |reason| SessionError::Login { user: user.to_owned(), reason };
        loop {
            match self.reply()? {
                None => poll_fn(|cx| self.poll(cx)).await?,
                Some((_, Reply::Done { ret: None })) => return Ok(()),
                Some((_, Reply::Done { ret: Some(_) })) => return Err(SessionError::ChallengeLogin),
                Some((_, Reply::Trap(trap))) => return Err(refused(trap.message)),
                Some((_, Reply::Fatal(reason))) => return Err(refused(reason)),
                Some((_, Reply::Row(_))) => {}
            }
        }
    }

    /// The next whole sentence that was read.
    fn reply(&mut self) -> Result<Option<(Option<Tag>, Reply)>, ProtocolBreach> {
        loop {
            let rest = &self.inbox[self.consumed..];
            match codec::decode_sentence(rest).map_err(|error| ProtocolBreach(error.to_string()))? {
                Decode::Complete { value, bytes_consumed } => {
                    self.consumed += bytes_consumed;
                    if !value.is_empty() {
                        return Reply::parse(&value, &rest[..bytes_consumed]).map(Some);
                    }
                }
                Decode::Incomplete { .. } if rest.len() > LONGEST_SENTENCE => {
                    return Err(ProtocolBreach(format!("a sentence of over {LONGEST_SENTENCE} bytes")));
                }
                Decode::Incomplete { .. } => return Ok(None),
            }
        }
    }

    /// Writes what is to be written and reads what has come; ready once something was read.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        let failure = match self.poll_write(cx) {
            Poll::Ready(Err(error)) => Some(error),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        };
        // Read even if writing failed: the router may have said why it closes.
        match (self.poll_read(cx), failure) {
            (Poll::Ready(Ok(())), _) => Poll::Ready(Ok(())),
            (_, Some(error)) => Poll::Ready(Err(SessionError::Io(error))),
            (Poll::Ready(Err(error)), None) => Poll::Ready(Err(error)),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.outbox.len() {
            let count = ready!(StdPin::new(&mut self.stream).poll_write(cx, &self.outbox[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.unflushed = true;
        }
        self.outbox.clear();
        self.written = 0;
        if self.unflushed {
            ready!(StdPin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        let mut buffer = ReadBuf::new(&mut self.scratch);
        ready!(StdPin::new(&mut self.stream).poll_read(cx, &mut buffer)).map_err(|error| {
            match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => SessionError::Closed,
                _ => SessionError::Io(error),
            }
        })?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(SessionError::Closed));
        }
        self.inbox.drain(..self.consumed);
        self.consumed = 0;
        self.inbox.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

/// The stream with TLS around it, where a certificate is pinned.
async fn secure(stream: TcpStream, config: &RouterConfig) -> Result<Box<dyn Stream>, SessionError> {
    // Without it a command waits for the acknowledgement of the one before; it works without.
    let _ = stream.set_nodelay(true);
    probe(&stream);
    let Some(expected) = config.tls else { return Ok(Box::new(stream)) };
    let deadline = config.deadlines.connect;
    let pin = Pin::new(expected);
    let client = pin.client().map_err(|error| SessionError::Tls(io::Error::other(error)))?;
    // The name is not sent and not checked: the pin says who the router is.
    let name = ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let port = stream.peer_addr().map_or(0, |address| address.port());
    match timeout(deadline, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(match pin.mismatch() {
            Some(presented) => SessionError::WrongCertificate { presented, expected },
            None if is_plain(&error) => SessionError::SpeaksPlain(port),
            None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                SessionError::TlsClosed(port)
            }
            None => SessionError::Tls(error),
        }),
        Err(_) => Err(SessionError::TlsDeadline(deadline)),
    }
}

/// Lets the system find out that a router's host is gone while we wait for it to read a large table: it may do
/// one command at a time, so that no other tells whether it lives.
///
/// Not with `TCP_USER_TIMEOUT`, which also ends a connection whose peer answers but does not read for so long, as
/// a router in a long scan may. What that would find beside, the deadline for a whole scan does.
fn probe(stream: &TcpStream) {
    use rustix::net::sockopt;
    let (idle, apart, count) = PROBES;
    // It works without; the deadlines are longer then.
    let _ = sockopt::set_tcp_keepidle(stream, idle);
    let _ = sockopt::set_tcp_keepintvl(stream, apart);
    let _ = sockopt::set_tcp_keepcnt(stream, count);
    let _ = sockopt::set_socket_keepalive(stream, true);
}

/// Whether a handshake failed because what came back is no record of TLS.
fn is_plain(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidMessage(_)))
}

/// Tries one address after the other, each for its share of the deadline.
async fn connect_first(addresses: &[SocketAddr], deadline: Duration) -> Result<TcpStream, SessionError> {
    let mut failure = SessionError::ConnectDeadline(deadline);
    let mut left = addresses.len() as u32;
    let end = Instant::now() + deadline;
    for address in addresses {
        let share = end.saturating_duration_since(Instant::now()) / left;
        left -= 1;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(source)) => failure = SessionError::Connect { address: *address, source },
            Err(_) => failure = SessionError::ConnectDeadline(deadline),
        }
    }
    Err(failure)
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
