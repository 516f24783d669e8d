//! The maps of the object `local_drop`, as the worker writes and reads them: bans and allowed networks by
//! their addresses. What is in them is what the kernel does; what should be is decided elsewhere.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use atalaya_sensor_ebpf::local_drop::{
    ALLOW_MAP, BANS_MAP, FAMILY_BITS, FAMILY_V4, FAMILY_V6, FAMILY_V6_NETWORK, KINDS, KINDS_MAP, Kind,
    PREFIXES_MAP, Source, TOTALS_MAP, Total,
};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use ipnet::IpNet;

use super::{DropTotals, Dropped};

/// The maps of the local drop, opened to be written.
pub struct Bans {
    pub(crate) addresses: HashMap<MapData, Source, [u64; 3]>,
    pub(crate) prefixes: LpmTrie<MapData, Source, [u64; 4]>,
    pub(crate) allow: LpmTrie<MapData, Source, u32>,
    pub(crate) kinds: Array<MapData, [u32; KINDS]>,
    pub(crate) totals: PerCpuArray<MapData, u64>,
    /// How many of each [`Kind`] are there.
    pub(crate) counts: [u32; KINDS],
}

// === impl Bans ===

impl Bans {
    /// The maps that are pinned in a folder.
    pub fn pinned(folder: &Path) -> Result<Self, MapError> {
        fn open<T: TryFrom<Map, Error = MapError>>(folder: &Path, name: &str) -> Result<T, MapError> {
            MapData::from_pin(folder.join(name)).and_then(Map::from_map_data).and_then(T::try_from)
        }
        let mut bans = Self {
            addresses: open(folder, BANS_MAP)?,
            prefixes: open(folder, PREFIXES_MAP)?,
            allow: open(folder, ALLOW_MAP)?,
            kinds: open(folder, KINDS_MAP)?,
            totals: open(folder, TOTALS_MAP)?,
            counts: [0; KINDS],
        };
        bans.recount();
        Ok(bans)
    }

    /// Bans a network until a moment of the boot clock, in nanoseconds; one that is banned goes on counting.
    pub fn put(&mut self, network: IpNet, deadline: u64) -> Result<(), MapError> {
        let (kind, source, bits) = place(network);
        let known = self.dropped(network);
        if known.is_none() {
            // First, so that the program looks for what is about to come.
            self.count(kind, 1)?;
        }
        let Dropped { packets, bytes } = known.unwrap_or_default();
        let put = match kind {
            Kind::Prefix => {
                self.prefixes.insert(&Key::new(bits, source), [deadline, packets, bytes, bits.into()], 0)
            }
            _ => self.addresses.insert(source, [deadline, packets, bytes], 0),
        };
        if put.is_err() && known.is_none() {
            self.count(kind, -1)?;
        }
        put
    }

