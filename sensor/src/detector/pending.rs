//! What waits for the next report: every failure that a jail counted, whether or not an offence came of it, summed up by
//! jail and address; and the last successful login of each address. Bounded, and what is dropped is counted.

use std::collections::HashMap;
use std::net::IpAddr;

use atalaya_wire::{Login, MAX_REPORT, Name, canonical};
use jiff::{SignedDuration, Timestamp};

/// Failures whose last is older say nothing any more.
const LIFE: SignedDuration = SignedDuration::from_hours(1);

/// What waits for its report: at most [`MAX_REPORT`] entries of each kind.
#[derive(Debug, Default)]
pub struct Pending {
    gathered: Gathered,
    lost: Unreported,
}

/// What was gathered since the last report.
#[derive(Debug, Default)]
pub struct Gathered {
    pub(crate) failures: HashMap<(Name, IpAddr), Tally>,
    pub(crate) logins: HashMap<IpAddr, Login>,
}

/// Failures of one address in one jail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub(crate) count: u32,
    pub(crate) last: Timestamp,
}

/// What the enforcer will never hear, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unreported {
    /// Failures and logins dropped at a bound, or with a report that the enforcer cannot take.
    pub dropped: u64,
    /// Failures that grew older than an hour before the enforcer could be told.
    pub forgotten: u64,
}

// === impl Pending ===

impl Pending {
    /// Adds failures of an address, as seen, in a jail.
    pub fn failures(&mut self, jail: Name, address: IpAddr, count: u32, time: Timestamp) {
        let key = (jail, canonical(address));
        let add = |tally: &mut Tally| {
            tally.count = tally.count.saturating_add(count);
            tally.last = tally.last.max(time);
        };
        let failures = &mut self.gathered.failures;
        if failures.len() < MAX_REPORT {
            failures.entry(key).and_modify(add).or_insert(Tally { count, last: time });
        } else if let Some(tally) = failures.get_mut(&key) {
            add(tally);
        } else {
            self.lost.dropped += u64::from(count);
        }
    }

    /// Notes a successful login; the last one of each address is kept.
    pub fn login(&mut self, address: IpAddr, service: &str, account: &str, time: Timestamp) {
        let address = canonical(address);
        let logins = &mut self.gathered.logins;
        match logins.get(&address) {
            Some(known) if known.time > time => return,
            None if logins.len() >= MAX_REPORT => {
                self.lost.dropped += 1;
                return;
            }
            _ => {}
        }
        let login = Login { address, service: cut(service), account: cut(account), time };
        logins.insert(address, login);
    }

    /// Takes out what was gathered.
    pub fn take(&mut self) -> Gathered {
        std::mem::take(&mut self.gathered)
    }

    /// Forgets failures that are too old; to be called now and then while nobody takes them.
    pub fn sweep(&mut self, now: Timestamp) {
        let lost = &mut self.lost;
        self.gathered.failures.retain(|_, tally| {
            let fresh = is_fresh(tally.last, now);
            lost.forgotten += if fresh { 0 } else { u64::from(tally.count) };
            fresh
        });
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.gathered.failures.len() + self.gathered.logins.len()
    }

    /// Whether there is nothing that the enforcer has to be told.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was lost here.
    pub fn lost(&self) -> Unreported {
        self.lost
    }
}

/// Whether failures of which the last was then still say something.
pub(crate) fn is_fresh(last: Timestamp, now: Timestamp) -> bool {
    now.duration_since(last) <= LIFE
}

/// An attacker's text, cut at [`Login::LONGEST`] bytes; control characters become spaces.
pub(crate) fn cut(text: &str) -> String {
    let mut kept = String::new();
    for character in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if kept.len() + character.len_utf8() > Login::LONGEST {
            break;
        }
        kept.push(character);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn host(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0xC000_0200 + number).into()
    }

    #[test]
    fn of_an_address_only_the_last_login_is_told() {
        let mut pending = Pending::default();
        for (account, second) in [("anna", 1), ("bert", 3), ("carl", 2)] {
            pending.login(host(1), "sshd", account, at(second));
        }
        assert_eq!(pending.gathered.logins[&host(1)].account, "bert");
    }

    #[test]
    fn an_attackers_account_is_cut_and_cleared_of_control_characters() {
        let mut pending = Pending::default();
        pending.login(host(1), "sshd", &"a\u{1b}é".repeat(40), at(0));
        let login = &pending.gathered.logins[&host(1)];
        assert!(login.account.len() <= Login::LONGEST && login.account.starts_with("a éa é"));
    }
}
