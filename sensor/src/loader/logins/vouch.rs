//! Whether the word of root in a container, or in another mount namespace, on an address counts: only while that
//! address is connected, as the kernel says.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::fs::{Mode, OFlags};

use super::roots::{self, RootKey, Roots};
use crate::channel::messages::Vouch;

/// How much of a table of connections is read, in bytes: some 100,000 connections.
const LONGEST: u64 = 16 << 20;
/// How many descriptors of a container's processes are looked at.
const MOST_DESCRIPTORS: usize = 20_000;
/// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` of `net/tcp_states.h`, as /proc writes them: the peer is there, or was the
/// first to leave.
const LIVE: [&str; 2] = ["01", "08"];

/// Whether a process's word on an address counts: it is this host's, or has a live TCP connection with the
/// address.
pub(super) fn vouch(roots: &Roots, process: u32, address: IpAddr) -> Vouch {
    let Ok(home) = roots.home(process) else { return Vouch::Gone };
    if roots::real_user(process) != Some(0) {
        return Vouch::Gone;
    }
    let Some(key) = home.foreign else { return Vouch::Host };
    let mut sockets = HashSet::new();
    for table in ["tcp", "tcp6"] {
        if let Ok(file) = File::open(format!("/proc/{process}/net/{table}")) {
            sockets.extend(connected(BufReader::new(file.take(LONGEST)), address));
        }
    }
    if sockets.is_empty() {
        return Vouch::Unconnected;
    }
    // A container that shares the host's network sees the connections of the host too: only its own count.
    match shares_network(process) {
        Some(false) => Vouch::Connected,
        Some(true) if has_socket(roots, &key, process, &sockets) => Vouch::Connected,
        Some(true) => Vouch::Unconnected,
        None => Vouch::Gone,
    }
}

/// The sockets' numbers of the live connections with an address, from a table as `proc_net_tcp.rst` has it.
fn connected(table: impl BufRead, address: IpAddr) -> Vec<u64> {
    let lines = table.split(b'\n').map_while(Result::ok).skip(1);
    lines
        .filter_map(|line| {
            let text = std::str::from_utf8(&line).ok()?;
            let mut fields = text.split_ascii_whitespace().skip(2);
            let remote = literal(fields.next()?.split(':').next()?)?;
            let live = LIVE.contains(&fields.next()?);
            // Queues, timer, retransmissions, user and timeout come between state and number.
            let number = fields.nth(5)?.parse().ok()?;
            (live && remote == address).then_some(number)
        })
        .collect()
}

/// An address as the kernel prints it: words of 32 bits in the processor's order.
fn literal(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match hex.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(atalaya_wire::canonical(address))
}

/// Whether a process is in this process's network namespace.
fn shares_network(process: u32) -> Option<bool> {
    let folder =
        rustix::fs::open(format!("/proc/{process}"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let theirs = roots::namespace(&folder, "ns/net").ok()?;
    let ours = roots::namespace(rustix::fs::CWD, "/proc/self/ns/net").ok()?;
    Some(ours == theirs)
}

/// Whether the process, or another of its container, holds one of the sockets.
fn has_socket(roots: &Roots, key: &RootKey, process: u32, sockets: &HashSet<u64>) -> bool {
    let all = std::iter::once(process).chain(roots.processes(key).filter(|other| *other != process));
    let descriptors = all.flat_map(|process| {
        let entries = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        entries.filter_map(|entry| std::fs::read_link(entry.path()).ok())
    });
    descriptors.take(MOST_DESCRIPTORS).any(|link| {
        let number =
            link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        number.is_some_and(|number: u64| sockets.contains(&number))
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn of_this_process(address: &str) -> usize {
        let address = address.parse().unwrap();
        let count = |table: &str| {
            let file = File::open(format!("/proc/self/net/{table}")).unwrap();
            connected(BufReader::new(file), address).len()
        };
        count("tcp") + count("tcp6")
    }

    #[test]
    fn a_connection_counts_while_it_lives() {
        for (listen, peer) in [("127.0.0.1:0", "127.0.0.77"), ("[::1]:0", "::1")] {
            let listener = TcpListener::bind(listen).unwrap();
            let socket = rustix::net::socket(
                if peer.contains(':') {
                    rustix::net::AddressFamily::INET6
                } else {
                    rustix::net::AddressFamily::INET
                },
                rustix::net::SocketType::STREAM,
                None,
            )
            .unwrap();
            let from: std::net::SocketAddr = (peer.parse::<IpAddr>().unwrap(), 0).into();
            rustix::net::bind(&socket, &from).unwrap();
            rustix::net::connect(&socket, &listener.local_addr().unwrap()).unwrap();
            let client = TcpStream::from(socket);
            let (server, _) = listener.accept().unwrap();
            assert!(of_this_process(peer) > 0, "{peer}");
            drop((client, server));
        }
        assert_eq!(of_this_process("127.0.0.77"), 0);
    }

    #[test]
    fn on_the_hosts_network_only_a_containers_own_socket_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", client.as_raw_fd())).unwrap();
        let number = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        let roots = Roots::new().unwrap();
        let this = std::process::id();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let key = roots.home(this).unwrap().foreign.unwrap_or_default();
        let has = |process, number| has_socket(&roots, &key, process, &HashSet::from([number]));
        assert_eq!(shares_network(this), Some(true));
        assert!(has(this, number) && !has(this, u64::MAX) && !has(other.id(), number));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_listening_or_a_half_open_socket_is_no_connection() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 10 1 0 100 0 0 10 0\n\
            \x20  1: 0100007F:0016 070200C0:C350 03 00000000:00000000 00:00000000 00000000     0        0 11 1 0 20 4 30 10 -1\n\
            \x20  2: 0100007F:0016 080200C0:C350 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0 20 4 30 10 -1\n\
            \x20  3: garbage\n";
        assert!(connected(table.as_bytes(), "192.0.2.7".parse().unwrap()).is_empty());
        assert!(connected(table.as_bytes(), "0.0.0.0".parse().unwrap()).is_empty());
        assert_eq!(connected(table.as_bytes(), "192.0.2.8".parse().unwrap()), [12]);
    }
}
