//! The archive that the kernel unpacks as its first file system: cpio, format "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs to root, and a path is
//! a file, a folder or a link.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What lies at a path.
enum Node {
    Folder,
    File { mode: u32, content: Vec<u8> },
    Link { to: PathBuf },
}

/// A tree of files, by absolute path.
#[derive(Default)]
pub struct Archive {
    nodes: BTreeMap<PathBuf, Node>,
}

// === impl Archive ===

impl Archive {
    /// Adds a file and the folders above it; what was there before is replaced.
    pub fn file(&mut self, path: &Path, mode: u32, content: Vec<u8>) {
        self.insert(path, Node::File { mode, content });
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &Path, to: &Path) {
        self.insert(path, Node::Link { to: to.to_owned() });
    }

    /// Adds an empty folder.
    pub fn folder(&mut self, path: &Path) {
        if !self.nodes.contains_key(path) {
            self.insert(path, Node::Folder);
        }
    }

    /// Whether something lies there.
    pub fn holds(&self, path: &Path) -> bool {
        self.nodes.contains_key(path)
    }

    fn insert(&mut self, path: &Path, node: Node) {
        if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("/")) {
            self.folder(parent);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Writes it; a folder comes before what is in it, as the kernel needs it.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        const FILE: u32 = 0o100_000;
        const FOLDER: u32 = 0o040_000;
        const LINK: u32 = 0o120_000;
        for (number, (path, node)) in (1..).zip(&self.nodes) {
            let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
            match node {
                Node::Folder => entry(out, number, FOLDER | 0o755, name, b"")?,
                Node::File { mode, content } => entry(out, number, FILE | mode, name, content)?,
                Node::Link { to } => entry(out, number, LINK | 0o777, name, to.as_os_str().as_bytes())?,
            }
        }
        entry(out, 0, 0, b"TRAILER!!!", b"")?;
        out.flush()
    }
}

/// One entry: the header's thirteen numbers as eight hexadecimal digits each, the name with a NUL, the content; name
/// and content are each padded to four bytes.
fn entry(out: &mut impl Write, inode: u32, mode: u32, name: &[u8], content: &[u8]) -> io::Result<()> {
    const HEADER: usize = 110;
    let size = u32::try_from(content.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a file of 4 GiB or more"))?;
    let name_size = name.len() as u32 + 1;
    let links = 1;
    let numbers = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
    let header: String = numbers.iter().map(|number| format!("{number:08x}")).collect();
    write!(out, "070701{header}")?;
    out.write_all(name)?;
    out.write_all(&[0])?;
    pad(out, HEADER + name.len() + 1)?;
    out.write_all(content)?;
    pad(out, content.len())
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_and_folders_come_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.file(Path::new("/etc/a"), 0o600, b"12345".to_vec());
        archive.link(Path::new("/b"), Path::new("there"));
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let headers: Vec<_> = text.match_indices("070701").collect();
        assert_eq!(headers.len(), 4);
        assert!(headers.iter().all(|(at, _)| at % 4 == 0), "{headers:?}");
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("b\0") < at("etc\0") && at("etc\0") < at("etc/a\0"));
        // Mode and size of the file: the second and the seventh number.
        let header = &text[at("etc/a\0") - 110..];
        assert_eq!((&header[14..22], &header[54..62]), ("00008180", "00000005"));
    }
}
