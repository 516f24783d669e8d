//! The state folder: made for this user alone, and held while something new is made in it, because
//! `run` and `enrol` may be started at once on a fresh host.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use atalaya_program::disk;

/// Makes the folder where it is missing, and holds it until the returned file is dropped. Waits for
/// another program that holds it.
pub fn hold(folder: &Path) -> io::Result<File> {
    disk::make_private_folder(folder)?;
    let folder = File::open(folder)?;
    folder.lock()?;
    Ok(folder)
}

/// Sees to it that nobody but their owner reads what is in the state folder: also files of releases that left that to the
/// umask, and those that were set aside.
pub fn close_files(folder: &Path) -> io::Result<()> {
    const OURS: [&str; 5] = ["certificate.pem", "key.pem", "ledger.sqlite3", "lock", "sensors.sqlite3"];
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if OURS.iter().any(|ours| name.as_bytes().starts_with(ours.as_bytes())) {
            disk::close_to_others(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::enrolment;
    use crate::tls::Identity;

    #[test]
    fn programs_that_start_at_once_on_a_fresh_host_make_one_certificate_and_one_roll_of_sensors() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state");
        let fingerprints: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                enrolment::sensors(&folder).unwrap();
                Identity::load_or_make(&folder, || true).unwrap().fingerprint()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(fingerprints.iter().all(|fingerprint| *fingerprint == fingerprints[0]));
    }
}
