//! What administrators do by hand, over the commands' socket: bans and unbans.

use atalaya_wire::{BanTime, Evidence};
use ipnet::IpNet;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Bans;
use super::allow::{AllowReason, AllowedBecause};
use super::book::{Book, NewBan};
use super::decision::{self, Decision};
use super::protect;
use crate::clock::in_zone;
use crate::desired::{Moment, Origin};
use crate::ledger::{BY_HAND, Change, GoodLogin, Receipt};
use crate::prefixes::written;

/// Why something cannot be done by hand.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    /// The address is allowed, or one of the network.
    #[error("{} is not banned: {because}, and that is never banned{}", written(*prefix), what_to_do(because))]
    Allowed {
        /// What was to be banned.
        prefix: IpNet,
        /// Why not.
        because: Box<AllowedBecause>,
    },
    /// The address is protected.
    #[error(
        "{} logged in successfully at {} ({} as {} on {}): banning {} could lock someone out; add --force to ban it all the same",
        login.address, in_zone(login.last, &TimeZone::system()), login.service, login.account, login.sensor, written(*prefix)
    )]
    Protected {
        /// What was to be banned.
        prefix: IpNet,
        /// Whom it would lock out.
        login: Box<GoodLogin>,
    },
    /// Nobody outside has such an address: it is someone of one's own, or a router that masquerades.
    #[error(
        "{} holds private addresses, which nobody outside has: it is a host of your own, or a router that hides others behind its address, and with it you ban all of these; add --force to ban it all the same",
        written(*.0)
    )]
    Private(IpNet),
    /// Hosts behind a NAT64 are in it, which is everyone with IPv4.
    #[error(
        "{0} holds a prefix of a NAT64, behind which is everyone who has IPv4: ban the IPv4 address or network instead"
    )]
    Everyone(IpNet),
    /// The ban would end where it begins.
    #[error("a ban needs at least one second, such as --for 30m")]
    NoTime,
}

/// What came of a ban by hand.
#[derive(Debug)]
pub struct ByHand {
    /// Whether anything changed; if not, a ban stands that ends no sooner.
    pub changed: bool,
    /// When the ban ends; `None` for a permanent one.
    pub until: Option<Timestamp>,
    /// Tells when it is on disk.
    pub receipt: Receipt,
}

/// What takes something off the allow list, where a person can.
fn what_to_do(because: &AllowedBecause) -> String {
    let what = because.entry.as_ref().map_or_else(|| written(because.network), |entry| entry.what.clone());
    match because.reason {
        AllowReason::RunTime => format!("; `atalaya-enforcer allow --remove {what}` takes it off the list"),
        AllowReason::Configured => "; change `allow` there first".to_owned(),
        _ => String::new(),
    }
}

// === impl Bans ===

impl Bans {
    /// Bans by hand, from now; as for offences, a ban that stands can only become longer. Who is protected by a
    /// successful login, and what is private, is banned by force only.
    pub fn ban(
        &self,
        prefix: IpNet,
        bantime: BanTime,
        reason: &str,
        force: bool,
        now: Timestamp,
    ) -> Result<ByHand, HandError> {
        let prefix = self.clients(prefix);
        if self.rules().nat64.touches(prefix) && prefix.prefix_len() < prefix.max_prefix_len() {
            return Err(HandError::Everyone(prefix));
        }
        let mut book = self.lock();
        let before = book.standing(prefix);
        let is_private = !force && before.is_none() && protect::private().overlaps(prefix);
        let login = book.reachable.protect.within(prefix, now).filter(|_| !force).cloned();
        let exemption = book.exemption(prefix, login.is_some());
        let (until, new) = match decision::decide(now, bantime, before, exemption, now) {
            Decision::Allowed => {
                let because = book.allow.because(prefix, &self.rules().nat64).map(Box::new);
                return Err(because
                    .map_or(HandError::Everyone(prefix), |because| HandError::Allowed { prefix, because }));
            }
            Decision::Protected => {
                return Err(login.map_or(HandError::NoTime, |login| HandError::Protected {
                    prefix,
                    login: Box::new(login),
                }));
            }
            Decision::Over => return Err(HandError::NoTime),
            Decision::Banned(_) if is_private => return Err(HandError::Private(prefix)),
            Decision::AlreadyBanned => {
                let until = before.and_then(Moment::timestamp);
                // It stands on for this where the sensor that asked for it takes that back.
                let claims = book.join(prefix, &Origin::Hand, bantime.end(now).into());
                let receipt = self.ledger.write_surely(claims);
                return Ok(ByHand { changed: false, until, receipt });
            }
            Decision::Extended(until) => (until, false),
            Decision::Banned(until) => (until, true),
        };
        let evidence = if reason.is_empty() { Vec::new() } else { vec![Evidence::new(now, BY_HAND, reason)] };
        let ban = NewBan { prefix, since: now, until, origin: Origin::Hand, evidence };
        let receipt = self.ledger.write_surely(book.set(ban, new, before, now));
        if before.is_none() {
            self.counters.count_by_hand();
        }
        Ok(ByHand { changed: true, until: until.timestamp(), receipt })
    }

    /// Makes an address or a network reachable; `None` where nothing keeps it out.
    ///
    /// Whoever asks means "this address works again", but three different things can keep it out, and there may be more
    /// than one of them at once:
    /// - a ban of exactly this prefix: it is lifted;
    /// - for an IPv6 address without a ban of its own, the ban of the unit (a /64, say) around it: that is lifted, for the
    ///   unit is one offender;
    /// - a widened network, an entry that no ban in the ledger stands for: it is let go, and its other offenders get
    ///   their single entries back before the network's is removed.
    ///
    /// Without the last, an unban would change the ledger and nothing on the router. And without [`EXEMPT`](super::EXEMPT),
    /// the hour in which no network is widened over what was unbanned, the next offender of the same network would bring it
    /// back. A network that was banned as such is not touched: it has a ban of its own, which is to be lifted by its own
    /// name.
    ///
    /// For example, 40 addresses of 192.0.2.0/24 are banned, so that routers hold the /24. `unban 192.0.2.7` ends the ban of
    /// 192.0.2.7, sets the other 39 singly, and removes the /24 last. `unban 192.0.2.200`, which has no ban, does the same
    /// with all 40.
    pub fn unban(&self, prefix: IpNet, by: &str, at: Timestamp) -> Option<Receipt> {
        self.unban_in(&mut self.lock(), self.clients(prefix), by, at)
    }

    /// As [`Self::unban`], of who holds the lock.
    pub(super) fn unban_in(
        &self,
        book: &mut Book,
        prefix: IpNet,
        by: &str,
        at: Timestamp,
    ) -> Option<Receipt> {
        let banned = book.banned_as(prefix);
        let network = book.widen.wide_around(prefix);
        if banned.is_none() && network.is_none() {
            return None;
        }
        // First, so that no step below widens over it again. Only so many are remembered: what is forgotten for this one
        // may be covered again, and is weighed last.
        let forgotten = book.reachable.exempt(banned.unwrap_or(prefix), at);
        let mut changes = Vec::new();
        if let Some(prefix) = banned {
            book.lift(prefix, at);
            changes.push(Change::End { prefix, at, by: by.to_owned() });
        }
        let receipt = self.ledger.write_surely(changes);
        if let Some(network) = network {
            book.review(prefix, at);
            tracing::info!(%prefix, %network, "a widened network is let go for what was unbanned in it");
        }
        if let Some(forgotten) = forgotten {
            book.review(forgotten, at);
        }
        Some(receipt)
    }
}
