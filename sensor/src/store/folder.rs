//! The state folder itself: whose it is, and who may look into it.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Everybody's rights but the owner's.
const OTHERS: u32 = 0o077;
/// What a sensor puts there.
const OURS: [&str; 9] = [
    "control.sock",
    "control.sock.new",
    "lock",
    "membership.json",
    "membership.json.new",
    "membership.new",
    "sensor.sqlite3",
    "sensor.sqlite3-shm",
    "sensor.sqlite3-wal",
];

/// Makes a state folder that nobody else may look into: it holds lines of root's logs. One that is there is closed to
/// others, unless something is in it that is not the sensor's: then a folder of this name serves others too.
pub fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mode = std::fs::metadata(folder)?.permissions().mode() & 0o777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let foreign = std::fs::read_dir(folder)?.find_map(|entry| {
        let name = entry.ok()?.file_name();
        (!OURS.iter().any(|ours| name == *ours)).then_some(name)
    });
    match foreign {
        None => std::fs::set_permissions(folder, Permissions::from_mode(0o700)),
        Some(name) => {
            tracing::warn!(
                "others can look into the state folder {} (mode {mode:o}), which holds lines of logs; it is left so, because {} is in it: \
                 give the sensor a `state` of its own",
                folder.display(),
                name.display()
            );
            Ok(())
        }
    }
}
