//! Connections and packets of attackers in a namespace: real ones that complete a handshake, and forged ones.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::Result;

use crate::namespace::Namespace;
use crate::process::output;

/// Connects from an address to ports of a host, one after another, reads what the server says first where it says
/// anything, and closes. Prints how many connections were made.
const CONNECT: &str = r"
import socket, sys
source, host, first, last, times = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
family = socket.AF_INET6 if ':' in host else socket.AF_INET
made = 0
for port in range(first, last + 1):
    for _ in range(times):
        with socket.socket(family) as client:
            client.settimeout(10)
            client.bind((source, 0))
            try:
                client.connect((host, port))
                client.recv(64)
                made += 1
            except OSError:
                pass
print(made)
";

/// Sends the first packet of a connection from so many forged IPv4 addresses, 11.0.0.0 and on, to each of so many
/// ports. The checksum of TCP is worked out once: what varies is taken off in another field.
const FORGE: &str = r"
import socket, struct, sys
host, first, ports, count = sys.argv[1], *map(int, sys.argv[2:5])
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
to = socket.inet_aton(host)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
base = 11 << 24
for number in range(count):
    address = struct.pack('!I', base + number)
    port = first + number % ports
    head = struct.pack('!HHIIHHHH', 40000, port, 0, 0, 0x5002, 1024, 0, 0)
    pseudo = address + to + struct.pack('!HH', 6, 20)
    head = head[:16] + struct.pack('!H', checksum(pseudo + head)) + head[18:]
    packet = struct.pack('!BBHHHBBH', 0x45, 0, 40, 0, 0, 64, 6, 0) + address + to + head
    raw.sendto(packet, (host, 0))
print(count)
";

/// Connects so many times to each of the ports of this host, from an address of the namespace; how many
/// connections were made.
pub fn connect(namespace: &Namespace, from: &str, ports: RangeInclusive<u16>, times: u32) -> Result<u32> {
    let host = namespace.host_for(from.parse::<IpAddr>()?)?;
    connect_to(namespace, from, host, ports, times)
}

/// As [`connect`], to any address.
pub fn connect_to(
    namespace: &Namespace,
    from: &str,
    host: IpAddr,
    ports: RangeInclusive<u16>,
    times: u32,
) -> Result<u32> {
    let (first, last) = ports.into_inner();
    let mut python = namespace.command("python3");
    python.args(["-c", CONNECT, from, &host.to_string()]);
    python.args([first.to_string(), last.to_string(), times.to_string()]);
    Ok(output(&mut python)?.trim().parse()?)
}

/// Sends the first packet of a connection from so many forged addresses (11.0.0.0 and on) to closed ports of this
/// host, so many ports from the first one on.
pub fn forge(namespace: &Namespace, host: IpAddr, first: u16, ports: u16, count: u32) -> Result<()> {
    let mut python = namespace.command("python3");
    python.args(["-c", FORGE, &host.to_string()]);
    python.args([first.to_string(), ports.to_string(), count.to_string()]);
    output(&mut python).map(drop)
}
