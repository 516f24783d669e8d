//! `kernel-init knock`: connects to this host's ports from an address of the network namespace in which it runs. Prints
//! how many connections were made.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::process::output;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

/// The word on the command line.
pub const COMMAND: &str = "knock";
/// How long to wait for an answer that does not come.
const PATIENCE: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

/// Has it done in a namespace: so many connections to each port, from an address to this host.
pub fn from(namespace: &Namespace, from: &str, ports: RangeInclusive<u16>, times: u32) -> Result<u32> {
    let host = namespace.host_for(from.parse()?)?;
    let (first, last) = ports.into_inner();
    let mut knock = namespace.command("/init");
    knock.args([COMMAND, from, &host.to_string()]);
    knock.args([first.to_string(), last.to_string(), times.to_string()]);
    Ok(output(&mut knock)?.trim().parse()?)
}

/// Does it, as the arguments say.
pub fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = || arguments.next().context("expected: knock FROM HOST FIRST-PORT LAST-PORT TIMES");
    let (from, host): (IpAddr, IpAddr) = (next()?.parse()?, next()?.parse()?);
    let (first, last): (u16, u16) = (next()?.parse()?, next()?.parse()?);
    let times: u32 = next()?.parse()?;
    let mut made = 0;
    for port in first..=last {
        for _ in 0..times {
            made += u32::from(is_answered(from, SocketAddr::new(host, port))?);
        }
    }
    println!("{made}");
    Ok(())
}

fn is_answered(from: IpAddr, to: SocketAddr) -> Result<bool> {
    let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(from, 0)).with_context(|| format!("{from} is not here"))?;
    match connect(&socket, &to) {
        Ok(()) => return Ok(true),
        Err(Errno::INPROGRESS) => {}
        Err(Errno::CONNREFUSED) => return Ok(false),
        Err(error) => bail!("cannot connect from {from} to {to}: {error}"),
    }
    let answered = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&PATIENCE))?;
    Ok(answered > 0 && sockopt::socket_error(&socket)?.is_ok())
}
