//! What a router holds, as far as its worker knows: the mirror of one list of one router, made from
//! bulk prints and from the worker's own acknowledged commands.

use std::collections::HashMap;

use ipnet::IpNet;

use super::address_list::EntryId;
use crate::desired::Moment;
use crate::prefixes::Family;

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Its comment carries our mark.
    Ours,
    /// Someone else's: never changed, never removed.
    Foreign,
    /// An add was refused as a duplicate of it, and no print has shown it yet.
    Unknown,
}

/// An entry on the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// When the router drops it; [`Moment::FOREVER`] for a static entry.
    pub expires: Moment,
    /// Its id, where the router has told it.
    pub id: Option<EntryId>,
    /// Who may change it.
    pub owner: Owner,
    /// By how many seconds `expires` may be wrong beyond rounding: the age of the print that showed it.
    pub slack: u8,
    /// Whether its comment is another than it should have, of before the configuration was changed, say.
    pub stale: bool,
    /// Whether the router refused to change it, so that it has to be replaced; of a disabled one that is not ours,
    /// whether it refused another beside it.
    pub rigid: bool,
    /// Whether it is disabled: it keeps nobody out.
    pub disabled: bool,
}

/// The mirror. Entries are kept until a print or [`Actual::sweep`] finds them gone.
#[derive(Debug, Default)]
pub struct Actual {
    entries: HashMap<IpNet, Tracked>,
    ours: usize,
    /// The number of the print that is running or ran last.
    print: u8,
}

/// A [`Held`] and a byte more, in the same 16 bytes: there may be a million.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    expires: Moment,
    id: Option<EntryId>,
    slack: u8,
    owner: Owner,
    flags: Flags,
    /// The print that last showed the entry.
    print: u8,
}

/// What else is known of an entry, in one byte.
#[derive(Clone, Copy, Debug, Default)]
struct Flags(u8);

// === impl Held ===

impl Held {
    /// An entry of ours as we just made it.
    pub fn ours(expires: Moment, id: Option<EntryId>) -> Self {
        Self { expires, id, owner: Owner::Ours, slack: 0, stale: false, rigid: false, disabled: false }
    }

    /// Whether the router has dropped it by now.
    pub fn lapsed(&self, now: Moment) -> bool {
        self.expires <= now
    }

    /// Whether packets meet it now.
    pub fn works(&self, now: Moment) -> bool {
        !self.lapsed(now) && !self.disabled
    }
}

// === impl Actual ===

impl Actual {
    /// Of a router of which nothing was read.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes an entry that was read or acknowledged.
    ///
    /// A list may have a disabled entry beside another of the same prefix; the other is the one that counts.
    pub fn insert(&mut self, prefix: IpNet, held: Held) {
        let Held { expires, id, owner, slack, stale, rigid, disabled } = held;
        let shown = self.entries.get(&prefix).filter(|row| row.print == self.print);
        if disabled && shown.is_some_and(|row| !row.flags.has(Flags::DISABLED) && row.id != id) {
            return;
        }
        let mut flags = Flags::default();
        let same = self.entries.get(&prefix).filter(|row| id.is_some() && row.id == id).map(|row| row.flags);
        // A router that keeps comments in a form of its own is told once, not for ever.
        let told = same.is_some_and(|flags| flags.has(Flags::TOLD));
        flags.set(Flags::TOLD, told);
        flags.set(Flags::STALE, stale && !told);
        flags.set(Flags::RIGID, rigid || same.is_some_and(|flags| flags.has(Flags::RIGID)));
        flags.set(Flags::DISABLED, disabled);
        let row = Tracked { expires, id, slack, owner, flags, print: self.print };
        let before = self.entries.insert(prefix, row);
        self.ours += usize::from(owner == Owner::Ours);
        self.ours -= usize::from(before.is_some_and(|row| row.owner == Owner::Ours));
    }

    /// Notes that an entry is gone.
    pub fn remove(&mut self, prefix: IpNet) {
        let before = self.entries.remove(&prefix);
        self.ours -= usize::from(before.is_some_and(|row| row.owner == Owner::Ours));
    }

    /// Notes that an entry now expires at another time, and has the comment that it should.
    pub fn renew(&mut self, prefix: IpNet, expires: Moment) {
        if let Some(row) = self.entries.get_mut(&prefix) {
            row.expires = expires;
            row.slack = 0;
            row.flags.set(Flags::STALE, false);
            row.flags.set(Flags::TOLD, true);
        }
    }

    /// Notes that the router refuses to change an entry.
    pub fn is_rigid(&mut self, prefix: IpNet) {
        if let Some(row) = self.entries.get_mut(&prefix) {
            row.flags.set(Flags::RIGID, true);
        }
    }

    /// Begins a print: entries not inserted from here on are candidates for [`Actual::finish_print`].
    pub fn begin_print(&mut self) {
        self.print = self.print.wrapping_add(1);
    }

    /// Drops the family's entries that were not inserted since the print began, but for those to keep.
    pub fn finish_print(&mut self, family: Family, keep: impl Fn(&IpNet) -> bool) {
        let print = self.print;
        self.retain(|prefix, row| {
            let stays = Family::of(*prefix) != family || row.print == print || keep(prefix);
            row.print = print;
            stays
        });
    }

