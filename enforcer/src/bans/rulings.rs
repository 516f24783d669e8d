//! What sensors are told of their offences: whether the offender is banned as things stand now.

use std::net::IpAddr;

use atalaya_wire::{Grounds, Left, NumberedRuling, Ruling, canonical};
use ipnet::IpNet;
use jiff::Timestamp;

use super::Bans;
use super::book::Book;
use super::decision::Exemption;

impl Bans {
    /// What stands for each of these offenders, by the number of its offence. Asked once the ledger has the
    /// batch, so that it is the same for an offence that is new and for one that was sent again: an answer that
    /// got lost, or a ban that someone lifted meanwhile, is told as it is.
    pub fn rulings(&self, offenders: &[(u64, IpAddr)], now: Timestamp) -> Vec<NumberedRuling> {
        let book = self.lock();
        let ruling = |(sequence, address): &(u64, IpAddr)| NumberedRuling {
            sequence: *sequence,
            ruling: ruling(&book, canonical(*address), now),
        };
        offenders.iter().map(ruling).collect()
    }
}

fn ruling(book: &Book, address: IpAddr, now: Timestamp) -> Ruling {
    if let Some((net, ms)) = standing(book, address, now) {
        return Ruling::Banned { net, ms };
    }
    let protected = book.reachable.protect.of(address, now).is_some();
    Ruling::Refused(match book.exemption(book.offender(address, now), protected) {
        Exemption::Allowed => Grounds::Allowed,
        Exemption::Protected => Grounds::Protected,
        Exemption::None => Grounds::Over,
    })
}

/// The ban of the unit around an address, or the part of it that the allow list leaves, or else the ban of the address
/// alone; and what is left of it.
fn standing(book: &Book, address: IpAddr, now: Timestamp) -> Option<(IpNet, Left)> {
    let single = IpNet::from(address);
    [book.widen.bans().unit_of(address), single]
        .into_iter()
        .find_map(|net| Some((book.entries.held_as(net, single)?, book.standing(net)?.left(now.into())?)))
}
