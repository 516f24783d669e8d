//! Where the maps and links are pinned: a folder of the kernel's own file system for each sensor, named after
//! its state folder.
//!
//! ```text
//! /sys/fs/bpf/atalaya/atalaya-sensor-3f2a9c01/local_drop/
//!     v1-262144/BANS, PREFIXES, ALLOW, KINDS, TOTALS    layout and size, so that no other is taken for it
//!     links/2-native                                    the number of the interface, and how
//! ```
//! Removing a link's file detaches its program; when the last file that holds a map is gone, so is the map.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use sha2::{Digest, Sha256};

use super::{Mode, interfaces};

/// Where the file system is mounted.
const BPFFS: &str = "/sys/fs/bpf";
/// The type in `statfs(2)` of a file system for pins: `BPF_FS_MAGIC` of linux/magic.h.
const MAGIC: u32 = 0xcafe_4a11;
/// The folder of all sensors.
const ATALAYA: &str = "/sys/fs/bpf/atalaya";
const LOCAL_DROP: &str = "local_drop";
const LINKS: &str = "links";

/// The folder of one sensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins(PathBuf);

/// A link that stays while its file does: the program of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// The number of its interface.
    pub interface: u32,
    /// How it is attached.
    pub mode: Mode,
    /// Where it is pinned.
    pub path: PathBuf,
}

// === impl Pins ===

impl Pins {
    /// The folder of the sensor with this state folder. Nothing is made yet.
    pub fn of_state(state: &Path) -> Self {
        let state = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
        let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
        let name = state.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // The file system keeps dots for itself.
        let keep = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
        let name: String = name.chars().take(40).map(keep).collect();
        Self(Path::new(ATALAYA).join(format!("{name}-{}", data_encoding::HEXLOWER.encode(&digest[..4]))))
    }

    /// The folder at a path.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The sensor's own folder of pins; it may not exist.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Of all sensors that pinned anything on this host.
    pub fn of_all() -> Vec<Self> {
        folders(Path::new(ATALAYA)).into_iter().map(Self).collect()
    }

    /// Makes the folders for maps of a layout and size, and mounts the file system where it is not; where
    /// the maps are to be pinned.
    pub fn make(&self, version: u32, max_entries: u32) -> io::Result<PathBuf> {
        mount()?;
        let maps = self.0.join(LOCAL_DROP).join(format!("v{version}-{max_entries}"));
        std::fs::create_dir_all(&maps)?;
        std::fs::create_dir_all(self.links_folder())?;
        Ok(maps)
    }

    /// Where a link is to be pinned.
    pub fn link(&self, interface: u32, mode: Mode) -> PathBuf {
        self.links_folder().join(format!("{interface}-{mode}"))
    }

    /// The links that are pinned.
    pub fn links(&self) -> Vec<PinnedLink> {
        let Ok(entries) = std::fs::read_dir(self.links_folder()) else { return Vec::new() };
        let link = |path: PathBuf| {
            let (interface, mode) = path.file_name()?.to_str()?.split_once('-')?;
            let mode = if mode == "native" { Mode::Native } else { Mode::Generic };
            Some(PinnedLink { interface: interface.parse().ok()?, mode, path })
        };
        entries.filter_map(|entry| link(entry.ok()?.path())).collect()
    }

    /// Folders of maps other than this one.
    pub fn other_maps(&self, maps: &Path) -> Vec<PathBuf> {
        let all = folders(&self.0.join(LOCAL_DROP)).into_iter();
        all.filter(|path| path != maps && !path.ends_with(LINKS)).collect()
    }

    /// Whether maps in this folder have the layout of a version.
    pub fn is_of_version(maps: &Path, version: u32) -> bool {
        let name = maps.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(&format!("v{version}-")))
    }

    /// Whether anything is pinned.
    pub fn exist(&self) -> bool {
        self.0.exists()
    }

    /// Removes everything, links first; whether there was anything.
    pub fn remove(&self) -> io::Result<bool> {
        if !self.exist() {
            return Ok(false);
        }
        for link in self.links() {
            std::fs::remove_file(link.path)?;
        }
        std::fs::remove_dir_all(&self.0)?;
        // Other sensors may have theirs beside it.
        let _ = std::fs::remove_dir(ATALAYA);
        Ok(true)
    }

    fn links_folder(&self) -> PathBuf {
        self.0.join(LOCAL_DROP).join(LINKS)
    }
}

// === impl PinnedLink ===

impl fmt::Display for PinnedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, mode, .. } = self;
        match interfaces::name(*interface) {
            Some(name) => write!(f, "{name} ({mode})"),
            None => write!(f, "interface {interface}, which is gone"),
        }
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut folders: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    folders.sort_unstable();
    folders
}

/// Mounts the kernel's file system for maps and programs where it is not; systemd does at boot.
fn mount() -> io::Result<()> {
    let is_mounted = rustix::fs::statfs(BPFFS)?.f_type as u32 == MAGIC;
    if is_mounted {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", BPFFS, "bpf", flags, Some(c"mode=0700"))?;
    tracing::info!("mounted the file system bpf on {BPFFS}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sensors_with_different_state_folders_have_different_pins_without_a_dot() {
        let of = |path: &str| Pins::of_state(Path::new(path));
        let one = of("/var/lib/atalaya-sensor");
        assert!(one.path().to_string_lossy().starts_with("/sys/fs/bpf/atalaya/atalaya-sensor-"));
        assert_ne!(one, of("/srv/atalaya-sensor"));
        assert_eq!(one, of("/var/lib/./atalaya-sensor"));
        let odd = of("/tmp/.tmpX/a b.c/");
        assert!(!odd.path().to_string_lossy().contains('.'), "{odd:?}");
    }

    #[test]
    fn links_and_maps_are_told_apart_and_what_is_neither_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::at(folder.path());
        let root = folder.path().join(LOCAL_DROP);
        for path in ["links", "v1-1024", "v2-1024"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["links/2-native", "links/17-generic", "links/x", "file"] {
            std::fs::write(root.join(path), "").unwrap();
        }
        let mut links: Vec<_> = pins.links().into_iter().map(|link| (link.interface, link.mode)).collect();
        links.sort_unstable_by_key(|(interface, _)| *interface);
        assert_eq!(links, [(2, Mode::Native), (17, Mode::Generic)]);
        assert_eq!(pins.other_maps(&root.join("v2-1024")), [root.join("v1-1024")]);
        assert!(Pins::is_of_version(&root.join("v1-1024"), 1));
        assert!(!Pins::is_of_version(&root.join("v1-1024"), 2));
        assert!(!Pins::is_of_version(&root.join("v12-1024"), 1));
    }
}