    /// Drops what has lapsed.
    pub fn sweep(&mut self, now: Moment) {
        self.retain(|_, row| row.expires > now);
    }

    /// The entry of exactly this prefix.
    pub fn get(&self, prefix: IpNet) -> Option<Held> {
        self.entries.get(&prefix).map(Tracked::held)
    }

    /// The family's prefixes whose entries are, or may be, ours.
    pub fn perhaps_ours(&self, family: Family) -> Vec<IpNet> {
        self.entries
            .iter()
            .filter(|(prefix, row)| Family::of(**prefix) == family && row.owner != Owner::Foreign)
            .map(|(prefix, _)| *prefix)
            .collect()
    }

    /// How many entries are ours.
    pub fn ours(&self) -> usize {
        self.ours
    }

    /// How many entries are someone else's, or may be.
    pub fn others(&self) -> usize {
        self.entries.len() - self.ours
    }

    fn retain(&mut self, mut stays: impl FnMut(&IpNet, &mut Tracked) -> bool) {
        let mut ours = 0;
        self.entries.retain(|prefix, row| {
            let stays = stays(prefix, row);
            ours += usize::from(stays && row.owner == Owner::Ours);
            stays
        });
        self.ours = ours;
    }
}

// === impl Tracked ===

impl Tracked {
    fn held(&self) -> Held {
        Held {
            expires: self.expires,
            id: self.id,
            owner: self.owner,
            slack: self.slack,
            stale: self.flags.has(Flags::STALE),
            rigid: self.flags.has(Flags::RIGID),
            disabled: self.flags.has(Flags::DISABLED),
        }
    }
}

// === impl Flags ===

impl Flags {
    /// The comment is another than it should be.
    const STALE: u8 = 1;
    /// We set the comment in this session.
    const TOLD: u8 = 2;
    /// The router refused a change.
    const RIGID: u8 = 4;
    /// It is disabled.
    const DISABLED: u8 = 8;

    fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    fn set(&mut self, flag: u8, on: bool) {
        if on { self.0 |= flag } else { self.0 &= !flag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(owner: Owner) -> Held {
        Held { owner, ..Held::ours(Moment::FOREVER, None) }
    }

    #[test]
    fn counts_of_ours_and_others_follow_every_change() {
        let (a, b): (IpNet, IpNet) = ("192.0.2.1/32".parse().unwrap(), "2001:db8::1/128".parse().unwrap());
        let mut actual = Actual::new();
        actual.insert(a, held(Owner::Ours));
        actual.insert(b, held(Owner::Foreign));
        assert_eq!((actual.ours(), actual.others()), (1, 1));
        actual.insert(a, held(Owner::Foreign));
        assert_eq!((actual.ours(), actual.others()), (0, 2));
        actual.insert(a, held(Owner::Ours));
        actual.begin_print();
        actual.finish_print(Family::V4, |_| false);
        assert_eq!((actual.ours(), actual.others()), (0, 1));
        actual.remove(b);
        assert_eq!((actual.ours(), actual.others()), (0, 0));
    }

    #[test]
    fn what_a_print_did_not_show_is_gone_unless_kept() {
        let [seen, kept, gone]: [IpNet; 3] =
            ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"].map(|text| text.parse().unwrap());
        let mut actual = Actual::new();
        for prefix in [seen, kept, gone] {
            actual.insert(prefix, held(Owner::Ours));
        }
        actual.begin_print();
        actual.insert(seen, held(Owner::Ours));
        actual.finish_print(Family::V4, |prefix| *prefix == kept);
        assert!(actual.get(seen).is_some() && actual.get(kept).is_some());
        assert_eq!(actual.get(gone), None);
    }

    #[test]
    fn a_comment_that_the_router_keeps_in_its_own_form_is_set_once() {
        let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
        let stale = Held { stale: true, ..Held::ours(Moment::FOREVER, EntryId::parse("*1")) };
        let mut actual = Actual::new();
        actual.insert(prefix, stale);
        assert!(actual.get(prefix).unwrap().stale);
        actual.renew(prefix, Moment::FOREVER);
        actual.insert(prefix, stale);
        assert!(!actual.get(prefix).unwrap().stale);
        actual.insert(prefix, Held { id: EntryId::parse("*2"), ..stale });
        assert!(actual.get(prefix).unwrap().stale, "another entry was taken for the one we set");
    }

    #[test]
    fn of_a_disabled_entry_and_another_beside_it_the_other_counts_in_either_order() {
        let prefix: IpNet = "192.0.2.1/32".parse().unwrap();
        let disabled = Held { disabled: true, id: EntryId::parse("*1"), ..held(Owner::Foreign) };
        let ours = Held::ours(Moment::FOREVER, EntryId::parse("*2"));
        for order in [[disabled, ours], [ours, disabled]] {
            let mut actual = Actual::new();
            actual.begin_print();
            order.into_iter().for_each(|held| actual.insert(prefix, held));
            assert_eq!(actual.get(prefix), Some(ours));
            actual.begin_print();
            actual.insert(prefix, disabled);
            assert_eq!(actual.get(prefix), Some(disabled), "what an earlier print showed is gone");
        }
    }

    #[test]
    fn an_entry_takes_40_bytes() {
        assert!(size_of::<(IpNet, Tracked)>() <= 40);
    }
}
