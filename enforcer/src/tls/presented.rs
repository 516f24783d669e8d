//! The certificate that connections are shown, which a reload may replace: connections that are open go on with the one
//! that they were shown.

use std::sync::{Arc, PoisonError, RwLock};

use atalaya_wire::Fingerprint;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificate of this moment, and its key.
#[derive(Debug)]
pub struct Presented {
    current: RwLock<Arc<CertifiedKey>>,
}

// === impl Presented ===

impl Presented {
    pub(super) fn new(current: CertifiedKey) -> Self {
        Self { current: RwLock::new(Arc::new(current)) }
    }

    /// Shows connections that are made from here on what another shows.
    pub fn replace(&self, other: &Self) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = other.current();
    }

    /// The SHA-256 of the certificate, which sensors pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.current().cert.first().map_or(Fingerprint::of(&[]), |certificate| Fingerprint::of(certificate))
    }

    /// The server's side of TLS.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
        let mut config = rustls::ServerConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}
