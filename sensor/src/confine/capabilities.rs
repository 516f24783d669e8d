//! Capabilities (capabilities(7)): all but the named ones are dropped, also from what a program that is
//! started could get.

use caps::{CapSet, Capability, CapsHashSet};

/// A capability that may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Reads logs of other users.
    DacReadSearch,
    /// Listens on ports below 1024.
    NetBindService,
    /// Loads programs and uses maps.
    Bpf,
    /// Attaches programs to traces and libraries.
    Perfmon,
    /// Attaches programs to interfaces.
    NetAdmin,
    /// Looks at other processes' files and namespaces.
    SysPtrace,
    /// Locks memory for maps, on kernels before 5.11.
    SysResource,
    /// Attaches uprobes to libraries of containers that come: kernels of 2025 ask for it, where PERFMON was
    /// enough before. What else it stands for the list of system calls forbids.
    SysAdmin,
}

/// Drops all others; what is left, in words.
pub fn keep(kept: &[Kept]) -> String {
    let had = caps::read(None, CapSet::Permitted).unwrap_or_default();
    if had.is_empty() {
        return "none, as it was started".to_owned();
    }
    let mut keep: CapsHashSet = kept.iter().map(|kept| kept.capability()).collect();
    // Kernels before 5.8 know neither BPF nor PERFMON: what these stand for is SYS_ADMIN's there.
    if !caps::runtime::thread_all_supported().contains(&Capability::CAP_BPF)
        && kept.iter().any(|kept| matches!(kept, Kept::Bpf | Kept::Perfmon))
    {
        keep.insert(Capability::CAP_SYS_ADMIN);
    }
    let keep: CapsHashSet = keep.intersection(&had).copied().collect();
    let mut trouble = None;
    for capability in caps::runtime::thread_all_supported().difference(&keep) {
        if let Err(error) = caps::drop(None, CapSet::Bounding, *capability) {
            trouble = Some(error);
        }
    }
    // Inheritable, or a program that is started could keep what this process gave up.
    let sets = [
        (CapSet::Ambient, CapsHashSet::new()),
        (CapSet::Inheritable, CapsHashSet::new()),
        (CapSet::Effective, keep.clone()),
        (CapSet::Permitted, keep),
    ];
    for (set, value) in sets {
        if let Err(error) = caps::set(None, set, &value) {
            trouble = Some(error);
        }
    }
    if let Some(error) = trouble {
        tracing::warn!(%error, "not all capabilities could be dropped");
    }
    // What is said is what the kernel says.
    let left = caps::read(None, CapSet::Permitted).unwrap_or(had);
    let mut names: Vec<String> =
        left.iter().map(|capability| capability.to_string().trim_start_matches("CAP_").to_owned()).collect();
    names.sort_unstable();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Whether maps can be read and written through their descriptors by whoever has them: since 5.19, whatever
/// `kernel.unprivileged_bpf_disabled` says.
pub fn maps_need_none() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    version(&release).is_none_or(|version| version >= (5, 19))
}

/// The first two numbers of a kernel's release, such as `6.1.0-40-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

// === impl Kept ===

impl Kept {
    fn capability(self) -> Capability {
        match self {
            Self::DacReadSearch => Capability::CAP_DAC_READ_SEARCH,
            Self::NetBindService => Capability::CAP_NET_BIND_SERVICE,
            Self::Bpf => Capability::CAP_BPF,
            Self::Perfmon => Capability::CAP_PERFMON,
            Self::NetAdmin => Capability::CAP_NET_ADMIN,
            Self::SysPtrace => Capability::CAP_SYS_PTRACE,
            Self::SysResource => Capability::CAP_SYS_RESOURCE,
            Self::SysAdmin => Capability::CAP_SYS_ADMIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("6.1.0-40-cloud-amd64", Some((6, 1)))]
    #[case("5.10.0", Some((5, 10)))]
    #[case("6.18", Some((6, 18)))]
    #[case("next", None)]
    fn a_release_is_read(#[case] release: &str, #[case] expected: Option<(u32, u32)>) {
        assert_eq!(version(release), expected);
    }
}
