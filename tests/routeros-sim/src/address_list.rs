//! One family's address-list table: what `add`, `set`, `remove` and `print` do to and read from it.
//!
//! Time comes in as an argument and entries lapse only in [`Table::lapse`]; costs, permissions and
//! replies are not its business.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::address::{Address, AddressError, Family};
use crate::query::boolean;
use crate::timeout::{MAX_TIMEOUT, Timeout};

/// The properties of an entry in the order in which RouterOS prints them.
pub(crate) const PROPERTIES: [&[u8]; 8] =
    [b".id", b"list", b"address", b"creation-time", b"timeout", b"dynamic", b"disabled", b"comment"];

/// The most bytes of list names and comments that one table holds.
const MAX_TEXT: usize = 512 * 1024 * 1024;

/// How long an entry of timeout zero stays. Nobody measured it; long enough to be seen as `0s`.
const ZERO_STAYS: SignedDuration = SignedDuration::from_millis(999);

/// An entry as the table keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) address: Address,
    pub(crate) list: Box<[u8]>,
    pub(crate) comment: Box<[u8]>,
    pub(crate) disabled: bool,
    pub(crate) dynamic: bool,
    pub(crate) created: Timestamp,
    pub(crate) expires: Option<Timestamp>,
}

/// What an `add` or `set` gives; what is `None` was not given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields<'a> {
    pub(crate) list: Option<&'a [u8]>,
    pub(crate) address: Option<&'a [u8]>,
    pub(crate) timeout: Option<&'a [u8]>,
    pub(crate) comment: Option<&'a [u8]>,
    pub(crate) disabled: Option<&'a [u8]>,
    pub(crate) dynamic: Option<&'a [u8]>,
}

