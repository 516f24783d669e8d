//! A syslog listener, so that routers and other hosts can send straight here: UDP and TCP, RFC 3164 and
//! RFC 5424, with octet counting or a newline after each message. Everything that a sender chooses
//! is bounded: the length of a message, how long a connection may be idle, how many there are.

mod framing;

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atalaya_wire::Networks;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::date;
use crate::rfc5424;
use framing::Framing;

/// Where to listen, and the bounds.
#[derive(Clone, Debug)]
pub struct SyslogOptions {
    /// Where datagrams are received, each of them a message (RFC 5426).
    pub udp: Vec<SocketAddr>,
    /// Where connections are accepted, with either framing of RFC 6587.
    pub tcp: Vec<SocketAddr>,
    /// From where messages are taken; from everywhere where there is none. A datagram of one of these may hold several
    /// messages, a line each, as some relays send them; of anybody else what follows the first line is its text.
    pub from: Option<Networks>,
    /// The longest message in bytes; what goes beyond is cut off and counted.
    pub longest: usize,
    /// The most TCP connections at once; further ones are closed and counted.
    pub connections: usize,
    /// How many of these one address may have, so that it leaves the others some.
    pub connections_each: usize,
    /// How long a TCP connection may be silent.
    pub idle: Duration,
}

/// A message as it was received, before any filter looks at it.
#[derive(Debug)]
pub struct Message<'a> {
    /// The socket that it came from, which may be a relay; a UDP sender can have forged it.
    pub peer: SocketAddr,
    /// The date that it carries, where it is one.
    pub time: Option<Timestamp>,
    /// The message as a line of a log file would have it: date, host, program and text after the priority, or
    /// all of a message of RFC 5424. Not necessarily UTF-8.
    pub text: &'a [u8],
}

/// Counters that can be read while the listener runs.
#[derive(Debug, Default)]
pub struct SyslogStatus {
    messages: AtomicU64,
    cut: AtomicU64,
    turned_away: AtomicU64,
    strangers: AtomicU64,
}

/// Sockets that are bound and not read yet.
#[derive(Debug)]
pub struct Syslog {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    options: SyslogOptions,
    status: Arc<SyslogStatus>,
}

/// A port that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for syslog on {kind} {address}: {source}; another syslog daemon may have the port, and ports under 1024 need privilege"
)]
pub struct SyslogError {
    kind: &'static str,
    address: SocketAddr,
    source: std::io::Error,
}

// === impl SyslogOptions ===

impl Default for SyslogOptions {
    fn default() -> Self {
        Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            from: None,
            // What a datagram can hold; a web server's line may be nearly as long, with the address at its end.
            longest: 64 * 1024,
            connections: 1024,
            connections_each: 64,
            idle: Duration::from_secs(600),
        }
    }
}

impl SyslogOptions {
    fn takes(&self, peer: SocketAddr) -> bool {
        self.from.as_ref().is_none_or(|from| from.contains(atalaya_wire::canonical(peer.ip())))
    }
}

// === impl SyslogStatus ===

impl SyslogStatus {
    /// Messages handed over since the start, also those that were cut.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Messages cut at [`SyslogOptions::longest`].
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Connections closed because there were too many, of all or of their address.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Datagrams and connections of addresses that are not in [`SyslogOptions::from`].
    pub fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }
}

// === impl Syslog ===

impl Syslog {
    /// Binds every UDP and TCP address, or none: the error names the first that cannot be.
    pub async fn bind(options: SyslogOptions) -> Result<Self, SyslogError> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in &options.udp {
            let failed = |source| SyslogError { kind: "UDP", address: *address, source };
            udp.push(UdpSocket::bind(address).await.map_err(failed)?);
        }
        for address in &options.tcp {
            let failed = |source| SyslogError { kind: "TCP", address: *address, source };
            tcp.push(TcpListener::bind(address).await.map_err(failed)?);
        }
        Ok(Self { udp, tcp, options, status: Arc::default() })
    }

    /// The addresses that are listened on: UDP, then TCP.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let udp = self.udp.iter().map(UdpSocket::local_addr);
        udp.chain(self.tcp.iter().map(TcpListener::local_addr)).filter_map(Result::ok).collect()
    }

    /// Counters that the running listener goes on counting in.
    pub fn status(&self) -> Arc<SyslogStatus> {
        self.status.clone()
    }

    /// Takes messages until stopped. `sink` is called with each, from several tasks.
    pub async fn run(self, sink: impl Fn(Message<'_>) + Send + Sync + 'static, stop: CancellationToken) {
        let sink = Arc::new(sink);
        let mut tasks = tokio::task::JoinSet::new();
        for socket in self.udp {
            tasks.spawn(datagrams(socket, self.options.clone(), sink.clone(), self.status.clone()));
        }
        let places = Arc::new(Semaphore::new(self.options.connections));
        for listener in self.tcp {
            tasks.spawn(connections(
                listener,
                self.options.clone(),
                places.clone(),
                sink.clone(),
                self.status.clone(),
            ));
        }
        stop.cancelled().await;
        tasks.shutdown().await;
    }
}

