//! Names the container that a process is in, from its control groups and from what engines keep of their
//! containers on this host. Nothing inside a container is believed: a name comes from files of the host's root.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The longest name, in bytes.
const LONGEST: usize = 64;
/// How much of an id people use.
const SHORT: usize = 12;
/// The largest file of an engine's that is read, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;
/// The most entries of a folder that are looked at.
const MOST_ENTRIES: usize = 20_000;

/// What a control group tells of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// Its name, as LXC and systemd-nspawn have it in the control group's path.
    Named(String),
    /// Its id, of 64 hexadecimal digits, and whose it is.
    Numbered(Engine, String),
}

/// What runs containers by ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Docker, whose names are in `/var/lib/docker/containers`.
    Docker,
    /// Podman, whose names are in its storage's `containers.json`.
    Podman,
    /// What runs the pods of Kubernetes.
    Kubernetes,
    /// One whose names are found nowhere: the beginning of the id stands for it.
    Other,
}

// === impl Container ===

impl Container {
    /// The outermost container of a process, from its `/proc/PID/cgroup` (cgroups(7)).
    pub fn of(cgroups: &str) -> Option<Self> {
        cgroups.lines().find_map(|line| Self::of_path(line.splitn(3, ':').nth(2)?))
    }

    fn of_path(path: &str) -> Option<Self> {
        let mut before = "";
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if let Some(container) = Self::of_part(part, before, path) {
                return Some(container);
            }
            before = part;
        }
        None
    }

    fn of_part(part: &str, before: &str, path: &str) -> Option<Self> {
        let named = |name: &str| Some(Self::Named(clean(&unescape(name))));
        if let Some(name) = part.strip_prefix("lxc.payload.") {
            return named(name);
        }
        if matches!(before, "lxc" | "lxc.payload") {
            return named(part);
        }
        if let Some(name) =
            part.strip_prefix("systemd-nspawn@").and_then(|name| name.strip_suffix(".service"))
        {
            return named(name);
        }
        if let Some(name) = part.strip_prefix("machine-").and_then(|name| name.strip_suffix(".scope")) {
            return named(name);
        }
        let unit = part.strip_suffix(".scope").unwrap_or(part);
        let (prefix, id) = unit.rsplit_once('-').unwrap_or(("", unit));
        if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let engine = match (prefix, before) {
            // Watches a container from outside.
            ("libpod-conmon", _) => return None,
            ("docker", _) | ("", "docker") => Engine::Docker,
            ("libpod", _) | ("", "libpod_parent") => Engine::Podman,
            ("cri-containerd" | "crio", _) => Engine::Kubernetes,
            ("", _) if path.contains("kubepods") => Engine::Kubernetes,
            _ => Engine::Other,
        };
        Some(Self::Numbered(engine, id.to_owned()))
    }

    /// The name that people know it by, else the beginning of its id. `root` is the host's root folder.
    pub fn name(&self, root: &Path) -> String {
        let (engine, id) = match self {
            Self::Named(name) => return name.clone(),
            Self::Numbered(engine, id) => (engine, id),
        };
        let known = match engine {
            Engine::Docker => docker_name(root, id),
            Engine::Podman => podman_name(root, id),
            Engine::Kubernetes => pod_name(root, id),
            Engine::Other => None,
        };
        known.unwrap_or_else(|| id[..SHORT].to_owned())
    }
}

fn docker_name(root: &Path, id: &str) -> Option<String> {
    let file = root.join("var/lib/docker/containers").join(id).join("config.v2.json");
    let config: serde_json::Value = serde_json::from_slice(&read(&file)?).ok()?;
    Some(clean(config.get("Name")?.as_str()?.trim_start_matches('/')))
}

fn podman_name(root: &Path, id: &str) -> Option<String> {
    let file = root.join("var/lib/containers/storage/overlay-containers/containers.json");
    let containers: Vec<serde_json::Value> = serde_json::from_slice(&read(&file)?).ok()?;
    let its = containers.iter().find(|container| container.get("id").is_some_and(|its| its == id))?;
    Some(clean(its.get("names")?.get(0)?.as_str()?))
}

