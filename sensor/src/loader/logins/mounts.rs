//! Which file systems answer by themselves, so that the loader never waits for a server that is somebody's.

use std::fs::File;
use std::io::Read as _;

use rustix::fs::{Statx, StatxFlags};

/// Types of file systems, as /proc/filesystems has them, that answer without a network or another process.
const LOCAL: [&str; 14] = [
    "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "rootfs", "squashfs",
    "tmpfs", "xfs", "zfs",
];
/// `STATX_MNT_ID` of linux/stat.h, of Linux 5.8.
pub(super) const NUMBER: StatxFlags = StatxFlags::from_bits_retain(0x1000);
/// The longest table of mounts that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// A mount, and the device of what is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Its number, which no other has at the same time.
    pub id: u64,
    pub device: (u32, u32),
}

// === impl Mount ===

impl Mount {
    /// That of a file, from what statx(2) tells where it is asked for [`NUMBER`].
    pub(super) fn of(stat: &Statx) -> Self {
        Self { id: stat.stx_mnt_id, device: (stat.stx_dev_major, stat.stx_dev_minor) }
    }

    /// Whether it is of a file system that answers by itself. A process that sees the mount is the first to ask.
    pub(super) fn is_local(self, process: u32) -> bool {
        self.kind(process).is_some_and(|kind| LOCAL.contains(&kind.as_str()))
    }

    /// Whether it is an overlay.
    pub(super) fn is_overlay(self, process: u32) -> bool {
        self.kind(process).is_some_and(|kind| kind == "overlay")
    }

    /// The type of its file system. A process's table has only what lies below its root, so that for a chroot in
    /// a folder of this host, which is no mount of its own, the host's is asked: by the mount, and for a chroot in a
    /// mount namespace of its own by the device.
    fn kind(self, process: u32) -> Option<String> {
        let host = || read("/proc/1/mountinfo");
        let own = read(&format!("/proc/{process}/mountinfo"));
        own.and_then(|table| self.kind_in(&table, false))
            .or_else(|| self.kind_in(&host()?, false))
            .or_else(|| self.kind_in(&host()?, true))
    }

    /// The same, from a table as proc(5) has it; of the mount itself, or of another of its device.
    fn kind_in(self, table: &str, by_device: bool) -> Option<String> {
        let (id, device) = (self.id.to_string(), format!("{}:{}", self.device.0, self.device.1));
        let line = table.lines().find(|line| {
            let mut fields = line.split(' ');
            if by_device { fields.nth(2) == Some(&device) } else { fields.next() == Some(&id) }
        })?;
        // After the optional fields a hyphen, then the type.
        let (_, rest) = line.split_once(" - ")?;
        rest.split(' ').next().map(ToOwned::to_owned)
    }
}

fn read(path: &str) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
        27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        40 27 0:34 / /mnt/server rw - fuse.sshfs root@192.0.2.1:/ - ext4 rw\n\
        broken\n";

    #[test]
    fn a_mounts_file_system_is_told_by_its_number_or_by_its_device() {
        let kind = |id, device, by_device| Mount { id, device }.kind_in(TABLE, by_device);
        assert_eq!(kind(27, (0, 0), false).as_deref(), Some("ext4"));
        assert_eq!(kind(40, (254, 0), false).as_deref(), Some("fuse.sshfs"));
        assert_eq!(kind(2, (254, 0), false), None);
        assert_eq!(kind(2, (254, 0), true).as_deref(), Some("ext4"));
        assert_eq!(kind(27, (254, 1), true), None);
    }
}
