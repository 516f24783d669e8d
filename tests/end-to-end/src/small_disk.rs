//! A small disk that can be full.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process::output;

/// A file system in memory, which is unmounted with its owner. Needs root.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

// === impl SmallDisk ===

impl SmallDisk {
    /// Mounts one of a size as mount(8) takes it, such as `8m`.
    pub fn mount(at: &Path, size: &str) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let options = format!("size={size},mode=700");
        output(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at))?;
        Ok(Self(at.to_owned()))
    }

    /// Mounts it with other options: `ro`, `rw`, `size=8m`.
    pub fn remount(&self, options: &str) -> Result<()> {
        output(Command::new("mount").arg("-o").arg(format!("remount,{options}")).arg(&self.0)).map(drop)
    }

    /// Writes until nothing more fits.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filling"))?;
        while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
        Ok(())
    }

    /// Makes room again.
    pub fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("filling"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