/// `NAMESPACE/POD/CONTAINER`, from the name under which the kubelet keeps its log:
/// `POD_NAMESPACE_CONTAINER-ID.log`.
fn pod_name(root: &Path, id: &str) -> Option<String> {
    let logs = std::fs::read_dir(root.join("var/log/containers")).ok()?;
    let end = format!("-{id}.log");
    let names = logs.take(MOST_ENTRIES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name = names.into_iter().find_map(|name| Some(name.strip_suffix(&end)?.to_owned()))?;
    let mut parts = name.split('_');
    let (pod, namespace, container) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!("{}/{}/{}", clean(namespace), clean(pod), clean(container)))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A name that can be shown anywhere: letters, digits and `-_.+@`, and not too long. Of the rest each sign
/// becomes `?`.
pub fn clean(name: &str) -> String {
    let shown = |c: char| if c.is_ascii_alphanumeric() || "-_.+@".contains(c) { c } else { '?' };
    name.chars().take(LONGEST).map(shown).collect()
}

/// Undoes systemd's `\x2d` (systemd-escape(1)).
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(b"\\x")
            .and_then(|hex| hex.get(..2))
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ID: &str = "8c4c4d9d2f0f3a3b4f9f7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f";

    fn numbered(engine: Engine) -> Container {
        Container::Numbered(engine, ID.to_owned())
    }

    #[rstest]
    #[case("0::/system.slice/docker-ID.scope", Engine::Docker)]
    #[case("12:memory:/docker/ID\n11:cpu:/docker/ID", Engine::Docker)]
    #[case("0::/machine.slice/libpod-ID.scope/container", Engine::Podman)]
    #[case("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", Engine::Podman)]
    #[case(
        "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b.slice/cri-containerd-ID.scope",
        Engine::Kubernetes
    )]
    #[case("4:pids:/kubepods/besteffort/pod6f2c/ID", Engine::Kubernetes)]
    #[case("0::/kubepods.slice/kubepods-pod0a.slice/crio-ID.scope", Engine::Kubernetes)]
    #[case("0::/system.slice/nerdctl-ID.scope", Engine::Other)]
    #[case(
        "0::/docker/ID/docker/0000000000000000000000000000000000000000000000000000000000000000",
        Engine::Docker
    )]
    fn ids_of_engines_are_found_in_their_control_groups(#[case] cgroups: &str, #[case] engine: Engine) {
        assert_eq!(Container::of(&cgroups.replace("ID", ID)), Some(numbered(engine)));
    }

    #[rstest]
    #[case("0::/lxc.payload.web-3/system.slice/ssh.service", "web-3")]
    #[case("9:cpu:/lxc/web-3/ns", "web-3")]
    #[case("0::/lxc.payload/web-3", "web-3")]
    #[case("0::/machine.slice/systemd-nspawn@web-3.service/payload/system.slice/ssh.service", "web-3")]
    #[case("0::/machine.slice/machine-web\\x2d3.scope/payload", "web-3")]
    #[case("0::/lxc.payload.a\u{1b}[31m\nb", "a??31m")]
    fn names_in_control_groups_are_shown_clean(#[case] cgroups: &str, #[case] name: &str) {
        let container = Container::of(cgroups).unwrap();
        assert_eq!(container.name(Path::new("/nowhere")), name);
    }

    #[rstest]
    #[case("0::/system.slice/ssh.service")]
    #[case("0::/user.slice/user-0.slice/session-3.scope")]
    #[case("0::/machine.slice/libpod-conmon-ID.scope")]
    #[case("0::/")]
    #[case("")]
    #[case("nonsense")]
    #[case("0::/docker/short")]
    fn what_is_in_no_container_is_in_none(#[case] cgroups: &str) {
        assert_eq!(Container::of(&cgroups.replace("ID", ID)), None);
    }

    #[test]
    fn engines_tell_the_names_of_their_ids_and_a_broken_file_leaves_the_id() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path.replace("ID", ID));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text.replace("ID", ID)).unwrap();
        };
        let name = |engine| numbered(engine).name(root.path());
        assert_eq!(name(Engine::Docker), "8c4c4d9d2f0f");
        write("var/lib/docker/containers/ID/config.v2.json", "{\"ID\":\"ID\",\"Name\":\"/web-3\"}");
        assert_eq!(name(Engine::Docker), "web-3");
        write("var/lib/docker/containers/ID/config.v2.json", "{\"Name\":");
        assert_eq!(name(Engine::Docker), "8c4c4d9d2f0f");
        write(
            "var/lib/containers/storage/overlay-containers/containers.json",
            "[{\"id\":\"0\",\"names\":[\"x\"]},{\"id\":\"ID\",\"names\":[\"we b\\n3\"]}]",
        );
        assert_eq!(name(Engine::Podman), "we?b?3");
        write("var/log/containers/web-3_shop_nginx-ID.log", "");
        assert_eq!(name(Engine::Kubernetes), "shop/web-3/nginx");
    }
}
