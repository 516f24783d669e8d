//! How often the kernel ran a program and for how long, as it counts while `kernel.bpf_stats_enabled` is set
//! (Documentation/admin-guide/sysctl/kernel.rst). Read from what holds the program open: the sensor's loader.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Counting, until it is dropped.
pub struct Statistics {
    before: String,
}

/// What the kernel counted of a program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    /// Time spent in all runs together.
    pub nanoseconds: u64,
    /// How many runs, over all processors.
    pub count: u64,
}

// === impl Statistics ===

impl Statistics {
    /// Lets the kernel count. Needs root.
    pub fn enable() -> Result<Self> {
        let before = fs::read_to_string(SWITCH).context(SWITCH)?;
        fs::write(SWITCH, "1").with_context(|| format!("cannot set {SWITCH}; that needs root"))?;
        Ok(Self { before })
    }

    /// What was counted until now, by the kernel's number of the program.
    #[expect(clippy::unused_self, reason = "nothing is counted unless it is enabled")]
    pub fn of(&self, programs: &[Value]) -> Result<HashMap<u64, Runs>> {
        let wanted: Vec<u64> = programs.iter().filter_map(|program| program["id"].as_u64()).collect();
        let mut found = HashMap::new();
        for process in fs::read_dir("/proc")?.flatten() {
            // Processes and descriptors come and go while this looks.
            let Ok(descriptors) = fs::read_dir(process.path().join("fdinfo")) else { continue };
            for descriptor in descriptors.flatten() {
                let Ok(text) = fs::read_to_string(descriptor.path()) else { continue };
                let number = |key: &str| -> Option<u64> {
                    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
                };
                if let Some(id) = number("prog_id:").filter(|id| wanted.contains(id))
                    && let (Some(nanoseconds), Some(count)) = (number("run_time_ns:"), number("run_cnt:"))
                {
                    found.insert(id, Runs { nanoseconds, count });
                }
            }
        }
        Ok(found)
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, &self.before);
    }
}
