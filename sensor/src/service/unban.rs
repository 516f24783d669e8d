//! Bans that are lifted by hand: at the enforcer, in the jails here, and in the kernel, whoever put it there. What
//! was where is told as it was.

use std::net::IpAddr;
use std::time::Duration;

use atalaya_wire::{Grounds, Name, ProblemCode, Unban, canonical};
use jiff::Timestamp;

use super::enforcer::Link;
use super::local_drop::{LetPass, LocalDrop, is_of_a_host};
use super::upkeep::save;
use super::{Shared, lock};
use crate::control::Answer;
use crate::jail::OwnBan;
use crate::store::Store;
use crate::uplink::outbox::Outbox;
use crate::uplink::{Uplink, UplinkError};

/// How long the enforcer's answer to an offence of the address is waited for, before it is asked to lift its ban.
const UNDER_WAY: Duration = Duration::from_secs(5);

/// What of the sensor has to do with a ban.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) link: Link,
    pub(super) watch: Shared,
    pub(super) local_drop: LocalDrop,
    pub(super) outbox: Outbox,
    pub(super) store: Store,
}

/// What was met, and what was done about it.
struct Lifted {
    address: IpAddr,
    /// What the jails here had banned.
    banned: Vec<(Name, IpAddr, OwnBan)>,
    /// What the enforcer had refused to ban for them.
    refused: Vec<(Name, Grounds)>,
    /// What was dropped on this host; `None` where nothing is.
    opened: Option<LetPass>,
    enforcer: AtEnforcer,
}

/// What the enforcer did.
enum AtEnforcer {
    /// The sensor has joined none.
    None,
    /// It lifted the bans of these.
    Lifted(Vec<IpAddr>),
    /// It knows of no ban that this sensor may lift, in its words.
    Nothing(String),
    /// It could not be asked, or could not do it.
    Failed(String),
}

// === impl Desk ===

impl Desk {
    /// Lifts the bans of an address, and of all that are counted as one with it, for whoever has one of them has
    /// all. Where the enforcer cannot be asked they pass on this host alone, and asking again finds them.
    pub(super) async fn unban(self, jail: Option<Name>, address: IpAddr) -> Answer {
        // A sensor that was started a moment ago has joined, and does not know it yet.
        let _ = tokio::time::timeout(UNDER_WAY, self.link.until_looked()).await;
        let uplink = self.link.lock().clone();
        if uplink.is_none() && !self.local_drop.is_wanted() {
            return Answer::Failed {
                message: format!("{address} cannot be unbanned: this sensor has not joined an enforcer"),
            };
        }
        if let Some(uplink) = &uplink
            && uplink.is_connected() != Some(false)
            && let Some(last) =
                self.banned(jail.as_ref(), address).iter().filter_map(|(_, _, ban)| ban.sequence).max()
        {
            // An offence that is under way would be banned right after.
            let _ = tokio::time::timeout(UNDER_WAY, self.outbox.until_acked(last)).await;
        }
        // As it is before the enforcer's stream tells of what it lifts.
        let banned = self.banned(jail.as_ref(), address);
        let enforcer = match uplink {
            Some(uplink) => ask(&uplink, jail.as_ref(), address, &banned).await,
            None => AtEnforcer::None,
        };
        // The enforcer has one ban for all jails.
        let jail = jail.filter(|_| !matches!(enforcer, AtEnforcer::Lifted(_)));
        let lifted = {
            let mut watch = lock(&self.watch);
            if let AtEnforcer::Failed(_) = enforcer {
                watch.detector.hold(&banned);
            } else {
                watch.detector.lift(jail.as_ref(), address);
            }
            let opened = if jail.is_none() {
                self.local_drop.lift(address, &banned)
            } else {
                self.local_drop.lift_own(&watch.detector, address, &banned)
            };
            let refused = watch.detector.refused(address, Timestamp::now());
            Lifted { address, banned, refused, opened, enforcer }
        };
        save(&self.watch, &self.store);
        lifted.answer()
    }

