//! Names that no sensor and no jail may have, because bans that come from neither carry them: in the ledger, in
//! the comments on routers, and in what commands print.

use crate::Name;

/// The jail and the sensor of a ban by hand.
pub const HAND: &str = "manual";

/// The sensor of a ban by one of the enforcer's own jails.
pub const FLEET: &str = "fleet";

/// The jail or the sensor of a ban that was found on a router after the ledger was lost, where the entry names none.
pub const FOUND: &str = "recovered";

/// What a reserved name stands for, to be told to whoever chose it; `None` for every other name.
pub fn meaning(name: &Name) -> Option<&'static str> {
    match name.as_str() {
        HAND => Some("bans by hand carry it"),
        FLEET => Some("bans of the enforcer's own fleet jails carry it"),
        FOUND => Some("bans that were found on a router after the ledger was lost carry it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_name_says_what_it_stands_for_and_another_is_free() {
        for name in [HAND, FLEET, FOUND] {
            assert!(meaning(&name.parse().unwrap()).is_some(), "{name}");
        }
        assert_eq!(meaning(&"ssh".parse().unwrap()), None);
    }
}
