//! Whose sensor this is: the enforcer's URL and certificate, this sensor's name and its secret, as
//! `atalaya-sensor join` stored them.

use std::path::{Path, PathBuf};

use atalaya_program::disk::{self, FileTrouble};
use atalaya_wire::{Fingerprint, JoinToken, Name, Secret};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::store::make_private;

/// What a sensor needs to talk to its enforcer. Stored in `membership.json`, mode 0600.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Where the enforcer listens, such as `https://enforcer.example:8443`.
    pub url: String,
    /// This sensor's name there.
    pub sensor: Name,
    /// What proves that it is this sensor.
    pub secret: Secret,
    /// Of the enforcer's certificate: no other is accepted, whoever signed it.
    pub fingerprint: Fingerprint,
}

/// What a token was to lead to whose answer has not come: a line that says which, then the membership.
const PENDING: &str = "joining";

/// Why the membership cannot be read or stored.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The URL is not one.
    #[error("`{0}` is not the enforcer's URL: expected such as `https://enforcer.example:8443`")]
    Url(String),
    /// The file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The membership file in the state folder.
        path: PathBuf,
        /// What reading, writing or replacing it failed with.
        source: FileTrouble,
    },
    /// The file's content is damaged.
    #[error("{} is damaged: {source}; join again with `atalaya-sensor join URL TOKEN`", path.display())]
    Content {
        /// The membership file in the state folder.
        path: PathBuf,
        /// Where in the JSON it is, and what was expected there.
        source: serde_json::Error,
    },
}

// === impl MembershipError ===

impl MembershipError {
    fn file(path: PathBuf, source: std::io::Error) -> Self {
        Self::File { source: FileTrouble::of(&path, source), path }
    }
}

// === impl Membership ===

impl Membership {
    /// The membership that a token gives, at a URL.
    pub fn new(url: &str, token: JoinToken) -> Result<Self, MembershipError> {
        let bad = || MembershipError::Url(url.to_owned());
        let parsed = reqwest::Url::parse(url).map_err(|_| bad())?;
        if parsed.scheme() != "https" || !parsed.has_host() {
            return Err(bad());
        }
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, sensor: token.sensor, secret: token.secret, fingerprint: token.fingerprint })
    }

    /// Reads the membership from a state folder; `None` where the sensor has not joined yet.
    pub fn load(state: &Path) -> Result<Option<Self>, MembershipError> {
        let path = path(state);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|source| MembershipError::Content { path, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(MembershipError::file(path, source)),
        }
    }

    /// The membership that a token's one leads to, with a secret of this sensor's own: the one that was made for the same token
    /// before, or a new one, which is on disk when this returns.
    pub fn pending(state: &Path, first: &Self) -> Result<Self, MembershipError> {
        let path = state.join(PENDING);
        // Of which token it is, without its secret.
        let of = BASE64URL_NOPAD.encode(&first.secret.digest());
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let (before, kept) = text.split_once('\n').unwrap_or_default();
        let kept = (before == of).then(|| serde_json::from_str::<Self>(kept).ok()).flatten();
        if let Some(kept) = kept.filter(|kept| kept.sensor == first.sensor) {
            return Ok(Self { secret: kept.secret, ..first.clone() });
        }
        let mut bytes = [0; 32];
        let random = getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()));
        random.map_err(|error| MembershipError::file(path.clone(), error))?;
        let pending = Self { secret: Secret::new(bytes), ..first.clone() };
        let text = format!("{of}\n{}", serde_json::to_string_pretty(&pending).unwrap_or_default());
        let stored = make_private(state).and_then(|()| disk::write_private(&path, text.as_bytes()));
        stored.map_err(|source| MembershipError::file(path, source))?;
        Ok(pending)
    }

    /// Forgets what a token was to lead to.
    pub fn forget_pending(state: &Path) -> Result<(), MembershipError> {
        let path = state.join(PENDING);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(MembershipError::file(path, error))
            }
            _ => Ok(()),
        }
    }

    /// Stores the membership, readable by this user alone; an older one is replaced in one step.
    pub fn store(&self, state: &Path) -> Result<PathBuf, MembershipError> {
        let path = path(state);
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let stored = make_private(state).and_then(|()| disk::write_private(&path, text.as_bytes()));
        match stored {
            Ok(()) => Ok(path),
            Err(source) => Err(MembershipError::file(path, source)),
        }
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("membership.json")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            sensor: "web-1".parse().unwrap(),
            secret: Secret::new([1; 32]),
            fingerprint: Fingerprint::of(b"x"),
        }
    }

    #[test]
    fn a_membership_is_stored_for_this_user_alone_and_read_back() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Membership::load(state.path()).unwrap(), None);
        let membership = Membership::new("https://192.0.2.1:8443/", token()).unwrap();
        let path = membership.store(state.path()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Membership::load(state.path()).unwrap(), Some(membership.clone()));
        membership.store(state.path()).unwrap();
    }

    #[test]
    fn the_folder_of_a_membership_is_closed_to_others_also_where_it_was_open() {
        let above = tempfile::tempdir().unwrap();
        let membership = Membership::new("https://192.0.2.1:8443/", token()).unwrap();
        let (state, shared) = (above.path().join("made/state"), above.path().join("shared"));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        membership.store(&state).unwrap();
        assert_eq!(mode(&state), 0o700);
        let open =
            |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        open(&state);
        membership.store(&state).unwrap();
        assert_eq!(mode(&state), 0o700, "one of an earlier release");
        // Whoever names /var/lib as the state folder must not lose the host by it.
        std::fs::create_dir(&shared).unwrap();
        std::fs::write(shared.join("anothers"), "").unwrap();
        open(&shared);
        membership.store(&shared).unwrap();
        assert_eq!(mode(&shared), 0o755);
    }

    #[test]
    fn only_an_https_url_is_taken() {
        for bad in ["enforcer:8443", "http://enforcer", "https://", "x"] {
            assert!(Membership::new(bad, token()).is_err(), "{bad} passed");
        }
    }
}