    /// The jails' bans of an address that are not over.
    fn banned(&self, jail: Option<&Name>, address: IpAddr) -> Vec<(Name, IpAddr, OwnBan)> {
        let mut banned = lock(&self.watch).detector.banned(jail, address);
        let now = Timestamp::now();
        banned.retain(|(_, _, ban)| ban.stands(now));
        banned
    }
}

/// Asks the enforcer to lift the ban of an address, and these.
async fn ask(
    uplink: &Uplink,
    jail: Option<&Name>,
    address: IpAddr,
    banned: &[(Name, IpAddr, OwnBan)],
) -> AtEnforcer {
    let mut addresses: Vec<IpAddr> = banned.iter().map(|(_, address, _)| *address).collect();
    addresses.push(canonical(address));
    addresses.sort_unstable();
    addresses.dedup();
    let mut lifted = Vec::new();
    let mut refusal = None;
    for address in addresses {
        match uplink.unban(&Unban { address, jail: jail.cloned() }).await {
            Ok(()) => lifted.push(address),
            Err(UplinkError::Refused { problem, .. }) if problem.code == ProblemCode::NotFound => {
                refusal = Some(problem.message);
            }
            Err(error) => return AtEnforcer::Failed(error.to_string()),
        }
    }
    match refusal {
        Some(refusal) if lifted.is_empty() => AtEnforcer::Nothing(refusal),
        _ => AtEnforcer::Lifted(lifted),
    }
}

// === impl Lifted ===

impl Lifted {
    /// In words; a failure where nothing was lifted, or not everywhere.
    fn answer(&self) -> Answer {
        let address = self.address;
        let opened = self.opened.as_ref().is_some_and(|opened| !opened.networks.is_empty());
        let of_jails = of_jails(self.banned.iter().map(|(jail, _, _)| jail));
        let (done, mut message) = match &self.enforcer {
            AtEnforcer::Lifted(lifted) => {
                let lifted: Vec<String> = lifted.iter().map(ToString::to_string).collect();
                let verb = if lifted.len() == 1 { "is" } else { "are" };
                (true, format!("{} {verb} unbanned{of_jails}", lifted.join(", ")))
            }
            AtEnforcer::Failed(error) if opened => {
                (false, format!("{error}; {address} passes on this host alone until then: ask again"))
            }
            AtEnforcer::Failed(error) => (false, error.clone()),
            AtEnforcer::None | AtEnforcer::Nothing(_) if !self.banned.is_empty() => {
                (true, format!("{address} is unbanned on this host{of_jails}"))
            }
            AtEnforcer::None | AtEnforcer::Nothing(_) if opened => {
                (true, format!("{address} is no longer dropped on this host; no jail here had banned it"))
            }
            AtEnforcer::None | AtEnforcer::Nothing(_) => {
                let passes = self.opened.as_ref().is_some_and(|opened| opened.around.is_empty());
                let dropped = if passes { ", and it is not dropped on this host" } else { "" };
                (false, format!("{address} is not banned by any jail here{dropped}"))
            }
        };
        if let AtEnforcer::Nothing(refusal) = &self.enforcer {
            message.push_str(&format!("; {refusal}"));
            if self.opened.as_ref().is_some_and(|opened| opened.of_fleet) {
                message.push_str(
                    "; until then it is dropped here again when the enforcer tells of its bans anew",
                );
            }
        }
        for (jail, grounds) in &self.refused {
            message.push_str(&format!("; the enforcer did not ban it for jail {jail}: {grounds}"));
        }
        match self.opened.as_ref().and_then(|opened| opened.around.first()) {
            Some(network) if is_of_a_host(*network) => {
                message.push_str("; it is dropped on this host for another ban of it");
            }
            Some(network) => message.push_str(&format!(
                "; {network} around it is dropped on this host: `atalaya-enforcer unban {address}` lets it out of there"
            )),
            None => {}
        }
        if done { Answer::Done { message } } else { Answer::Failed { message } }
    }
}

