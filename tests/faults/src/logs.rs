//! A sensor's log as a daemon writes it and logrotate rotates it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::claims::ClaimId;
use crate::record::attacker_address;
use crate::schedule::Rotation;

/// How many failures make an offence, as the sensors are set.
pub const MAXRETRY: usize = 3;

/// The log of one host.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    /// What was asked for in each file, the newest first.
    files: Vec<Vec<ClaimId>>,
}

// === impl Log ===

impl Log {
    /// An empty log in a folder.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("mail.log"), "")?;
        Ok(Self { folder, files: vec![Vec::new()] })
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.join("mail.log")
    }

    /// As many failures as make an offence, in one go.
    pub fn fail(&mut self, attacker: u16, jail: &str, now: Timestamp, claim: ClaimId) -> io::Result<()> {
        let address = attacker_address(attacker);
        let line = format!("{now} host VPS-x[{address}] 1-2 RECV - - 535 Error: {jail} failed [u]\n");
        let mut file = File::options().create(true).append(true).open(self.path())?;
        file.write_all(line.repeat(MAXRETRY).as_bytes())?;
        self.files[0].push(claim);
        Ok(())
    }

    /// Rotates it; what was asked for in a file that is deleted.
    pub fn rotate(&mut self, how: Rotation) -> io::Result<Vec<ClaimId>> {
        let archive = |number: usize| self.folder.join(format!("mail.log.{number}"));
        let live = self.path();
        if !live.exists() {
            // The one before still waits for its first line.
            return Ok(Vec::new());
        }
        let mut deleted = Vec::new();
        if how == Rotation::KeepOne {
            for number in 1..self.files.len() {
                remove(&archive(number))?;
            }
            deleted = self.files.drain(1..).flatten().collect();
        }
        for number in (1..self.files.len()).rev() {
            fs::rename(archive(number), archive(number + 1))?;
        }
        if how == Rotation::CopyTruncate {
            fs::copy(&live, archive(1))?;
            File::options().write(true).open(&live)?.set_len(0)?;
        } else {
            fs::rename(&live, archive(1))?;
            if how != Rotation::Later {
                File::create(&live)?;
            }
        }
        self.files.insert(0, Vec::new());
        Ok(deleted)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