/// Why the table refuses; the text is what RouterOS says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ListError {
    #[error("failure: already have such entry")]
    Duplicate,
    #[error("no such item")]
    NoSuchItem,
    #[error("missing =.id=")]
    MissingId,
    #[error("missing value(s) of argument(s) {0}")]
    Missing(&'static str),
    #[error("unknown parameter")]
    UnknownParameter,
    #[error("{0}")]
    Address(#[from] AddressError),
    #[error("invalid time value for argument timeout")]
    TimeoutForm,
    #[error("value of timeout is out of range (00:00:00 .. 35w3d13:13:56)")]
    TimeoutRange,
    #[error("input does not match any value of {0}")]
    Boolean(&'static str),
    #[error("failure: table is full")]
    Full,
}

impl ListError {
    /// The trap category, where the facts give one.
    pub(crate) fn category(&self) -> Option<u8> {
        match self {
            Self::Duplicate | Self::Full | Self::Address(_) => None,
            Self::NoSuchItem | Self::MissingId | Self::Missing(_) | Self::UnknownParameter => Some(0),
            Self::TimeoutForm | Self::TimeoutRange | Self::Boolean(_) => Some(1),
        }
    }
}

/// The table of one family.
#[derive(Debug)]
pub(crate) struct Table {
    family: Family,
    records: BTreeMap<u64, Record>,
    index: HashMap<(Box<[u8]>, Address), u64>,
    lapses: BTreeSet<(Timestamp, u64)>,
    last_id: u64,
    /// Whether an add is taken beside a disabled entry of the same address. Which RouterOS does is not known.
    pub(crate) beside_disabled: bool,
    text: usize,
    capacity: usize,
}

impl<'a> Fields<'a> {
    /// Takes the attributes of a command; `skip` names those that are not properties.
    pub(crate) fn from_attributes(
        attributes: &[(&'a [u8], &'a [u8])],
        skip: &[&[u8]],
    ) -> Result<Self, ListError> {
        let mut fields = Self::default();
        for &(name, value) in attributes {
            let field = match name {
                b"list" => &mut fields.list,
                b"address" => &mut fields.address,
                b"timeout" => &mut fields.timeout,
                b"comment" => &mut fields.comment,
                b"disabled" => &mut fields.disabled,
                b"dynamic" => &mut fields.dynamic,
                _ if skip.contains(&name) => continue,
                _ => return Err(ListError::UnknownParameter),
            };
            *field = Some(value);
        }
        Ok(fields)
    }
}

impl Table {
    pub(crate) fn new(family: Family, capacity: usize) -> Self {
        Self {
            family,
            records: BTreeMap::new(),
            index: HashMap::new(),
            lapses: BTreeSet::new(),
            last_id: 0,
            beside_disabled: false,
            text: 0,
            capacity,
        }
    }

    /// Adds an entry and returns its id.
    pub(crate) fn add(&mut self, fields: Fields<'_>, now: Timestamp) -> Result<u64, ListError> {
        let list = fields.list.filter(|list| !list.is_empty()).ok_or(ListError::Missing("list"))?;
        let address = fields.address.ok_or(ListError::Missing("address"))?;
        let address = Address::parse(self.family, address)?;
        let timeout = fields.timeout.map(|text| self.timeout(text)).transpose()?;
        let disabled = flag("disabled", fields.disabled)?.unwrap_or(false);
        let dynamic = flag("dynamic", fields.dynamic)?.unwrap_or(false) || timeout.is_some();
        let comment = fields.comment.unwrap_or_default();

        if self.records.len() >= self.capacity || self.text + list.len() + comment.len() > MAX_TEXT {
            return Err(ListError::Full);
        }
        let key = (Box::from(list), address.clone());
        if self.bars(&key, None, disabled) {
            return Err(ListError::Duplicate);
        }
        self.last_id += 1;
        let id = self.last_id;
        self.insert(
            id,
            Record {
                address,
                list: list.into(),
                comment: comment.into(),
                disabled,
                dynamic,
                created: now,
                expires: timeout.map(|timeout| expiry(now, timeout)),
            },
        );
        Ok(id)
    }

    /// Changes an entry. A timeout starts anew and makes a static entry dynamic; whether RouterOS
    /// agrees on static ones is unverified.
    pub(crate) fn set(&mut self, id: u64, fields: Fields<'_>, now: Timestamp) -> Result<(), ListError> {
        let mut record = self.records.get(&id).ok_or(ListError::NoSuchItem)?.clone();
        if let Some(list) = fields.list {
            record.list =
                Some(list).filter(|list| !list.is_empty()).ok_or(ListError::Missing("list"))?.into();
        }
        if let Some(address) = fields.address {
            record.address = Address::parse(self.family, address)?;
        }
        if let Some(text) = fields.timeout {
            record.expires = Some(expiry(now, self.timeout(text)?));
            record.dynamic = true;
        }
        if let Some(comment) = fields.comment {
            record.comment = comment.into();
        }
        if let Some(disabled) = flag("disabled", fields.disabled)? {
            record.disabled = disabled;
        }
        if let Some(dynamic) = flag("dynamic", fields.dynamic)? {
            record.dynamic = dynamic || record.expires.is_some();
        }
        let key = (record.list.clone(), record.address.clone());
        if self.bars(&key, Some(id), record.disabled) {
            return Err(ListError::Duplicate);
        }
        self.remove(id);
        self.insert(id, record);
        Ok(())
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Record> {
        let record = self.records.remove(&id)?;
        self.text -= record.list.len() + record.comment.len();
        if let Some(expires) = record.expires {
            self.lapses.remove(&(expires, id));
        }
        let key = (record.list.clone(), record.address.clone());
        if self.index.get(&key) == Some(&id) {
            self.index.remove(&key);
        }
        Some(record)
    }

    /// Whether an entry that is there stands in the way of another with its list and address.
    fn bars(&self, key: &(Box<[u8]>, Address), other_than: Option<u64>, disabled: bool) -> bool {
        let there = self.index.get(key).filter(|there| Some(**there) != other_than);
        there.is_some_and(|there| !self.beside_disabled || !disabled && !self.records[there].disabled)
    }

    /// Takes out one entry whose time is over, the earliest first.
    pub(crate) fn lapse(&mut self, now: Timestamp) -> Option<(u64, Record)> {
        let &(expires, id) = self.lapses.first()?;
        if expires > now {
            return None;
        }
        self.remove(id).map(|record| (id, record))
    }

    /// Takes out what a reboot does not keep.
    pub(crate) fn drop_dynamic(&mut self) {
        let dynamic: Vec<u64> =
            self.records.iter().filter(|(_, record)| record.dynamic).map(|(&id, _)| id).collect();
        for id in dynamic {
            self.remove(id);
        }
    }

    /// The ids that a `=.id=` names, all of which exist.
    pub(crate) fn ids(&self, text: &[u8]) -> Result<Vec<u64>, ListError> {
        text.split(|&byte| byte == b',')
            .map(|id| parse_id(id).filter(|id| self.records.contains_key(id)).ok_or(ListError::NoSuchItem))
            .collect()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Record> {
        self.records.get(&id)
    }

    /// Entries in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Record)> {
        self.records.iter().map(|(&id, record)| (id, record))
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// When the next entry lapses.
    pub(crate) fn next_lapse(&self) -> Option<Timestamp> {
        self.lapses.first().map(|&(expires, _)| expires)
    }

    fn insert(&mut self, id: u64, record: Record) {
        self.text += record.list.len() + record.comment.len();
        let key = (record.list.clone(), record.address.clone());
        // An enabled one stands in the way of more than a disabled one.
        if !record.disabled || !self.index.contains_key(&key) {
            self.index.insert(key, id);
        }
        if let Some(expires) = record.expires {
            self.lapses.insert((expires, id));
        }
        self.records.insert(id, record);
    }

    fn timeout(&self, text: &[u8]) -> Result<Timeout, ListError> {
        let timeout = Timeout::parse(text).ok_or(ListError::TimeoutForm)?;
        match self.family {
            Family::V4 if timeout.0 > MAX_TIMEOUT => Err(ListError::TimeoutRange),
            Family::V4 => Ok(timeout),
            Family::V6 => Ok(timeout.wrapped()),
        }
    }
}

impl Record {
    /// One property as `print` shows it, or `None` where the entry has none.
    pub(crate) fn property(&self, name: &[u8], id: u64, now: Timestamp) -> Option<Cow<'_, [u8]>> {
        let owned = |text: String| Some(Cow::Owned(text.into_bytes()));
        let boolean = |value: bool| Some(Cow::Borrowed(if value { &b"true"[..] } else { b"false" }));
        match name {
            b".id" => owned(print_id(id)),
            b"list" => Some((&*self.list).into()),
            b"address" => owned(self.address.to_string()),
            b"creation-time" => owned(self.created.strftime("%Y-%m-%d %H:%M:%S").to_string()),
            b"timeout" => owned(Timeout(self.left(now)?.as_secs()).to_string()),
            b"dynamic" => boolean(self.dynamic),
            b"disabled" => boolean(self.disabled),
            b"comment" => (!self.comment.is_empty()).then(|| (&*self.comment).into()),
            _ => None,
        }
    }

    /// What is left of the timeout.
    pub(crate) fn left(&self, now: Timestamp) -> Option<Duration> {
        self.expires.map(|expires| expires.duration_since(now).try_into().unwrap_or(Duration::ZERO))
    }
}

/// An id as RouterOS prints it: `*1A`.
pub(crate) fn print_id(id: u64) -> String {
    format!("*{id:X}")
}

/// The number behind `*1A`.
pub(crate) fn parse_id(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok()?.strip_prefix('*')?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, 16).ok())?
}

fn expiry(now: Timestamp, timeout: Timeout) -> Timestamp {
    let lifetime = match timeout.0 {
        0 => ZERO_STAYS,
        seconds => SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)),
    };
    now.saturating_add(lifetime).unwrap_or(Timestamp::MAX)
}