async fn datagrams(
    socket: UdpSocket,
    options: SyslogOptions,
    sink: Arc<impl Fn(Message<'_>) + Send + Sync + 'static>,
    status: Arc<SyslogStatus>,
) {
    let longest = options.longest;
    // One byte more shows that there was more.
    let mut buffer = vec![0; longest + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((_, peer)) if !options.takes(peer) => {
                status.strangers.fetch_add(1, Ordering::Relaxed);
            }
            Ok((length, peer)) => {
                if length > longest {
                    status.cut.fetch_add(1, Ordering::Relaxed);
                }
                let datagram = &buffer[..length.min(longest)];
                if options.from.is_some() {
                    messages_of(datagram).for_each(|message| hand_over(message, peer, &*sink, &status));
                } else {
                    hand_over(datagram, peer, &*sink, &status);
                }
            }
            // An ICMP error of an earlier answer, say; there is none, and the socket goes on.
            Err(error) => tracing::debug!(%error, "a datagram could not be received"),
        }
    }
}

async fn connections(
    listener: TcpListener,
    options: SyslogOptions,
    places: Arc<Semaphore>,
    sink: Arc<impl Fn(Message<'_>) + Send + Sync + 'static>,
    status: Arc<SyslogStatus>,
) {
    let mut streams = tokio::task::JoinSet::new();
    let of_each = Arc::new(Mutex::new(HashMap::new()));
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a syslog connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = streams.join_next() => continue,
        };
        if !options.takes(peer) {
            status.strangers.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let own = OwnPlace::take(&of_each, peer.ip(), options.connections_each);
        let (Some(own), Ok(place)) = (own, places.clone().try_acquire_owned()) else {
            status.turned_away.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (options, sink, status) = (options.clone(), sink.clone(), status.clone());
        streams.spawn(async move {
            let _places = (place, own);
            if let Err(error) = messages(stream, peer, &options, &*sink, &status).await {
                tracing::debug!(%peer, %error, "a syslog connection ended");
            }
        });
    }
}

/// One of the connections that an address may have, for as long as it lasts.
struct OwnPlace {
    of_each: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

// === impl OwnPlace ===

impl OwnPlace {
    /// `None` where the address, or the IPv6 network of its subscriber (/64), has all that it may.
    fn take(of_each: &Arc<Mutex<HashMap<IpAddr, usize>>>, peer: IpAddr, most: usize) -> Option<Self> {
        let address = match atalaya_wire::canonical(peer) {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address @ IpAddr::V4(_) => address,
        };
        let mut counts = of_each.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self { of_each: of_each.clone(), address })
    }
}

impl Drop for OwnPlace {
    fn drop(&mut self) {
        let mut counts = self.of_each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

async fn messages(
    mut stream: TcpStream,
    peer: SocketAddr,
    options: &SyslogOptions,
    sink: &impl Fn(Message<'_>),
    status: &SyslogStatus,
) -> std::io::Result<()> {
    let mut framing = Framing::new(options.longest);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::time::timeout(options.idle, stream.read(&mut buffer))
            .await
            .map_err(|_| std::io::Error::other("it was silent for too long"))??;
        if read == 0 {
            framing.finish(|message| hand_over(message, peer, sink, status));
            break;
        }
        framing.feed(&buffer[..read], |message| hand_over(message, peer, sink, status));
        status.cut.fetch_add(framing.take_cut(), Ordering::Relaxed);
    }
    status.cut.fetch_add(framing.take_cut(), Ordering::Relaxed);
    Ok(())
}

/// The messages of a datagram: each line that begins with `<PRI>` begins one.
fn messages_of(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(datagram);
    std::iter::from_fn(move || {
        let all = rest.take()?;
        let next = memchr::memchr_iter(b'\n', all)
            .map(|newline| newline + 1)
            .find(|at| without_priority(&all[*at..]).len() < all.len() - at);
        let (message, after) = all.split_at(next.unwrap_or(all.len()));
        rest = next.map(|_| after);
        Some(message)
    })
}

fn hand_over(message: &[u8], peer: SocketAddr, sink: &impl Fn(Message<'_>), status: &SyslogStatus) {
    let line = one_line(message.trim_ascii_end());
    let (text, date) = match rfc5424::Rfc5424Message::read(&line) {
        Some(message) => (&*line, message.date().unwrap_or_default()),
        None => {
            let text = without_priority(&line);
            (text, text)
        }
    };
    if text.is_empty() {
        return;
    }
    status.messages.fetch_add(1, Ordering::Relaxed);
    let time = date::find(date, Timestamp::now(), &TimeZone::system()).map(|(time, _)| time);
    sink(Message { peer, time, text });
}

/// A line of a log has no line ends in it.
fn one_line(message: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', message).is_none() {
        return message.into();
    }
    message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}

/// The message after `<PRI>`, and after RFC 5424's version.
fn without_priority(message: &[u8]) -> &[u8] {
    let Some(rest) = message.strip_prefix(b"<") else { return message };
    let digits = rest.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
    match rest[digits..].strip_prefix(b">") {
        Some(rest) if digits > 0 => rest.strip_prefix(b"1 ").unwrap_or(rest),
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc;

    use super::*;

    async fn start(
        options: SyslogOptions,
    ) -> (Vec<SocketAddr>, mpsc::UnboundedReceiver<String>, Arc<SyslogStatus>) {
        let syslog = Syslog::bind(options).await.unwrap();
        let (addresses, status) = (syslog.addresses(), syslog.status());
        let (sender, receiver) = mpsc::unbounded_channel();
        let sink = move |message: Message<'_>| {
            let _ = sender.send(String::from_utf8_lossy(message.text).into_owned());
        };
        tokio::spawn(syslog.run(sink, CancellationToken::new()));
        (addresses, receiver, status)
    }

    fn loopback() -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, 1], 0))]
    }

    #[tokio::test]
    async fn datagrams_of_both_rfcs_and_of_routeros_arrive_as_lines() {
        let (addresses, mut lines, status) =
            start(SyslogOptions { udp: loopback(), longest: 100, ..SyslogOptions::default() }).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for (message, line) in [
            ("<34>Oct 11 22:14:15 mymachine su: failed\n", "Oct 11 22:14:15 mymachine su: failed"),
            (
                "<165>1 2003-10-11T22:14:15.003Z host app - - - text",
                "<165>1 2003-10-11T22:14:15.003Z host app - - - text",
            ),
            ("<34>Oct 11 22:14:15 mymachine su: a\r\nb\nc\n", "Oct 11 22:14:15 mymachine su: a  b c"),
            ("<165>1 - host app - - [x y=\"a\nb\"] a\nb", "<165>1 - host app - - [x y=\"a b\"] a b"),
            (
                "<30>system,error,critical login failure for user x from 192.0.2.1 via ssh",
                "system,error,critical login failure for user x from 192.0.2.1 via ssh",
            ),
            ("no priority", "no priority"),
            ("<999999>x", "<999999>x"),
        ] {
            socket.send_to(message.as_bytes(), addresses[0]).await.unwrap();
            assert_eq!(lines.recv().await.unwrap(), line);
        }
        socket.send_to(&[b'x'; 500], addresses[0]).await.unwrap();
        assert_eq!(lines.recv().await.unwrap().len(), 100);
        socket.send_to(&[0xff, 0x00, b'z'], addresses[0]).await.unwrap();
        assert!(lines.recv().await.unwrap().ends_with('z'));
        assert_eq!((status.messages(), status.cut()), (9, 1));
    }

    #[tokio::test]
    async fn what_stands_at_the_end_of_the_longest_message_arrives() {
        let options = SyslogOptions { udp: loopback(), tcp: loopback(), ..SyslogOptions::default() };
        let (addresses, mut lines, status) = start(options).await;
        // The largest datagram of IPv4.
        let message = format!("<38>Nov 29 10:00:00 h sshd[1]: {} from 192.0.2.7", "x".repeat(65_507 - 46));
        assert_eq!(message.len(), 65_507);
        UdpSocket::bind("127.0.0.1:0")
            .await
            .unwrap()
            .send_to(message.as_bytes(), addresses[0])
            .await
            .unwrap();
        assert!(lines.recv().await.unwrap().ends_with(" from 192.0.2.7"));
        let mut stream = TcpStream::connect(addresses[1]).await.unwrap();
        stream.write_all(format!("{message}\n{} {message}", message.len()).as_bytes()).await.unwrap();
        drop(stream);
        for _ in 0..2 {
            assert!(lines.recv().await.unwrap().ends_with(" from 192.0.2.7"));
        }
        assert_eq!(status.cut(), 0);
    }

    #[tokio::test]
    async fn both_framings_arrive_on_one_connection_and_the_last_needs_no_end() {
        let (addresses, mut lines, _) =
            start(SyslogOptions { tcp: loopback(), ..SyslogOptions::default() }).await;
        let mut stream = TcpStream::connect(addresses[0]).await.unwrap();
        for piece in ["<34>on", "e\n8 <34>two\n", "9 <34>th", "ree<34>four\r\n\n<34>fi", "ve"] {
            stream.write_all(piece.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
        drop(stream);
        for line in ["one", "two", "three", "four", "five"] {
            assert_eq!(lines.recv().await.unwrap(), line);
        }
    }

    #[tokio::test]
    async fn too_many_connections_are_turned_away_and_counted() {
        let (addresses, mut lines, status) =
            start(SyslogOptions { tcp: loopback(), connections: 1, ..SyslogOptions::default() }).await;
        let mut first = TcpStream::connect(addresses[0]).await.unwrap();
        first.write_all(b"<1>first\n").await.unwrap();
        assert_eq!(lines.recv().await.unwrap(), "first");
        let mut second = TcpStream::connect(addresses[0]).await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert_eq!(status.turned_away(), 1);
    }

    #[tokio::test]
    async fn one_address_leaves_the_others_connections_and_gets_its_own_back() {
        let options = SyslogOptions { tcp: loopback(), connections_each: 1, ..SyslogOptions::default() };
        let (addresses, mut lines, status) = start(options).await;
        let mut first = TcpStream::connect(addresses[0]).await.unwrap();
        first.write_all(b"<1>first\n").await.unwrap();
        assert_eq!(lines.recv().await.unwrap(), "first");
        let mut second = TcpStream::connect(addresses[0]).await.unwrap();
        assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert_eq!(status.turned_away(), 1);
        let other = tokio::net::TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = other.connect(addresses[0]).await.unwrap();
        other.write_all(b"<1>other\n").await.unwrap();
        assert_eq!(lines.recv().await.unwrap(), "other");
        // The listener closes its end once it has seen the end of ours; then the place is free.
        first.shutdown().await.unwrap();
        assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0);
        loop {
            let mut again = TcpStream::connect(addresses[0]).await.unwrap();
            let _ = again.write_all(b"<1>again\n").await;
            tokio::select! {
                line = lines.recv() => { assert_eq!(line.unwrap(), "again"); break }
                _ = async { again.read(&mut [0; 1]).await } => {}
            }
        }
    }

    #[tokio::test]
    async fn messages_of_strangers_are_not_taken_and_a_datagram_of_a_known_sender_may_hold_several() {
        let from = Networks::try_from(vec!["127.0.0.2".to_owned()]).unwrap();
        let options =
            SyslogOptions { udp: loopback(), tcp: loopback(), from: Some(from), ..SyslogOptions::default() };
        let (addresses, mut lines, status) = start(options).await;
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(b"<38>x", addresses[0]).await.unwrap();
        let mut connection = TcpStream::connect(addresses[1]).await.unwrap();
        assert_eq!(connection.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let known = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        known.send_to(b"<38>a\nb <1>\n<38>c\n<x>d\n<39>\n<40>e\n", addresses[0]).await.unwrap();
        for line in ["a b <1>", "c <x>d", "e"] {
            assert_eq!(lines.recv().await.unwrap(), line);
        }
        assert_eq!((status.strangers(), status.messages()), (2, 3));
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error =
            Syslog::bind(SyslogOptions { udp: vec![address], ..SyslogOptions::default() }).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
