//! The Unix socket that the commands come over: of this user alone, and of one enforcer alone.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another enforcer answers there.
    #[error("an enforcer answers at {}: stop it first, or give this one a `socket` of its own", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{} is there and is no socket: remove it, or give this enforcer another `socket`", .0.display())]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot open the socket {}: {source}", path.display())]
    Socket {
        /// The path of the socket, as it was configured.
        path: PathBuf,
        /// What the system or the database said.
        source: io::Error,
    },
}

/// Opens the socket, replacing one that nobody answers at.
pub fn listen(path: &Path) -> Result<UnixListener, ControlError> {
    let failed = |source| ControlError::Socket { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    match path.symlink_metadata() {
        Ok(there) if !there.file_type().is_socket() => return Err(ControlError::NoSocket(path.to_owned())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ControlError::Taken(path.to_owned()));
        }
        _ => {}
    }
    // Under another name until its mode is right, so that nobody else gets in between.
    let mut draft = path.to_owned().into_os_string();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&draft).map_err(failed)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/enforcer.sock");
        let live = listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(listen(&path), Err(ControlError::Taken(_))));
        drop(live);
        listen(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(ControlError::NoSocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
