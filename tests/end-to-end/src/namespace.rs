//! A network namespace with a pair of virtual interfaces: attackers of several addresses on one side,
//! this host on the other. Removed when dropped, whatever happened; the kernel takes the pair along.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::output;

/// Removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    interface: String,
    hosts: Vec<IpAddr>,
}

// === impl Namespace ===

impl Namespace {
    /// Makes a namespace that owns the given addresses; this host gets the first address of each of
    /// their networks (/24 for IPv4, /64 for IPv6). Needs root and `ip` (iproute2).
    pub fn new(addresses: &[&str]) -> Result<Self> {
        // Unique by process and by call: tests run beside one another.
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        static LEFT_OVER: std::sync::Once = std::sync::Once::new();
        LEFT_OVER.call_once(remove_left_over);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = format!("{}-{count}", std::process::id());
        let name = format!("atalaya-{id}");
        let (outside, inside) = (format!("at{id}a"), format!("at{id}b"));
        ip(&["netns", "add", &name])
            .context("cannot make a network namespace: that needs root and iproute2")?;
        let mut namespace = Self { name: name.clone(), interface: outside.clone(), hosts: Vec::new() };
        ip(&["link", "add", &outside, "type", "veth", "peer", "name", &inside, "netns", &name])?;
        for address in addresses {
            let address: IpAddr = address.parse()?;
            let (length, host) = match address {
                IpAddr::V4(v4) => {
                    let [a, b, c, _] = v4.octets();
                    (24, IpAddr::from([a, b, c, 1]))
                }
                IpAddr::V6(v6) => {
                    let mut segments = v6.segments();
                    segments[4..].copy_from_slice(&[0, 0, 0, 1]);
                    (64, IpAddr::from(segments))
                }
            };
            // Without duplicate address detection an IPv6 address is usable at once.
            let nodad: &[&str] = if address.is_ipv6() { &["nodad"] } else { &[] };
            ip(&[&["-n", &name, "address", "add", &format!("{address}/{length}"), "dev", &inside], nodad]
                .concat())?;
            if !namespace.hosts.contains(&host) {
                ip(&[&["address", "add", &format!("{host}/{length}"), "dev", &outside], nodad].concat())?;
                namespace.hosts.push(host);
            }
        }
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "set", &inside, "up"])?;
        ip(&["link", "set", &outside, "up"])?;
        Ok(namespace)
    }

    /// This host's interface towards the namespace.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// This host's addresses towards the namespace.
    pub fn hosts(&self) -> &[IpAddr] {
        &self.hosts
    }

    /// This host's address of a family.
    pub fn host_for(&self, address: IpAddr) -> Result<IpAddr> {
        self.hosts
            .iter()
            .find(|host| host.is_ipv4() == address.is_ipv4())
            .copied()
            .with_context(|| format!("the namespace has no network for {address}"))
    }

    /// Lets this host answer a whole network through one of the namespace's addresses: what is sent from it in
    /// forged names is answered there, and nowhere else.
    pub fn route(&self, network: &str, via: &str) -> Result<()> {
        ip(&["route", "add", network, "via", via, "dev", &self.interface]).map(drop)
    }

    /// A command that runs inside with this host's mounts, where [`Self::command`] gives it some of its own.
    pub fn command_with_mounts(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg(program);
        command
    }

    /// A command that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

/// Removes namespaces of tests that were killed: this host would go on sending to them what is meant for another of
/// the same addresses.
fn remove_left_over() {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let id = name.strip_prefix("atalaya-");
        let Some((id, (process, _))) = id.and_then(|id| Some((id, id.split_once('-')?))) else { continue };
        if process.parse::<u32>().is_ok() && !std::path::Path::new("/proc").join(process).exists() {
            // A process that is left in it would keep the pair of interfaces.
            let _ = ip(&["link", "delete", &format!("at{id}a")]);
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("the network namespace {} is left over: {error:#}", self.name);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    output(Command::new("ip").args(arguments))
}
