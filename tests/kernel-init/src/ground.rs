//! What a distribution's own first process does and the sensor and sshd rely on: file systems, modules, the
//! loopback.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use atalaya_end_to_end::process::output;
use rustix::mount::{MountFlags, mount};

/// Type, where, and options. No tracefs.
const FILE_SYSTEMS: [(&str, &str, &str); 9] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", "mode=620,ptmxmode=666"),
    ("tmpfs", "/run", "mode=755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("bpf", "/sys/fs/bpf", "mode=700"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("securityfs", "/sys/kernel/security", ""),
];
/// Where the initramfs has the kernel's modules that are needed.
const MODULES: &str = "/modules";

/// Mounts what programs expect, loads the modules of the initramfs, and brings `lo` up.
pub fn lay() -> Result<()> {
    for (kind, target, options) in FILE_SYSTEMS {
        fs::create_dir_all(target).with_context(|| target.to_owned())?;
        let options = std::ffi::CString::new(options)?;
        mount(kind, target, kind, MountFlags::NOSUID, options.as_c_str())
            .with_context(|| format!("cannot mount {kind} on {target}"))?;
    }
    fs::create_dir_all("/run/lock")?;
    let mut modules: Vec<_> = fs::read_dir(MODULES)?.collect::<Result<_, _>>()?;
    modules.sort_by_key(fs::DirEntry::file_name);
    for module in modules {
        let file = fs::File::open(module.path())?;
        rustix::system::finit_module(&file, c"", 0)
            .with_context(|| format!("the kernel refuses the module {}", module.path().display()))?;
    }
    output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    Ok(())
}

/// The kernel, as `uname -r` shows it.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The kernel's lockdown, of `none [integrity] confidentiality` the one in brackets.
pub fn lockdown() -> Result<String> {
    let path = Path::new("/sys/kernel/security/lockdown");
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let chosen = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    Ok(chosen.with_context(|| format!("{} says {text:?}", path.display()))?.to_owned())
}
