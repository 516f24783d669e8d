//! Good logins that two sources tell of: the kernel's side and the journal both show sshd's, within seconds, whichever
//! comes first. Each is one login.

use std::collections::VecDeque;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

/// Within which time both tell of the same login.
const TOGETHER: SignedDuration = SignedDuration::from_secs(60);
/// The most logins that wait for their other witness; beyond, the oldest go.
const MOST: usize = 1024;

/// Who told of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    Kernel,
    Journal,
}

/// The logins of which one of the two told lately.
#[derive(Debug, Default)]
pub(super) struct Witnessed(VecDeque<(IpAddr, Timestamp, Witness)>);

// === impl Witnessed ===

impl Witnessed {
    /// Whether nobody else told of this login of sshd's before.
    pub(super) fn is_new(&mut self, address: IpAddr, time: Timestamp, by: Witness) -> bool {
        let is_same = |(other, at, witness): &(IpAddr, Timestamp, Witness)| {
            *other == address && *witness != by && time.duration_since(*at).abs() <= TOGETHER
        };
        if let Some(told) = self.0.iter().position(is_same) {
            self.0.remove(told);
            return false;
        }
        while self.0.front().is_some_and(|(_, at, _)| time.duration_since(*at) > TOGETHER)
            || self.0.len() >= MOST
        {
            self.0.pop_front();
        }
        self.0.push_back((address, time, by));
        true
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Witness::{Journal, Kernel};
    use super::*;

    /// Seconds, and who told.
    #[rstest]
    #[case::both(&[(0, Kernel), (1, Journal)], 1)]
    #[case::the_journal_first(&[(1, Journal), (0, Kernel)], 1)]
    #[case::one_alone_twice(&[(0, Kernel), (1, Kernel)], 2)]
    #[case::two_logins_by_both(&[(0, Kernel), (0, Kernel), (1, Journal), (1, Journal)], 2)]
    #[case::one_that_the_kernel_missed(&[(0, Kernel), (0, Journal), (5, Journal)], 2)]
    #[case::minutes_apart(&[(0, Kernel), (120, Journal)], 2)]
    fn a_login_that_two_sources_tell_of_is_one(#[case] told: &[(i64, Witness)], #[case] logins: usize) {
        let mut witnessed = Witnessed::default();
        let address = "192.0.2.7".parse().unwrap();
        let new = told.iter().filter(|(second, by)| {
            witnessed.is_new(address, Timestamp::from_second(1_800_000_000 + second).unwrap(), *by)
        });
        assert_eq!(new.count(), logins);
    }

    #[test]
    fn logins_of_which_one_alone_tells_are_bounded() {
        let mut witnessed = Witnessed::default();
        for number in 0..2 * MOST as u32 {
            assert!(witnessed.is_new(std::net::Ipv4Addr::from(number).into(), Timestamp::UNIX_EPOCH, Kernel));
        }
        assert_eq!(witnessed.0.len(), MOST);
    }
}
