//! API-SSL: TLS 1.2 with a certificate that signs itself, which is what RouterOS offers at most.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// Why no certificate could be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate could not be made.
    #[error("cannot make a certificate for {name:?}: {source}; an identity must be usable as a host name")]
    Certificate {
        /// The router's identity.
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
}

impl Tls {
    pub(crate) fn new(identity: &str) -> Result<Self, TlsError> {
        let names = vec![identity.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|source| TlsError::Certificate { name: identity.to_owned(), source })?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }
}
