//! The HTTPS server that sensors connect to: it takes connections and hands requests to the intake. It knows nothing of
//! offences, and [`Entrance`] says who may be connected.
//!
//! A connection belongs to a stranger until a request on it was authenticated. Strangers are few at once,
//! few from one network, and gone after seconds; a sensor's connection may then be idle for as
//! long as its peer answers TCP's questions, so that a ban need not wait for a handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use atalaya_program::causes::Causes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::entrance::{Caller, ConnectionPlace, Entrance};

/// For how long a peer may leave what is sent untaken, in milliseconds.
const UNTAKEN: u32 = 60_000;

/// How many connections wait to be taken: as many as Linux allows, for a fleet comes back at once.
const BACKLOG: u32 = 4096;

/// Listens where sensors connect.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections until `stop` is cancelled; each ends after the request that is being answered.
pub async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    routes: axum::Router,
    entrance: Arc<Entrance>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
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
        // Not a child of `stop`, which lets the request that is being answered end.
        let place = entrance.enter(peer.ip(), &CancellationToken::new());
        let (acceptor, routes, stop) = (acceptor.clone(), routes.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = serve(stream, peer, acceptor, routes, place, stop).await {
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
    place: Arc<ConnectionPlace>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let stay = place.stay;
    let until = tokio::time::Instant::now() + stay;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_mins(1))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(15))?;
    // Also where an answer is under way that nobody takes: a stream of bans would stay for ever.
    sockopt::set_tcp_user_timeout(&stream, UNTAKEN)?;
    let stream = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = place.end.cancelled() => anyhow::bail!("its place was needed for another"),
        shaken = tokio::time::timeout_at(until, acceptor.accept(stream)) => {
            shaken.context("the TLS handshake took too long")?.context("the TLS handshake failed")?
        }
    };
    let (end, known) = (place.end.clone(), place.known.clone());
    let caller = Caller { address: peer, place };
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        caller.place.spoke();
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
        () = end.cancelled() => anyhow::bail!("its place was needed for another"),
        () = known.cancelled() => {}
    }
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = end.cancelled() => anyhow::bail!("its sensor has too many, or is enrolled no more"),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}