/// In whose name an address was banned, for a message.
fn of_jails<'a>(jails: impl Iterator<Item = &'a Name>) -> String {
    let mut jails: Vec<&str> = jails.map(Name::as_str).collect();
    jails.dedup();
    if jails.is_empty() { String::new() } else { format!(" (jail {})", jails.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said where these jails had banned, and these networks were dropped.
    fn said(
        enforcer: AtEnforcer,
        jails: &[&str],
        opened: Option<LetPass>,
        refused: &[&str],
    ) -> (bool, String) {
        let address = "192.0.2.1".parse().unwrap();
        let name = |jail: &&str| -> Name { jail.parse().unwrap() };
        let banned = jails.iter().map(|jail| (name(jail), address, OwnBan::unknown(None))).collect();
        let refused = refused.iter().map(|jail| (name(jail), Grounds::Protected)).collect();
        match (Lifted { address, banned, refused, opened, enforcer }).answer() {
            Answer::Done { message } => (true, message),
            Answer::Failed { message } => (false, message),
            Answer::Status(_) | Answer::Figures { .. } => panic!("a status"),
        }
    }

    fn opened(networks: &[&str], of_fleet: bool, around: &[&str]) -> LetPass {
        let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        LetPass { networks: parsed(networks), of_fleet, around: parsed(around) }
    }

    fn nothing() -> AtEnforcer {
        AtEnforcer::Nothing("no such ban".to_owned())
    }

    #[test]
    fn what_was_there_is_said_to_be_lifted() {
        let host = || Some(opened(&["192.0.2.1/32"], false, &[]));
        let lifted = || AtEnforcer::Lifted(vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!(
            said(lifted(), &["a", "a", "b"], host(), &[]),
            (true, "192.0.2.1 is unbanned (jail a, b)".to_owned())
        );
        assert_eq!(
            said(AtEnforcer::None, &["a"], host(), &[]),
            (true, "192.0.2.1 is unbanned on this host (jail a)".to_owned())
        );
        let (done, text) = said(nothing(), &["a"], host(), &[]);
        assert!(done && text == "192.0.2.1 is unbanned on this host (jail a); no such ban", "{text}");
    }

    #[test]
    fn what_only_the_kernel_knew_is_said_to_be_let_through_and_of_whom_it_was() {
        let (done, text) = said(AtEnforcer::None, &[], Some(opened(&["192.0.2.1/32"], false, &[])), &[]);
        assert!(done);
        assert_eq!(text, "192.0.2.1 is no longer dropped on this host; no jail here had banned it");
        let (done, text) = said(nothing(), &[], Some(opened(&["192.0.2.1/32"], true, &[])), &[]);
        assert!(done && text.contains("no such ban; until then it is dropped here again"), "{text}");
        let (_, text) = said(nothing(), &[], Some(opened(&["192.0.2.1/32"], false, &[])), &["web"]);
        assert!(
            text.ends_with("did not ban it for jail web: someone logged in successfully from there lately"),
            "{text}"
        );
    }

    #[test]
    fn nothing_is_said_to_be_lifted_where_nothing_was_or_where_the_enforcer_could_not_be_asked() {
        let (done, text) = said(nothing(), &[], Some(opened(&[], false, &["192.0.2.0/24"])), &[]);
        assert!(!done);
        assert!(
            text.starts_with("192.0.2.1 is not banned by any jail here; no such ban; 192.0.2.0/24"),
            "{text}"
        );
        let (done, text) = said(nothing(), &[], Some(opened(&[], false, &[])), &[]);
        assert!(
            !done && text.contains("any jail here, and it is not dropped on this host; no such"),
            "{text}"
        );
        let (done, text) = said(AtEnforcer::None, &["a"], Some(opened(&[], false, &["192.0.2.1/32"])), &[]);
        assert!(
            done && text.ends_with("(jail a); it is dropped on this host for another ban of it"),
            "{text}"
        );
        let (done, text) = said(AtEnforcer::None, &[], None, &[]);
        assert!(!done && !text.contains("dropped"), "{text}");
        let away = || AtEnforcer::Failed("cannot reach it".to_owned());
        let (done, text) = said(away(), &["a"], Some(opened(&["192.0.2.1/32"], false, &[])), &[]);
        assert!(!done && text.contains("passes on this host alone"), "{text}");
        assert_eq!(said(away(), &["a"], None, &[]), (false, "cannot reach it".to_owned()));
    }
}
