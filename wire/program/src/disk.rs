//! Disks that take nothing more, and files that a crash or a full disk must not leave half-written. What the system says
//! of them is short and names no disk; here it becomes what a person can act on.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

/// With less than this free a disk is full: what is written takes a whole block at least. In bytes.
const A_BLOCK: u64 = 4096;

/// The rights of everybody but the owner.
const NOT_THE_OWNERS: u32 = 0o077;

/// Why a disk takes nothing more, such as `the disk of /var/lib/atalaya is full (0 bytes free)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskTrouble {
    /// The folder in which something was to be written.
    folder: PathBuf,
    kind: DiskTroubleKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskTroubleKind {
    /// With so many bytes that this user may still write.
    Full(u64),
    /// The file system has room, but not for another file.
    NoFiles,
    /// This user, or the folder's project, has had its share.
    Quota,
    ReadOnly,
}

/// What the system said of a file, and what is wrong with its disk where that is why.
#[derive(Debug)]
pub struct FileTrouble {
    error: io::Error,
    disk: Option<Box<DiskTrouble>>,
}

// === impl DiskTrouble ===

impl DiskTrouble {
    /// What is wrong now with the disk on which a file lies or would lie, as far as the system tells.
    pub fn of(path: &Path) -> Option<Self> {
        let folder = folder_of(path);
        let disk = rustix::fs::statvfs(&folder).ok()?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let kind = if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
            DiskTroubleKind::ReadOnly
        } else if free < A_BLOCK {
            DiskTroubleKind::Full(free)
        } else if disk.f_files > 0 && disk.f_favail == 0 {
            DiskTroubleKind::NoFiles
        } else {
            return None;
        };
        Some(Self { folder, kind })
    }

    /// The disk of a file of which a library said that there is no room on it, and did not say what the system said.
    pub fn full(path: &Path) -> Self {
        Self::of(path).unwrap_or_else(|| {
            let folder = folder_of(path);
            let free =
                rustix::fs::statvfs(&folder).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
            Self { folder, kind: DiskTroubleKind::Full(free) }
        })
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.kind {
            DiskTroubleKind::Full(_) | DiskTroubleKind::NoFiles => "make room there",
            DiskTroubleKind::Quota => "raise it, or make room there",
            DiskTroubleKind::ReadOnly => "see in the kernel's log why, and mount it writable",
        }
    }

    fn by_error(path: &Path, error: &io::Error) -> Option<Self> {
        let kind = match error.kind() {
            ErrorKind::StorageFull => return Some(Self::full(path)),
            ErrorKind::QuotaExceeded => DiskTroubleKind::Quota,
            ErrorKind::ReadOnlyFilesystem => DiskTroubleKind::ReadOnly,
            _ => return None,
        };
        Some(Self { folder: folder_of(path), kind })
    }
}

impl std::fmt::Display for DiskTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let folder = self.folder.display();
        match self.kind {
            DiskTroubleKind::Full(1) => write!(f, "the disk of {folder} is full (1 byte free)"),
            DiskTroubleKind::Full(free) => write!(f, "the disk of {folder} is full ({free} bytes free)"),
            DiskTroubleKind::NoFiles => write!(f, "the disk of {folder} is full (it can hold no more files)"),
            DiskTroubleKind::Quota => write!(f, "the quota on the disk of {folder} is used up"),
            DiskTroubleKind::ReadOnly => write!(f, "the disk of {folder} is mounted read-only"),
        }
    }
}

// === impl FileTrouble ===

impl FileTrouble {
    /// What the system said of a file.
    pub fn of(path: &Path, error: io::Error) -> Self {
        let disk = DiskTrouble::by_error(path, &error).map(Box::new);
        Self { error, disk }
    }

    /// With what to do: about the disk, or where that is not why, what is said here.
    pub fn or(&self, otherwise: &'static str) -> String {
        format!("{self}; {}", self.disk.as_ref().map_or(otherwise, |disk| disk.remedy()))
    }

    /// What kind of error the system's is.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }
}

impl std::fmt::Display for FileTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.disk {
            Some(disk) => disk.fmt(f),
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for FileTrouble {}

/// Writes a file whole or not at all, for its owner alone: under another name in the same folder first, and it has its
/// name once it is on the disk. One that is there is replaced in the same way.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = beside(path, ".new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = || {
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&draft)?;
        give_to_the_folders_owner(&file, path)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        sync_folder(path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&draft);
    })
}

/// Makes the folder of a file durable: that something in it was made, renamed or removed.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
        .sync_all()
}

/// Makes a folder for this user alone, where it is missing.
pub fn make_private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Takes everybody's rights to a file but its owner's; nothing where there is no such file.
pub fn close_to_others(path: &Path) -> io::Result<()> {
    let mode = match path.symlink_metadata() {
        Ok(there) if there.is_file() => there.permissions().mode() & 0o7777,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode & NOT_THE_OWNERS == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & !NOT_THE_OWNERS))
}

/// Makes a file for its owner alone where it is missing; where it is there, takes everybody else's rights to it and to the
/// files beside it, whose names end so.
pub fn make_private_file(path: &Path, endings: &[&str]) -> io::Result<()> {
    match File::options().create_new(true).write(true).mode(0o600).open(path) {
        Ok(made) => give_to_the_folders_owner(&made, path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            close_to_others(path)?;
            endings.iter().try_for_each(|ending| close_to_others(&beside(path, ending)))
        }
        Err(error) => Err(error),
    }
}

/// Gives a file that root made to whom the folder belongs: the service that is to read it runs as that user.
pub fn give_to_the_folders_owner(file: &File, path: &Path) -> io::Result<()> {
    let (ours, folder) = (file.metadata()?, folder_of(path).metadata()?);
    let owner = (folder.uid(), folder.gid());
    if ours.uid() == 0 && owner != (ours.uid(), ours.gid()) {
        fchown(file, Some(owner.0), Some(owner.1))?;
    }
    Ok(())
}

/// The nearest folder around a file that is there.
fn folder_of(path: &Path) -> PathBuf {
    let folders = path.ancestors().filter(|folder| folder.is_dir());
    folders
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(Path::to_owned)
        .next()
        .unwrap_or_else(|| PathBuf::from("."))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
