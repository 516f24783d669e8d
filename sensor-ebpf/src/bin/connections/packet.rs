//! What the first packet of a connection looks like.

/// Flags of a TCP header, its byte 13.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// `ETH_P_IP`, `ETH_P_IPV6` and so on are elsewhere; this is `IPPROTO_TCP`.
pub const TCP: u8 = 6;

/// Whether it asks for a connection. Late packets of connections that are gone, which servers send to ports of
/// a client, do not.
#[inline(always)]
pub fn asks(flags: u8) -> bool {
    flags & (FIN | SYN | RST | ACK) == SYN
}
