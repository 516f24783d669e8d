//! Bans by hand: what became of one is told as it is, for the enforcer decides.

use std::net::IpAddr;
use std::time::Duration;

use atalaya_wire::{BanTime, Grounds, Name, canonical};
use jiff::Timestamp;

use super::lock;
use super::unban::Desk;
use crate::control::Answer;
use crate::jail::OwnBan;

/// How long the enforcer's answer is waited for.
const UNDER_WAY: Duration = Duration::from_secs(5);

/// What became of a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedBan {
    /// The sensor has joined no enforcer.
    Alone,
    /// The enforcer has not answered yet.
    Unanswered,
    /// It does not ban.
    Refused(Grounds),
    /// It bans, or is of a release that does not say.
    Banned,
}

/// Why nobody bans an address; `None` where it is one that another host may have.
pub(super) fn never_banned(address: IpAddr) -> Option<&'static str> {
    match canonical(address) {
        address if address.is_loopback() => Some("it is this host's loopback, which no other host has"),
        address if address.is_unspecified() => Some("it stands for no host"),
        address if address.is_multicast() => Some("it is a multicast group, and no host"),
        _ => None,
    }
}

// === impl Desk ===

impl Desk {
    /// Waits for what the enforcer makes of a ban that was asked for, and tells it.
    pub(super) async fn banned_by_hand(self, jail: Name, address: IpAddr, bantime: BanTime) -> Answer {
        let outcome = self.outcome(&jail, canonical(address)).await;
        let drops = self.local_drop.is_wanted();
        answer(&jail, canonical(address), bantime, outcome, drops)
    }

    async fn outcome(&self, jail: &Name, address: IpAddr) -> AskedBan {
        // A sensor that was started a moment ago has joined, and does not know it yet.
        let _ = tokio::time::timeout(UNDER_WAY, self.link.until_looked()).await;
        let Some(uplink) = self.link.lock().clone() else { return AskedBan::Alone };
        let ban = |(_, of, ban): (Name, IpAddr, OwnBan)| (of == address).then_some(ban);
        let asked = lock(&self.watch).detector.banned(Some(jail), address).into_iter().find_map(ban);
        if let Some(sequence) = asked.and_then(|ban| ban.sequence) {
            if uplink.is_connected() == Some(false) {
                return AskedBan::Unanswered;
            }
            if tokio::time::timeout(UNDER_WAY, self.outbox.until_acked(sequence)).await.is_err() {
                return AskedBan::Unanswered;
            }
        }
        let watch = lock(&self.watch);
        let stands = watch.detector.banned(Some(jail), address).into_iter().find_map(ban).is_some();
        let refused = watch.detector.refused(address, Timestamp::now());
        let refused = refused.into_iter().find(|(of, _)| of == jail).filter(|_| !stands);
        refused.map_or(AskedBan::Banned, |(_, grounds)| AskedBan::Refused(grounds))
    }
}

fn answer(jail: &Name, address: IpAddr, bantime: BanTime, outcome: AskedBan, drops: bool) -> Answer {
    let meanwhile = if drops { "; until then it is dropped on this host for a short while" } else { "" };
    match outcome {
        AskedBan::Banned => {
            Answer::Done { message: format!("{address} is banned for {bantime} in the name of jail {jail}") }
        }
        AskedBan::Refused(grounds) => {
            Answer::Failed { message: format!("{address} is not banned: {grounds}") }
        }
        AskedBan::Unanswered => Answer::Done {
            message: format!(
                "{address} is to be banned for {bantime} in the name of jail {jail}, once the enforcer answers{meanwhile}; \
                 `atalaya-sensor status {jail}` shows what becomes of it"
            ),
        },
        AskedBan::Alone => Answer::Done {
            message: format!(
                "{address} is to be banned for {bantime} in the name of jail {jail}, once this sensor has joined an enforcer{meanwhile}"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_other_host_has_are_never_banned() {
        for address in
            ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"]
        {
            assert!(never_banned(address.parse().unwrap()).is_some(), "{address}");
        }
        for address in ["192.0.2.1", "10.0.0.1", "2001:db8::1"] {
            assert_eq!(never_banned(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn what_is_not_banned_is_not_said_to_be() {
        let said = |outcome, drops| {
            let bantime = BanTime::Permanent;
            match answer(&"sshd".parse().unwrap(), "192.0.2.1".parse().unwrap(), bantime, outcome, drops) {
                Answer::Done { message } => (true, message),
                Answer::Failed { message } => (false, message),
                Answer::Status(_) | Answer::Figures { .. } => panic!("a status"),
            }
        };
        let (done, text) = said(AskedBan::Banned, false);
        assert!(done && text.contains("192.0.2.1 is banned"), "{text}");
        let (done, text) = said(AskedBan::Refused(Grounds::Allowed), false);
        assert!(!done && text == "192.0.2.1 is not banned: it is on the enforcer's allow list", "{text}");
        for outcome in [AskedBan::Alone, AskedBan::Unanswered] {
            let (done, text) = said(outcome, false);
            assert!(done && text.contains("is to be banned") && !text.contains("dropped"), "{text}");
            assert!(said(outcome, true).1.contains("until then it is dropped on this host"));
        }
    }
}
