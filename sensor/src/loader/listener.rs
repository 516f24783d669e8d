//! Who listens on a port: the program, and the container that it is in. The kernel programs see connections in
//! softirq, where no process is at hand, so this looks through `/proc`: milliseconds, once an offence.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::container::{Container, clean};
use super::process;
use crate::channel::messages::Listener;

/// The most lines of `/proc/PID/net/tcp` that are read; those of listening sockets come first.
const MOST_LINES: usize = 100_000;
/// The most descriptors that are looked at.
const MOST_DESCRIPTORS: usize = 200_000;

/// Finds who listens on a port in a network namespace, by the namespace's number; zero for the one that this
/// process is in. `None` where nobody does any more.
pub fn find(netns: u32, port: u16) -> Option<Listener> {
    let proc = Path::new("/proc");
    let own = namespace(&proc.join("self"));
    let netns = if netns == 0 { own? } else { netns };
    let mut processes: Vec<u32> = std::fs::read_dir(proc)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|process| namespace(&folder(*process)) == Some(netns))
        .collect();
    // The oldest holds the socket for its children. Where systemd opened it for a service it holds it too:
    // it is asked last.
    processes.sort_by_cached_key(|process| (*process == 1, process::age(*process)));
    let sockets = listening(&folder(*processes.first()?), port);
    let process = holder(&processes, &sockets)?;
    let program = first_line(&folder(process).join("comm"))?;
    let cgroups = read_some(&folder(process).join("cgroup")).unwrap_or_default();
    let container = Container::of(&cgroups).map(|container| container.name(Path::new("/")));
    Some(Listener { process, program: clean(&program), container })
}

/// The inodes of the sockets that listen on a port, as a process sees them.
fn listening(process: &Path, port: u16) -> Vec<u64> {
    let mut sockets = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        let Ok(file) = File::open(process.join(table)) else { continue };
        let lines = BufReader::new(file).lines().take(MOST_LINES).map_while(Result::ok);
        sockets.extend(lines.filter_map(|line| listening_socket(&line, port)));
    }
    sockets
}

/// The inode of a line of `/proc/net/tcp` (`proc_pid_net(5)`), where it is a socket that listens on the port.
fn listening_socket(line: &str, port: u16) -> Option<u64> {
    /// `TCP_LISTEN` of `include/net/tcp_states.h`, as /proc writes it.
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let (_, its_port) = local.rsplit_once(':')?;
    if state != LISTEN || u16::from_str_radix(its_port, 16).ok()? != port {
        return None;
    }
    fields.nth(5)?.parse().ok()
}

/// The first of these processes that holds one of the sockets.
fn holder(processes: &[u32], sockets: &[u64]) -> Option<u32> {
    let mut left = MOST_DESCRIPTORS;
    processes.iter().copied().find(|process| {
        let Ok(descriptors) = std::fs::read_dir(folder(*process).join("fd")) else { return false };
        descriptors.filter_map(Result::ok).any(|descriptor| {
            left = left.saturating_sub(1);
            left > 0 && number(&descriptor.path(), "socket:[").is_some_and(|socket| sockets.contains(&socket))
        })
    })
}

/// The number of a process's network namespace.
fn namespace(process: &Path) -> Option<u32> {
    number(&process.join("ns/net"), "net:[").and_then(|number| u32::try_from(number).ok())
}

/// The number in a link such as `socket:[4711]`.
fn number(link: &Path, prefix: &str) -> Option<u64> {
    let target = std::fs::read_link(link).ok()?;
    target.to_str()?.strip_prefix(prefix)?.strip_suffix(']')?.parse().ok()
}

fn folder(process: u32) -> PathBuf {
    Path::new("/proc").join(process.to_string())
}

fn first_line(path: &Path) -> Option<String> {
    Some(read_some(path)?.lines().next()?.to_owned())
}

fn read_some(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(64 * 1024).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_process_that_listens_is_found_and_none_once_it_stopped() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = namespace(Path::new("/proc/self")).unwrap();
        for netns in [0, own] {
            let found = find(netns, port).unwrap();
            assert_eq!(found.process, std::process::id());
            assert!(!found.program.is_empty());
        }
        assert_eq!(find(own + 1_000_000, port), None);
        drop(listener);
        assert_eq!(find(own, port), None);
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let listens = "   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        assert_eq!(listening_socket(listens, 22), Some(4711));
        assert_eq!(listening_socket(listens, 23), None);
        assert_eq!(listening_socket(&listens.replace(" 0A ", " 01 "), 22), None);
        assert_eq!(listening_socket("  sl  local_address rem_address   st tx_queue", 22), None);
        assert_eq!(listening_socket("", 22), None);
    }
}
