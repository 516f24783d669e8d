//! API-SSL: TLS 1.2 with a certificate that signs itself, which is what RouterOS offers at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

/// Why no certificate could be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate could not be made.
    #[error("cannot make a certificate for {name:?}: {source}; an identity must be usable as a host name")]
    Certificate {
        /// The router's identity, for which the certificate was to be.
        name: String,
        /// What the certificate's maker says.
        source: rcgen::Error,
    },
    /// TLS does not take it.
    #[error("cannot use the new certificate: {0}")]
    Config(#[from] rustls::Error),
}

/// What a TLS listener needs.
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) certificate: CertificateDer<'static>,
    /// Whether the service has it.
    pub(crate) given: Arc<AtomicBool>,
}

/// The router's one certificate, given to the service or not. Without it RouterOS offers anonymous
/// key exchange alone, which no client here speaks: the handshake fails, as it does then.
#[derive(Debug)]
struct Shelf {
    key: Arc<CertifiedKey>,
    given: Arc<AtomicBool>,
}

impl Tls {
    pub(crate) fn new(identity: &str) -> Result<Self, TlsError> {
        let names = vec![identity.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|source| TlsError::Certificate { name: identity.to_owned(), source })?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = Arc::new(CertifiedKey::from_der(vec![certificate.clone()], key, &provider)?);
        let given = Arc::new(AtomicBool::new(true));
        let resolver: Arc<dyn ResolvesServerCert> = Arc::new(Shelf { key, given: Arc::clone(&given) });
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate, given })
    }

    /// SHA-256 of the certificate, in hexadecimal digits.
    pub(crate) fn fingerprint(&self) -> String {
        data_encoding::HEXLOWER.encode(&Sha256::digest(&self.certificate))
    }
}

impl ResolvesServerCert for Shelf {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.given.load(Ordering::Relaxed).then(|| Arc::clone(&self.key))
    }
}
