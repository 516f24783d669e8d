//! Trust in a router's certificate by its fingerprint alone: routers make their own certificates.
//!
//! Names and dates are not looked at; that the router holds the certificate's key is.

use std::sync::{Arc, OnceLock};

use atalaya_wire::Fingerprint;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// Verifies that a server presents the pinned certificate, and remembers what it presented.
#[derive(Debug)]
pub struct Pin {
    expected: Fingerprint,
    presented: OnceLock<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

// === impl Pin ===

impl Pin {
    /// A pin for one connection.
    pub fn new(expected: Fingerprint) -> Arc<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Arc::new(Self { expected, presented: OnceLock::new(), provider })
    }

    /// A TLS client that trusts the pinned certificate only.
    pub fn client(self: &Arc<Self>) -> Result<ClientConfig, Error> {
        let verifier: Arc<dyn ServerCertVerifier> = Arc::<Self>::clone(self);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.enable_sni = false;
        Ok(config)
    }

    /// What the server presented, where it was not what was expected.
    pub fn mismatch(&self) -> Option<Fingerprint> {
        self.presented.get().copied().filter(|presented| *presented != self.expected)
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = *self.presented.get_or_init(|| Fingerprint::of(certificate));
        if presented == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
