//! Which certificate a router presents, asked without a login.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use atalaya_wire::Fingerprint;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::router::pin::Pin;

/// The SHA-256 of the certificate that is presented at the first of the addresses which presents one, each
/// within the deadline, or why none is. The handshake is broken off at the certificate, so that nothing is
/// said of who holds its key; pinning it does.
pub async fn presented_certificate(
    addresses: &[SocketAddr],
    deadline: Duration,
) -> Result<Fingerprint, String> {
    let mut failure = "it has no address".to_owned();
    for address in addresses {
        match timeout(deadline, present(*address)).await {
            Ok(Ok(fingerprint)) => return Ok(fingerprint),
            Ok(Err(why)) => failure = format!("{address}: {why}"),
            Err(_) => failure = format!("{address}: nothing within {} s", deadline.as_secs_f64()),
        }
    }
    Err(failure)
}

async fn present(address: SocketAddr) -> Result<Fingerprint, String> {
    // No certificate has the fingerprint of no bytes.
    let pin = Pin::new(Fingerprint::of(&[]));
    let client = pin.client().map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let name = ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into());
    let shaken = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await;
    match (pin.mismatch(), shaken) {
        (Some(presented), _) => Ok(presented),
        (None, Err(error)) => Err(format!("no TLS handshake: {error}")),
        (None, Ok(_)) => Err("no certificate is presented".to_owned()),
    }
}
