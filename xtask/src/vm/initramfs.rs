//! What the virtual machine finds as its file system: the first process, the sensor, a real sshd with its client, and
//! the libraries that they need, from this host; accounts and a PAM service of our own; the kernel's modules.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use atalaya_end_to_end::process::output;

use super::cpio::Archive;
use super::kernel::Unpacked;
use crate::run::programs;

/// This host's programs that run inside.
const PROGRAMS: [&str; 6] = [
    "/usr/sbin/sshd",
    "/usr/bin/ssh",
    "/usr/bin/ssh-keygen",
    "/usr/sbin/ip",
    "/usr/bin/kill",
    "/usr/bin/dash",
];
/// Modules of PAM that the service of sshd below names.
const PAM_MODULES: [&str; 2] = ["pam_unix.so", "pam_permit.so"];
/// The kernel's modules for a pair of interfaces and for eBPF at a queue.
const KERNEL_MODULES: [&str; 3] = ["drivers/net/veth", "net/sched/sch_ingress", "net/sched/cls_bpf"];
/// The folders that a merged /usr has links for.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Accounts, and how sshd asks PAM. Nobody has a password that could be right.
const FILES: [(&str, u32, &str); 6] = [
    (
        "/etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/shadow", 0o600, "root:*:19700:0:99999:7:::\nsshd:!:19700::::::\nnobody:*:19700:0:99999:7:::\n"),
    ("/etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"),
    ("/etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n"),
    (
        "/etc/pam.d/sshd",
        0o644,
        "auth required pam_unix.so\naccount required pam_unix.so\npassword required pam_unix.so\n\
         session required pam_permit.so\n",
    ),
];

/// All but the modules, which are each kernel's own: gathered once for all virtual machines.
pub struct Initramfs {
    common: Archive,
}

// === impl Initramfs ===

impl Initramfs {
    /// Gathers it; the project's programs are those of a cargo profile's folder.
    pub fn gather(profile: &str) -> Result<Self> {
        let mut archive = Archive::default();
        for folder in MERGED {
            archive.link(&Path::new("/").join(folder), &Path::new("usr").join(folder));
        }
        archive.link(Path::new("/var/run"), Path::new("/run"));
        archive.link(Path::new("/usr/bin/sh"), Path::new("dash"));
        for folder in ["/root", "/dev", "/proc", "/sys", "/run", "/tmp", "/var/empty", "/modules"] {
            archive.folder(Path::new(folder));
        }
        for (path, mode, text) in FILES {
            archive.file(Path::new(path), mode, text.into());
        }
        for program in PROGRAMS {
            add_program(&mut archive, Path::new(program), Path::new(program))?;
        }
        let libraries = libraries(Path::new("/usr/sbin/sshd"))?;
        let libpam = libraries.iter().find(|path| path.file_name().is_some_and(|name| name == "libpam.so.0"));
        let security =
            libpam.and_then(|path| path.parent()).context("sshd here does not use PAM")?.join("security");
        for module in PAM_MODULES {
            let path = security.join(module);
            add_program(&mut archive, &path, &path)?;
        }
        for (program, path) in [("atalaya-sensor", "/usr/bin/atalaya-sensor"), ("kernel-init", "/init")] {
            let stripped = strip(&programs(profile).join(program))?;
            add_program(&mut archive, stripped.path(), Path::new(path))?;
        }
        Ok(Self { common: archive })
    }

    /// Writes it with a kernel's modules.
    pub fn write(&mut self, kernel: &Unpacked, path: &Path) -> Result<()> {
        for (number, module) in KERNEL_MODULES.iter().enumerate() {
            let name = module.rsplit('/').next().unwrap_or(module);
            let content =
                kernel.module(module)?.with_context(|| format!("{} has no {module}", kernel.kernel))?;
            // Loaded in this order.
            self.common.file(Path::new(&format!("/modules/{number}-{name}.ko")), 0o644, content);
        }
        let file = fs::File::create(path).with_context(|| path.display().to_string())?;
        self.common.write(&mut BufWriter::new(file)).with_context(|| path.display().to_string())
    }
}

/// Adds a program and the libraries that it needs.
fn add_program(archive: &mut Archive, program: &Path, at: &Path) -> Result<()> {
    add_file(archive, program, at)?;
    for library in libraries(program)? {
        if !archive.holds(&merged(&library)) {
            add_file(archive, &library, &library)?;
        }
    }
    Ok(())
}

fn add_file(archive: &mut Archive, from: &Path, at: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    archive.file(&merged(at), 0o755, content);
    Ok(())
}

/// A path as it is where /usr is merged.
fn merged(path: &Path) -> PathBuf {
    let rest = path.strip_prefix("/").unwrap_or(path);
    if MERGED.iter().any(|folder| rest.starts_with(folder)) {
        Path::new("/usr").join(rest)
    } else {
        path.to_owned()
    }
}

/// The libraries of a program, and its loader, as the loader finds them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(Command::new("ldd").arg(program))?;
    // `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)`, and for the loader only a path.
    let path = |line: &str| {
        let word = line.rsplit_once("=> ").map_or(line.trim(), |(_, path)| path);
        word.starts_with('/').then(|| PathBuf::from(word.split(' ').next().unwrap_or(word)))
    };
    Ok(listed.lines().filter_map(path).collect())
}

/// A program without its debug information, which is most of it.
fn strip(program: &Path) -> Result<tempfile::NamedTempFile> {
    let stripped = tempfile::NamedTempFile::new()?;
    output(Command::new("strip").arg("-o").arg(stripped.path()).arg(program))
        .with_context(|| format!("cannot strip {}", program.display()))?;
    Ok(stripped)
}
