//! The enforcer's certificate: made once, at the first start, and pinned by every sensor that joins.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atalaya_wire::Fingerprint;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::state;

mod presented;

pub use presented::Presented;

/// The certificate and its key.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}; check that the state folder exists and that this user may write there", path.display())]
    File {
        /// The file, with its folder as it was configured.
        path: PathBuf,
        /// What the system or the database said.
        source: std::io::Error,
    },
    /// A file's content is damaged.
    #[error("{} is damaged: {reason}; restore it, or remove certificate.pem and key.pem: then a new one is made, and every sensor must join again", path.display())]
    Content {
        /// The file, with its folder as it was configured.
        path: PathBuf,
        /// What is wrong with its content.
        reason: String,
    },
    /// The two cannot be used together.
    #[error(
        "certificate.pem and key.pem of the state folder cannot be used together: {0}; they must be of one pair"
    )]
    Unusable(rustls::Error),
}

// === impl Identity ===

impl Identity {
    /// Reads the certificate from the state folder, or makes one there.
    pub fn load_or_make(folder: &Path) -> Result<Self, TlsError> {
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        let held =
            state::hold(folder).map_err(|source| TlsError::File { path: folder.to_owned(), source })?;
        if !certificate.exists() && !key.exists() {
            make(&certificate, &key)?;
        }
        drop(held);
        Self::load(folder)
    }

    /// Reads the certificate from the state folder, where it must be.
    pub fn load(folder: &Path) -> Result<Self, TlsError> {
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        let damaged = |path: &Path, error: rustls::pki_types::pem::Error| match error {
            rustls::pki_types::pem::Error::Io(source) => TlsError::File { path: path.to_owned(), source },
            other => TlsError::Content { path: path.to_owned(), reason: other.to_string() },
        };
        Ok(Self {
            certificate: CertificateDer::from_pem_file(&certificate)
                .map_err(|error| damaged(&certificate, error))?,
            key: PrivateKeyDer::from_pem_file(&key).map_err(|error| damaged(&key, error))?,
        })
    }

    /// The SHA-256 of the certificate, which sensors pin.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// What connections are shown of it; fails where certificate and key do not belong together.
    pub fn presented(self) -> Result<Arc<Presented>, TlsError> {
        let key = CertifiedKey::from_der(vec![self.certificate], self.key, &provider());
        Ok(Arc::new(Presented::new(key.map_err(TlsError::Unusable)?)))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn make(certificate: &Path, key: &Path) -> Result<(), TlsError> {
    let made = rcgen::generate_simple_self_signed(vec!["atalaya-enforcer".to_owned()])
        .map_err(|error| TlsError::Content { path: certificate.to_owned(), reason: error.to_string() })?;
    // The key first: a crash in between leaves a key without certificate, which says what to do.
    write_private(key, &made.signing_key.serialize_pem())?;
    write_private(certificate, &made.cert.pem())?;
    tracing::info!(certificate = %certificate.display(), "made the certificate that sensors will pin");
    Ok(())
}

fn write_private(path: &Path, text: &str) -> Result<(), TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let mut file =
        std::fs::File::options().create_new(true).write(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_made_once_and_its_key_is_this_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let first = Identity::load_or_make(state.path()).unwrap().fingerprint();
        let again = Identity::load_or_make(state.path()).unwrap();
        assert_eq!(again.fingerprint(), first);
        again.presented().unwrap().server_config().unwrap();
        let mode = state.path().join("key.pem").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(state.path().join("key.pem"), "damaged").unwrap();
        let error = Identity::load_or_make(state.path()).unwrap_err().to_string();
        assert!(error.contains("key.pem") && error.contains("join again"), "{error}");
    }
}