fn flag(name: &'static str, text: Option<&[u8]>) -> Result<Option<bool>, ListError> {
    text.map(|text| boolean(text).ok_or(ListError::Boolean(name))).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_757_081_850 + second).expect("in range")
    }

    fn spammer<'a>(address: &'a str, timeout: Option<&'a str>) -> Fields<'a> {
        Fields {
            list: Some(b"spammer"),
            address: Some(address.as_bytes()),
            timeout: timeout.map(str::as_bytes),
            ..Fields::default()
        }
    }

    fn v4() -> Table {
        Table::new(Family::V4, 100)
    }

    #[test]
    fn the_same_network_written_otherwise_is_a_duplicate_and_another_length_is_not() {
        let mut table = v4();
        let id = table.add(spammer("198.51.100.7/24", None), at(0)).expect("added");
        assert_eq!(table.add(spammer("198.51.100.9/24", None), at(0)), Err(ListError::Duplicate));
        table.add(spammer("198.51.100.7", None), at(0)).expect("overlapping is fine");
        table
            .add(Fields { list: Some(b"other"), ..spammer("198.51.100.7", None) }, at(0))
            .expect("another list");
        table.remove(id);
        assert!(table.add(spammer("198.51.100.0/24", None), at(0)).expect("free again") > id);
    }

    #[test]
    fn ids_grow_and_are_never_used_again() {
        let mut table = v4();
        let mut last = 0;
        for _ in 0..30 {
            let id = table.add(spammer("192.0.2.1", None), at(0)).expect("added");
            assert!(id > last);
            last = id;
            table.remove(id);
        }
        assert_eq!(print_id(26), "*1A");
        assert_eq!((parse_id(b"*1A"), parse_id(b"1A"), parse_id(b"*+1")), (Some(26), None, None));
    }

    #[test]
    fn an_entry_counts_down_and_lapses_at_its_second() {
        let mut table = v4();
        let id = table.add(spammer("192.0.2.1", Some("00:30:00")), at(0)).expect("added");
        let shown = |table: &Table, now| {
            String::from_utf8(table.get(id)?.property(b"timeout", id, now)?.into_owned()).ok()
        };
        assert_eq!(shown(&table, at(5)).as_deref(), Some("29m55s"));
        assert!(table.lapse(at(1799)).is_none());
        assert_eq!(table.next_lapse(), Some(at(1800)));
        assert!(table.lapse(at(1800)).is_some());
        assert_eq!((table.len(), table.next_lapse()), (0, None));
    }

    #[test]
    fn a_set_timeout_starts_anew() {
        let mut table = v4();
        let id = table.add(spammer("192.0.2.1", Some("10s")), at(0)).expect("added");
        table.set(id, Fields { timeout: Some(b"1h"), ..Fields::default() }, at(5)).expect("set");
        assert!(table.lapse(at(10)).is_none());
        assert_eq!(table.next_lapse(), Some(at(3605)));
    }

    #[test]
    fn a_set_cannot_make_two_entries_equal() {
        let mut table = v4();
        table.add(spammer("192.0.2.1", None), at(0)).expect("added");
        let id = table.add(spammer("192.0.2.2", None), at(0)).expect("added");
        let fields = Fields { address: Some(b"192.0.2.1/32"), ..Fields::default() };
        assert_eq!(table.set(id, fields, at(0)), Err(ListError::Duplicate));
        table
            .set(id, Fields { comment: Some(b"mine"), ..spammer("192.0.2.2", None) }, at(0))
            .expect("itself");
    }

    #[test]
    fn too_long_a_timeout_is_refused_in_ipv4_and_wraps_in_ipv6() {
        let error = v4().add(spammer("192.0.2.1", Some("365d")), at(0)).expect_err("refused");
        assert_eq!(error.to_string(), "value of timeout is out of range (00:00:00 .. 35w3d13:13:56)");
        v4().add(spammer("192.0.2.1", Some("35w3d13h13m56s")), at(0)).expect("the largest");
        let mut table = Table::new(Family::V6, 10);
        let id = table.add(spammer("2001:db8::1", Some("365d")), at(0)).expect("no error");
        assert_eq!(
            table.get(id).and_then(|r| r.property(b"timeout", id, at(0))).as_deref(),
            Some(&b"0s"[..])
        );
        assert!(table.lapse(at(1)).is_some());
    }

    #[test]
    fn a_full_table_says_so() {
        let mut table = Table::new(Family::V4, 1);
        table.add(spammer("192.0.2.1", None), at(0)).expect("added");
        assert_eq!(table.add(spammer("192.0.2.2", None), at(0)), Err(ListError::Full));
    }

    proptest! {
        /// The index, the records and the schedule stay one, whatever is done.
        #[test]
        fn the_parts_of_a_table_agree(steps in prop::collection::vec((0u8..4, 0u8..6, 0u64..40, 1u64..30), 0..60)) {
            let mut table = v4();
            let mut now = 0;
            for (what, host, id, seconds) in steps {
                let (address, timeout) = (format!("192.0.2.{host}"), format!("{seconds}s"));
                match what {
                    0 => drop(table.add(spammer(&address, Some(&timeout)), at(now))),
                    1 => drop(table.set(id, spammer(&address, (seconds % 2 == 0).then_some(&timeout)), at(now))),
                    2 => drop(table.remove(id)),
                    _ => {
                        now += i64::try_from(seconds).expect("small");
                        while table.lapse(at(now)).is_some() {}
                    }
                }
                let lapses: BTreeSet<_> =
                    table.iter().filter_map(|(id, record)| Some((record.expires?, id))).collect();
                prop_assert_eq!(&table.lapses, &lapses);
                prop_assert_eq!(table.index.len(), table.records.len());
                let found = |((list, address), id): (&(Box<[u8]>, Address), &u64)| {
                    table.get(*id).is_some_and(|record| record.list == *list && record.address == *address)
                };
                prop_assert!(table.index.iter().all(found));
                prop_assert_eq!(table.text, 7 * table.len());
            }
        }
    }
}
