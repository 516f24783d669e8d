//! The HTTPS server that sensors connect to: it takes connections, bounds what strangers can hold of
//! them, and hands requests to the intake. It knows nothing of offences.
//!
//! A connection belongs to a stranger until a request on it was authenticated. Strangers are few at once,
//! few from one address, and gone after seconds; a sensor's connection may then be idle for as
//! long as its peer answers TCP's questions, so that a ban need not wait for a handshake.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use atalaya_program::causes::Causes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For how long a peer may leave what is sent untaken, in milliseconds.
const UNTAKEN: u32 = 60_000;

/// The bounds on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The most connections at once; further ones are closed.
    pub connections: usize,
    /// The most connections of strangers at once.
    pub strangers: usize,
    /// The most connections of strangers from one IPv4 address or IPv6 /64 at once.
    pub strangers_of_one: usize,
    /// How long a stranger may stay.
    pub stay: Duration,
}

/// Who sent a request, as an extension of it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The address and port that the connection comes from.
    pub address: SocketAddr,
    known: CancellationToken,
}

/// How many strangers there are from where.
#[derive(Debug, Default)]
struct Strangers(Mutex<HashMap<IpAddr, usize>>);

/// A stranger's place among the others, given back when dropped.
struct StrangersPlace {
    strangers: Arc<Strangers>,
    origin: IpAddr,
    _permit: OwnedSemaphorePermit,
}

/// Takes connections until `stop` is cancelled; each ends after the request that is being answered.
pub async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    routes: axum::Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let strangers_places = Arc::new(Semaphore::new(limits.strangers));
    let strangers = Arc::new(Strangers::default());
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, say: accepting again at once would not help.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let place = places.clone().try_acquire_owned();
        let permit = strangers_places.clone().try_acquire_owned();
        let (Ok(place), Ok(permit)) = (place, permit) else {
            tracing::debug!(%peer, "closed a connection: there are too many");
            continue;
        };
        let Some(strangers_place) = strangers.enter(peer.ip(), limits.strangers_of_one, permit) else {
            tracing::debug!(%peer, "closed a connection: its address has too many");
            continue;
        };
        let (acceptor, routes, stop) = (acceptor.clone(), routes.clone(), stop.clone());
        tasks.spawn(async move {
            let _place = place;
            if let Err(error) =
                serve(stream, peer, acceptor, routes, limits.stay, strangers_place, stop).await
            {
                tracing::debug!(%peer, error = Causes(error.as_ref()).to_string(), "a connection ended");
            }
        });
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    routes: axum::Router,
    stay: Duration,
    place: StrangersPlace,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let until = tokio::time::Instant::now() + stay;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_mins(1))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(15))?;
    // Also where an answer is under way that nobody takes: a stream of bans would stay for ever.
    sockopt::set_tcp_user_timeout(&stream, UNTAKEN)?;
    let stream = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        shaken = tokio::time::timeout_at(until, acceptor.accept(stream)) => {
            shaken.context("the TLS handshake took too long")?.context("the TLS handshake failed")?
        }
    };
    let caller = Caller { address: peer, known: CancellationToken::new() };
    let known = caller.known.clone();
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        hyper::service::Service::call(&routes, request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        // The stay of strangers bounds this better, and leaves sensors alone.
        .header_read_timeout(None)
        .max_buf_size(128 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            return Ok(connection.await?);
        }
        () = tokio::time::sleep_until(until) => anyhow::bail!("nothing was authenticated within {stay:?}"),
        () = known.cancelled() => drop(place),
    }
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

// === impl ConnectionLimits ===

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            // Two of each sensor: one for what it sends, one for the bans that it follows.
            connections: 8192,
            strangers: 512,
            strangers_of_one: 32,
            stay: Duration::from_secs(10),
        }
    }
}

// === impl Caller ===

impl Caller {
    /// The connection is an authenticated sensor's from now on.
    pub fn is_known(&self) {
        self.known.cancel();
    }
}

// === impl Strangers ===

impl Strangers {
    fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        most: usize,
        permit: OwnedSemaphorePermit,
    ) -> Option<StrangersPlace> {
        let origin = origin(address);
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = places.entry(origin).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(StrangersPlace { strangers: self.clone(), origin, _permit: permit })
    }
}

impl Drop for StrangersPlace {
    fn drop(&mut self) {
        let mut places = self.strangers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.origin);
            }
        }
    }
}

/// The address, or the /64 of an IPv6 one: that is what one host has.
fn origin(address: IpAddr) -> IpAddr {
    match atalaya_wire::canonical(address) {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places_and_gives_them_back() {
        let strangers = Arc::new(Strangers::default());
        let permits = Arc::new(Semaphore::new(9));
        let enter = |address: &str| {
            let permit = permits.clone().try_acquire_owned().unwrap();
            strangers.enter(address.parse().unwrap(), 2, permit)
        };
        let (first, second) = (enter("2001:db8::1"), enter("2001:db8::ffff:2"));
        assert!(first.is_some() && second.is_some());
        assert!(enter("2001:db8::3").is_none(), "a third of the same /64 came in");
        assert!(enter("2001:db8:0:1::3").is_some());
        drop(first);
        assert!(enter("2001:db8::3").is_some());
        drop(second);
        assert!(strangers.0.lock().unwrap().is_empty());
        assert_eq!(permits.available_permits(), 9);
    }
}
