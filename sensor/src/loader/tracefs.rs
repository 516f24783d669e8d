//! Tracefs, through which older kernels attach probes and all tell the layout of tracepoints.

use std::path::Path;

use rustix::mount::MountFlags;

/// Where it is mounted.
pub const TRACEFS: &str = "/sys/kernel/tracing";

/// Mounts it for probes, on kernels without the perf type of uprobes.
pub fn mount_for_probes() {
    if !Path::new("/sys/bus/event_source/devices/uprobe/type").exists() {
        mount();
    }
}

/// Mounts it where it is not; where that fails the log says how.
pub fn mount() {
    if Path::new(TRACEFS).join("events").exists() {
        return;
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match rustix::mount::mount("nodev", TRACEFS, "tracefs", flags, None) {
        Ok(()) => tracing::info!("mounted tracefs on {TRACEFS}"),
        Err(error) => {
            tracing::warn!(%error, "tracefs is not mounted; try: mount -t tracefs nodev {TRACEFS}");
        }
    }
}
