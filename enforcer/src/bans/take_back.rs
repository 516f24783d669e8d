//! Sensors' bans taken back: by the sensor, one by one, and by an administrator, all of a sensor's at once. Bans that
//! others asked for too stand on for these.

use atalaya_wire::Name;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;

use super::book::Book;
use super::claims::Remainder;
use super::{Bans, TOGETHER};
use crate::ledger::{Change, Claim, Receipt};

/// What came of a sensor's unban.
#[derive(Debug)]
pub enum TakenBack {
    /// The ban is lifted.
    Lifted(Receipt),
    /// It stands, because others asked for it too.
    Stands(Receipt),
}

/// What came of taking back all that a sensor asked for.
#[derive(Debug)]
pub struct TakenBackAll {
    /// Bans that were lifted.
    pub lifted: usize,
    /// Bans that stand, because others asked for them too.
    pub stand: usize,
    /// Tells when it is on disk.
    pub receipt: Receipt,
}

// === impl Bans ===

impl Bans {
    /// How many bans a sensor may still ask for, of so many that may stand for it.
    pub fn room_for(&self, sensor: &Name, most: usize) -> usize {
        most.saturating_sub(self.lock().claims.of(sensor))
    }

    /// Takes back what a sensor asked for, by one jail or by all; `None` where it asked for no ban of the prefix that
    /// stands.
    pub fn take_back(
        &self,
        prefix: IpNet,
        sensor: &Name,
        jail: Option<&Name>,
        at: Timestamp,
    ) -> Option<TakenBack> {
        let prefix = self.clients(prefix);
        let mut book = self.lock();
        let banned = book.banned_as(prefix)?;
        let by = format!("sensor {sensor}");
        match left_by(&mut book, banned, sensor, jail) {
            Remainder::NotTheirs => None,
            Remainder::Nothing => self.unban_in(&mut book, banned, &by, at).map(TakenBack::Lifted),
            Remainder::Others(origin, until) => {
                let left = Claim { prefix: banned, origin, until };
                book.hand_over(&left, at);
                let (sensor, jail) = (sensor.clone(), jail.cloned());
                let change = Change::TakeBack { left: Box::new(left), sensor, jail };
                Some(TakenBack::Stands(self.ledger.write_surely(vec![change])))
            }
        }
    }

    /// Takes back all that a sensor asked for. What it asks for meanwhile may stay.
    pub fn take_back_all(&self, sensor: &Name, by: &str, at: Timestamp) -> TakenBackAll {
        let everything = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let all: Vec<IpNet> = {
            let book = self.lock();
            everything.into_iter().flat_map(|network| book.widen.bans().touching(network)).collect()
        };
        let (mut lifted, mut stand) = (0, 0);
        let mut receipt = self.ledger.write_surely(Vec::new());
        // So that no decision waits for long.
        for together in all.chunks(TOGETHER) {
            let mut book = self.lock();
            let mut changes = Vec::new();
            for prefix in together {
                match left_by(&mut book, *prefix, sensor, None) {
                    Remainder::NotTheirs => {}
                    Remainder::Nothing => {
                        book.lift(*prefix, at);
                        changes.push(Change::End { prefix: *prefix, at, by: by.to_owned() });
                        lifted += 1;
                    }
                    Remainder::Others(origin, until) => {
                        let left = Claim { prefix: *prefix, origin, until };
                        book.hand_over(&left, at);
                        let sensor = sensor.clone();
                        changes.push(Change::TakeBack { left: Box::new(left), sensor, jail: None });
                        stand += 1;
                    }
                }
            }
            if !changes.is_empty() {
                // The ledger writes in the order of these calls, so that the last receipt tells of all.
                receipt = self.ledger.write_surely(changes);
            }
        }
        TakenBackAll { lifted, stand, receipt }
    }
}

fn left_by(book: &mut Book, prefix: IpNet, sensor: &Name, jail: Option<&Name>) -> Remainder {
    match book.owner(prefix) {
        Some((owner, _)) => book.claims.take_back(prefix, &owner, sensor, jail),
        None => Remainder::NotTheirs,
    }
}
