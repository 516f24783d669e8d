//! The enforcer's certificate: made once, at the first start, and pinned by every sensor that joins.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atalaya_program::disk::{self, FileTrouble};
use atalaya_wire::Fingerprint;
use data_encoding::BASE64;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

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
    #[error("cannot use {}: {}", path.display(), source.or("check that the state folder exists and that this user may write there"))]
    File {
        /// The file, with its folder as it was configured.
        path: PathBuf,
        /// What the system or the database said.
        source: FileTrouble,
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

// === impl TlsError ===

impl TlsError {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source: FileTrouble::of(path, source) }
    }

    fn content(path: &Path, reason: &str) -> Self {
        Self::Content { path: path.to_owned(), reason: reason.to_owned() }
    }
}

// === impl Identity ===

impl Identity {
    /// Reads the certificate from the state folder, or makes one there. One of which a crash left only a part is made anew
    /// where that costs nobody anything: while no sensor is enrolled that could have pinned it.
    pub fn load_or_make(folder: &Path, is_pinned: impl FnOnce() -> bool) -> Result<Self, TlsError> {
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        let hold = || state::hold(folder).map_err(|source| TlsError::file(folder, source));
        let held = hold()?;
        if !certificate.exists() && !key.exists() {
            make(&certificate, &key)?;
        }
        drop(held);
        match Self::load(folder) {
            // Who is enrolled is asked while the folder is free: the answer needs it.
            Err(TlsError::Content { path, reason }) if !is_pinned() => {
                let _held = hold()?;
                // Another program may have been as quick.
                if Self::load(folder).is_err() {
                    tracing::warn!(path = %path.display(), reason, "the certificate or its key is incomplete, as a crash leaves it; no sensor is enrolled that could know it, so that both are made anew");
                    make(&certificate, &key)?;
                }
                Self::load(folder)
            }
            loaded => loaded,
        }
    }

    /// The SHA-256 of the certificate's public key, in base64, as curl's `--pinnedpubkey` takes it.
    pub fn public_key_pin(&self) -> Result<String, TlsError> {
        let wrong = |reason: String| TlsError::Content { path: "certificate.pem".into(), reason };
        let parsed =
            webpki::EndEntityCert::try_from(&self.certificate).map_err(|error| wrong(error.to_string()))?;
        Ok(BASE64.encode(&Sha256::digest(parsed.subject_public_key_info())))
    }

    /// Reads the certificate from the state folder, where it must be.
    pub fn load(folder: &Path) -> Result<Self, TlsError> {
        let (certificate, key) = (&folder.join("certificate.pem"), &folder.join("key.pem"));
        let damaged = |path: &Path, error: pem::Error| match error {
            pem::Error::Io(source) if source.kind() != io::ErrorKind::NotFound => {
                TlsError::file(path, source)
            }
            pem::Error::Io(_) => TlsError::content(path, "it is not there, and the other of the two is"),
            _ if path.metadata().is_ok_and(|file| file.len() == 0) => TlsError::content(path, "it is empty"),
            other => TlsError::content(path, &other.to_string()),
        };
        for path in [certificate, key] {
            // Of a disk that takes nothing more they are read all the same.
            if let Err(error) = disk::close_to_others(path) {
                tracing::debug!(path = %path.display(), %error, "its rights stay as they are");
            }
        }
        let identity = Self {
            certificate: CertificateDer::from_pem_file(certificate)
                .map_err(|error| damaged(certificate, error))?,
            key: PrivateKeyDer::from_pem_file(key).map_err(|error| damaged(key, error))?,
        };
        let (chain, of_it) = (vec![identity.certificate.clone()], identity.key.clone_key());
        CertifiedKey::from_der(chain, of_it, &provider()).map_err(|error| {
            TlsError::content(key, &format!("it is not the key of {}: {error}", certificate.display()))
        })?;
        Ok(identity)
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
        .map_err(|error| TlsError::content(certificate, &error.to_string()))?;
    // A crash in between leaves a key without its certificate, which no sensor can have pinned yet.
    for (path, text) in [(key, made.signing_key.serialize_pem()), (certificate, made.cert.pem())] {
        disk::write_private(path, text.as_bytes()).map_err(|source| TlsError::file(path, source))?;
    }
    tracing::info!(certificate = %certificate.display(), "made the certificate that sensors will pin");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_made_once_and_its_key_is_this_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let load = || Identity::load_or_make(state.path(), || true);
        let first = load().unwrap().fingerprint();
        let key = state.path().join("key.pem");
        let mode = || key.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        let again = load().unwrap();
        assert_eq!((again.fingerprint(), mode()), (first, 0o600));
        again.presented().unwrap().server_config().unwrap();
        std::fs::write(&key, "damaged").unwrap();
        let error = load().unwrap_err().to_string();
        assert!(error.contains("key.pem") && error.contains("join again"), "{error}");
    }

    #[test]
    fn what_a_crash_left_of_a_certificate_is_made_anew_only_while_no_sensor_can_have_pinned_it() {
        let another = tempfile::tempdir().unwrap();
        Identity::load_or_make(another.path(), || true).unwrap();
        let of_another = std::fs::read_to_string(another.path().join("key.pem")).unwrap();
        for (file, left, says) in [
            ("key.pem", Some(String::new()), "key.pem is damaged: it is empty"),
            ("certificate.pem", Some(String::new()), "certificate.pem is damaged: it is empty"),
            ("key.pem", Some("-----BEGIN PRIVATE KEY-----\nMIG".to_owned()), "key.pem is damaged: "),
            ("key.pem", Some(of_another), "key.pem is damaged: it is not the key of "),
            ("certificate.pem", None, "certificate.pem is damaged: it is not there"),
        ] {
            let state = tempfile::tempdir().unwrap();
            let first = Identity::load_or_make(state.path(), || true).unwrap().fingerprint();
            let path = state.path().join(file);
            match &left {
                Some(left) => std::fs::write(&path, left).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let error = Identity::load_or_make(state.path(), || true).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("join again"), "{error}");
            let anew = Identity::load_or_make(state.path(), || false).unwrap().fingerprint();
            assert_ne!(anew, first, "{file} {left:?}");
            assert_eq!(Identity::load_or_make(state.path(), || true).unwrap().fingerprint(), anew);
        }
    }
}
