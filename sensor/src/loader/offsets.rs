//! The offsets that the programs of the object `connections` need of this kernel, each program's by itself:
//! what is missing keeps that program from running, and no other.

use super::layout::{Layout, LayoutError};
use super::object::Refusal;
use super::tracepoint::{TracepointFormat, TracepointFormatError};

/// Values of the object's globals, and for each group why it lacks.
pub struct Offsets {
    values: Vec<(&'static str, u32)>,
    lent: Result<(), Refusal>,
    recorded: Result<(), Refusal>,
    packet: Result<(), Refusal>,
    resets: Result<(), Refusal>,
    drops: Result<(), Refusal>,
    silent: bool,
}

/// Values of a group.
type Values = Vec<(&'static str, u32)>;

// === impl Offsets ===

impl Offsets {
    /// Looks all of them up.
    pub fn read() -> Self {
        let layout = Layout::read().map_err(|error| Refusal::because(error.to_string()));
        let mut values = Values::new();
        let mut keep = |group: Result<Values, Refusal>| group.map(|found| values.extend(found));
        let by_layout = |of: fn(&Layout) -> Result<Values, LayoutError>| {
            let layout = layout.as_ref().map_err(Clone::clone)?;
            of(layout).map_err(|error| Refusal::because(error.to_string()))
        };
        let by_record = |found: Result<Values, TracepointFormatError>| {
            found.map_err(|error| Refusal::because(error.to_string()))
        };
        let lent = keep(by_layout(lent));
        let recorded = keep(by_record(recorded()));
        let packet = keep(by_layout(packet));
        let resets = resets();
        // There it is as if the tracepoint were not: nothing is refused.
        let silent = matches!(resets, Ok(None));
        let resets = keep(resets.map(Option::unwrap_or_default));
        let no_socket = keep(by_layout(no_socket));
        let drops = keep(by_record(drops())).and(no_socket);
        Self { values, lent, recorded, packet, resets, drops, silent }
    }

    /// The globals of the object and their values, those of refused hooks left out.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, &u32)> {
        self.values.iter().map(|(name, value)| (*name, value))
    }

    /// Whether a socket can be read by type information.
    pub fn lent(&self) -> Result<(), Refusal> {
        self.lent.clone()
    }

    /// Whether the record of `sock:inet_sock_set_state` can be read.
    pub fn recorded(&self) -> Result<(), Refusal> {
        self.recorded.clone()
    }

    /// Whether `tcp:tcp_send_reset` is there and does not tell of closed ports, as before Linux 6.10.
    pub fn resets_are_silent(&self) -> bool {
        self.silent
    }

    /// Whether the record of `tcp:tcp_send_reset` can be read.
    pub fn resets(&self) -> Result<(), Refusal> {
        self.packet.clone().and_then(|()| self.resets.clone())
    }

    /// Whether that of `skb:kfree_skb` can, and says why.
    pub fn drops(&self) -> Result<(), Refusal> {
        self.packet.clone().and_then(|()| self.drops.clone())
    }
}

fn lent(layout: &Layout) -> Result<Values, LayoutError> {
    Ok(vec![
        ("SK_PROTOCOL", layout.offset("sock", "sk_protocol")?),
        ("SK_FAMILY", layout.offset("sock", "__sk_common.skc_family")?),
        ("SK_PORT", layout.offset("sock", "__sk_common.skc_num")?),
        ("SK_REMOTE4", layout.offset("sock", "__sk_common.skc_daddr")?),
        ("SK_REMOTE6", layout.offset("sock", "__sk_common.skc_v6_daddr")?),
        ("SK_NET", layout.offset("sock", "__sk_common.skc_net")?),
        ("NET_NUMBER", layout.offset("net", "ns.inum")?),
    ])
}

fn recorded() -> Result<Values, TracepointFormatError> {
    let record = TracepointFormat::read("sock/inet_sock_set_state")?;
    Ok(vec![
        ("TP_SOCKET", record.offset("skaddr", 8)?),
        ("TP_OLD", record.offset("oldstate", 4)?),
        ("TP_NEW", record.offset("newstate", 4)?),
        ("TP_PORT", record.offset("sport", 2)?),
        ("TP_FAMILY", record.offset("family", 2)?),
        ("TP_PROTOCOL", record.offset("protocol", 2)?),
        ("TP_REMOTE4", record.offset("daddr", 4)?),
        ("TP_REMOTE6", record.offset("daddr_v6", 16)?),
    ])
}

fn packet(layout: &Layout) -> Result<Values, LayoutError> {
    Ok(vec![
        ("PACKET_HEAD", layout.offset("sk_buff", "head")?),
        ("PACKET_NETWORK", layout.offset("sk_buff", "network_header")?),
        ("PACKET_TRANSPORT", layout.offset("sk_buff", "transport_header")?),
    ])
}

/// Nothing where the kernel does not tell of packets that have no socket: it says why since it does.
fn resets() -> Result<Option<Values>, Refusal> {
    let refusal = |error: TracepointFormatError| Refusal::because(error.to_string());
    let record = TracepointFormat::read("tcp/tcp_send_reset").map_err(refusal)?;
    if !record.has("reason") {
        return Ok(None);
    }
    let offset = |field| record.offset(field, 8).map_err(refusal);
    Ok(Some(vec![("RESET_PACKET", offset("skbaddr")?), ("RESET_SOCKET", offset("skaddr")?)]))
}

fn drops() -> Result<Values, TracepointFormatError> {
    let record = TracepointFormat::read("skb/kfree_skb")?;
    Ok(vec![("DROP_PACKET", record.offset("skbaddr", 8)?), ("DROP_REASON", record.offset("reason", 4)?)])
}

fn no_socket(layout: &Layout) -> Result<Values, LayoutError> {
    Ok(vec![("NO_SOCKET", layout.enumerator("skb_drop_reason", "SKB_DROP_REASON_NO_SOCKET")?)])
}
