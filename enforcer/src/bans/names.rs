//! Looks up the DNS names on the allow list, again and again as their time to live says. What cannot be looked
//! up keeps its last known addresses, and that is said.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Bans;
use super::allow::{Lookups, Resolved};
use crate::clock::Clock;

/// The most addresses of one name that count.
const MOST_ADDRESSES: usize = 256;

/// What one lookup of a name gave.
#[derive(Debug)]
struct LookedUp {
    name: String,
    ipv4: Result<Records, NetError>,
    ipv6: Result<Records, NetError>,
}

/// The addresses of one family; none where the name has none.
#[derive(Debug, Default)]
struct Records {
    addresses: Vec<IpAddr>,
    valid: Option<Instant>,
}

/// What is kept of a name between two lookups.
#[derive(Debug)]
struct CachedName {
    due: Instant,
    ipv4: Vec<IpAddr>,
    ipv6: Vec<IpAddr>,
    trouble: Option<String>,
}

// === impl Lookups ===

impl Lookups {
    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = match self.server {
            None => TokioResolver::builder_tokio()?,
            Some(server) => {
                let mut connection = ConnectionConfig::udp();
                connection.port = server.port();
                let server = NameServerConfig::new(server.ip(), true, vec![connection]);
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        // What is asked again is asked because its time is over.
        builder.options_mut().cache_size = 0;
        builder.build()
    }
}

/// Keeps the addresses of the names that are on the list, and of those that come onto it.
pub async fn keep(bans: Arc<Bans>, lookups: Lookups, clock: Clock) {
    let mut names: HashMap<String, CachedName> = HashMap::new();
    let mut running: JoinSet<LookedUp> = JoinSet::new();
    let mut resolver: Option<TokioResolver> = None;
    loop {
        let wanted = bans.allowed_names();
        names.retain(|name, _| wanted.contains(name));
        let now = Instant::now();
        if resolver.is_none() && !wanted.is_empty() {
            match lookups.resolver() {
                Ok(made) => resolver = Some(made),
                Err(error) => {
                    tracing::warn!(%error, "the system's name servers are not known; the names on the allow list cannot be looked up");
                }
            }
        }
        for name in wanted {
            let kept = names.entry(name.clone()).or_insert_with(|| CachedName::new(now));
            if kept.due > now {
                continue;
            }
            // Until the answer is here, or for what a lookup takes at most.
            kept.due = now + lookups.longest.min(Duration::from_secs(120));
            if let Some(resolver) = resolver.clone() {
                running.spawn(look_up(resolver, name));
            } else {
                kept.due = now + lookups.shortest;
            }
        }
        let next = names.values().map(|kept| kept.due).min();
        tokio::select! {
            Some(Ok(found)) = running.join_next(), if !running.is_empty() => {
                if let Some(kept) = names.get_mut(&found.name) {
                    let name = found.name.clone();
                    let answer = kept.take(found, &lookups);
                    bans.set_answer(&name, answer, clock.now());
                }
            }
            () = tokio::time::sleep_until(next.unwrap_or(now + lookups.longest)) => {}
            () = bans.names_changed() => {}
        }
    }
}

async fn look_up(resolver: TokioResolver, name: String) -> LookedUp {
    // Nothing of the system's search list.
    let full = format!("{}.", name.trim_end_matches('.'));
    let (ipv4, ipv6) =
        tokio::join!(records(&resolver, &full, RecordType::A), records(&resolver, &full, RecordType::AAAA));
    LookedUp { name, ipv4, ipv6 }
}

async fn records(resolver: &TokioResolver, name: &str, kind: RecordType) -> Result<Records, NetError> {
    match resolver.lookup(name, kind).await {
        Ok(lookup) => {
            let addresses = lookup.answers().iter().filter_map(|record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            });
            let mut addresses: Vec<IpAddr> = addresses.take(MOST_ADDRESSES).collect();
            addresses.sort_unstable();
            addresses.dedup();
            Ok(Records { addresses, valid: Some(lookup.valid_until().into()) })
        }
        Err(error) if error.is_no_records_found() || error.is_nx_domain() => Ok(Records::default()),
        Err(error) => Err(error),
    }
}

// === impl CachedName ===

impl CachedName {
    fn new(due: Instant) -> Self {
        Self { due, ipv4: Vec::new(), ipv6: Vec::new(), trouble: None }
    }

    /// Takes over what was found, and keeps what was known where nothing was.
    fn take(&mut self, found: LookedUp, lookups: &Lookups) -> Resolved {
        let now = Instant::now();
        let name = found.name;
        let valid =
            [&found.ipv4, &found.ipv6].into_iter().flatten().filter_map(|records| records.valid).min();
        let wait = valid.map_or(Duration::ZERO, |valid| valid.saturating_duration_since(now));
        let mut trouble = None;
        match (found.ipv4, found.ipv6) {
            (Ok(ipv4), Ok(ipv6)) if ipv4.addresses.is_empty() && ipv6.addresses.is_empty() => {
                trouble = Some("it has no address".to_owned());
            }
            (ipv4, ipv6) => {
                for (records, known) in [(ipv4, &mut self.ipv4), (ipv6, &mut self.ipv6)] {
                    match records {
                        Ok(records) => *known = records.addresses,
                        Err(error) => trouble = Some(error.to_string()),
                    }
                }
            }
        }
        self.due = now
            + if trouble.is_some() {
                lookups.shortest
            } else {
                wait.clamp(lookups.shortest, lookups.longest)
            };
        let addresses: Vec<IpAddr> = self.ipv4.iter().chain(&self.ipv6).copied().collect();
        match (&trouble, &self.trouble) {
            (Some(why), None) if addresses.is_empty() => tracing::warn!(
                name,
                why,
                "a name on the allow list cannot be looked up, and never was: nothing is allowed for it"
            ),
            (Some(why), None) => tracing::warn!(
                name, why, addresses = ?addresses,
                "a name on the allow list cannot be looked up; its last known addresses stay allowed"
            ),
            (None, Some(_)) => {
                tracing::info!(name, ?addresses, "a name on the allow list is looked up again");
            }
            _ => {}
        }
        self.trouble.clone_from(&trouble);
        Resolved { addresses, trouble }
    }
}