    /// Lifts the ban of a network; it is no error where there is none.
    pub fn remove(&mut self, network: IpNet) -> Result<(), MapError> {
        let (kind, source, bits) = place(network);
        let removed = match kind {
            Kind::Prefix => self.prefixes.remove(&Key::new(bits, source)),
            _ => self.addresses.remove(&source),
        };
        match removed {
            Ok(()) => self.count(kind, -1),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What the ban of this very network did; `None` where it is not banned.
    pub fn dropped(&self, network: IpNet) -> Option<Dropped> {
        let (kind, source, bits) = place(network);
        let [packets, bytes] = match kind {
            Kind::Prefix => {
                let [_, packets, bytes, of] = self.prefixes.get(&Key::new(bits, source), 0).ok()?;
                // The trie answers with a larger network where there is no such one.
                (of == u64::from(bits)).then_some([packets, bytes])?
            }
            _ => {
                let [_, packets, bytes] = self.addresses.get(&source, 0).ok()?;
                [packets, bytes]
            }
        };
        Some(Dropped { packets, bytes })
    }

    /// All bans, each with its deadline. Those that another process adds or removes meanwhile may be missed.
    pub fn all(&self) -> Vec<(IpNet, u64)> {
        let addresses = self.addresses.iter().flatten();
        let addresses =
            addresses.filter_map(|(source, [deadline, ..])| Some((network(&source, None)?, deadline)));
        let prefixes = self.prefixes.iter().flatten();
        let prefixes = prefixes.filter_map(|(key, [deadline, ..])| {
            Some((network(&key.data(), Some(key.prefix_len()))?, deadline))
        });
        addresses.chain(prefixes).collect()
    }

    /// Lets these networks pass, whatever is banned, and no others: what comes is added before what goes is
    /// removed. With `keep` nothing is removed.
    pub fn allow(&mut self, networks: &HashSet<IpNet>, keep: bool) -> Result<(), MapError> {
        let key = |network: &IpNet| {
            let (family, bits) = family(*network);
            Key::new(FAMILY_BITS + bits, words(family, network.network()))
        };
        let there: Vec<_> = self.allow.keys().flatten().collect();
        let there: HashSet<IpNet> =
            there.iter().filter_map(|key| network(&key.data(), Some(key.prefix_len()))).collect();
        let mut outcome = Ok(());
        for network in networks.difference(&there) {
            // One that finds no room must not keep the others out.
            outcome = self.allow.insert(&key(network), 1, 0).and(outcome);
        }
        for network in there.difference(networks).filter(|_| !keep) {
            self.allow.remove(&key(network))?;
        }
        outcome
    }

    /// What all bans did.
    pub fn totals(&self) -> DropTotals {
        let sum = |total: Total| self.totals.get(&(total as u32), 0).map_or(0, |cpus| cpus.iter().sum());
        let dropped = Dropped { packets: sum(Total::Packets), bytes: sum(Total::Bytes) };
        DropTotals { dropped, allowed: sum(Total::Allowed) }
    }

    /// Adds the bans and allowed networks of other maps, as far as there is room; their counters start anew.
    pub fn copy(&mut self, from: &Self) -> Result<(), MapError> {
        for key in from.allow.keys() {
            self.allow.insert(&key?, 1, 0)?;
        }
        from.all().into_iter().try_for_each(|(network, deadline)| self.put(network, deadline))
    }

    fn count(&mut self, kind: Kind, more: i32) -> Result<(), MapError> {
        let count = &mut self.counts[kind as usize];
        *count = count.saturating_add_signed(more);
        self.kinds.set(0, self.counts, 0)
    }

    pub(crate) fn recount(&mut self) {
        let mut counts = [0_u32; KINDS];
        for source in self.addresses.keys().flatten() {
            let kind = match source[0] {
                FAMILY_V4 => Kind::V4,
                FAMILY_V6 => Kind::V6,
                _ => Kind::V6Network,
            };
            counts[kind as usize] += 1;
        }
        counts[Kind::Prefix as usize] = self.prefixes.keys().count() as u32;
        self.counts = counts;
    }
}

/// Whether an error only says that nothing is there.
fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Where a network is kept, under which key, and how many of the key's bits count.
fn place(network: IpNet) -> (Kind, Source, u32) {
    let (family, bits) = family(network);
    let source = words(family, network.network());
    let kind = match (family, bits) {
        (FAMILY_V4, 32) => Kind::V4,
        (FAMILY_V6, 128) => Kind::V6,
        (FAMILY_V6, 64) => return (Kind::V6Network, words(FAMILY_V6_NETWORK, network.network()), 0),
        _ => Kind::Prefix,
    };
    (kind, source, FAMILY_BITS + bits)
}

fn family(network: IpNet) -> (u32, u32) {
    let family = if network.addr().is_ipv4() { FAMILY_V4 } else { FAMILY_V6 };
    (family, network.prefix_len().into())
}

/// The address as it is on the wire.
fn words(family: u32, address: IpAddr) -> Source {
    let mut octets = [0; 16];
    match address {
        IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => octets = address.octets(),
    }
    let mut source = [family, 0, 0, 0, 0];
    for (word, four) in source[1..].iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes([four[0], four[1], four[2], four[3]]);
    }
    source
}

/// The network of a key; `bits` counts those of the family too. `None` for a key that is none of ours.
fn network(source: &Source, bits: Option<u32>) -> Option<IpNet> {
    let mut octets = [0; 16];
    for (four, word) in octets.chunks_exact_mut(4).zip(&source[1..]) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    let address = match source[0] {
        FAMILY_V4 => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
        FAMILY_V6 | FAMILY_V6_NETWORK => IpAddr::from(octets),
        _ => return None,
    };
    let bits = match bits {
        Some(bits) => u8::try_from(bits.checked_sub(FAMILY_BITS)?).ok()?,
        None if source[0] == FAMILY_V6_NETWORK => 64,
        None => IpNet::from(address).prefix_len(),
    };
    IpNet::new(address, bits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_found_again_in_its_key() {
        for (text, kind) in [
            ("192.0.2.1/32", Kind::V4),
            ("2001:db8::1/128", Kind::V6),
            ("2001:db8:0:7::/64", Kind::V6Network),
            ("192.0.2.0/24", Kind::Prefix),
            ("2001:db8::/32", Kind::Prefix),
            ("0.0.0.0/0", Kind::Prefix),
        ] {
            let network: IpNet = text.parse().unwrap();
            let (placed, source, bits) = place(network);
            assert_eq!(placed, kind, "{text}");
            let bits = (kind == Kind::Prefix).then_some(bits);
            assert_eq!(self::network(&source, bits), Some(network));
        }
        assert_eq!(network(&[9, 0, 0, 0, 0], None), None);
        assert_eq!(network(&[FAMILY_V4, 0, 0, 0, 0], Some(31)), None);
    }
}
