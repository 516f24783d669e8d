//! Which services' logins were seen, and what came of them: what a jail may name, and which of them only a log shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::LoginOutcome;
use super::attempt::Verdict;
use super::record::Record;
use super::service;

/// The most services of root's that are remembered, and the most of which nothing was believed: their names are
/// anyone's to choose.
const MOST: usize = 64;
const MOST_DISBELIEVED: usize = 16;
/// The most that are named in one sentence.
const MOST_TOLD: usize = 16;

/// The logins of a service, since the sensor's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenService {
    /// As a jail may name it.
    pub service: String,
    /// The program of which that was seen last, which a jail may name too.
    pub program: String,
    /// Failed ones, with an address.
    pub failed: u64,
    /// Good ones, with an address.
    pub succeeded: u64,
    /// Failed ones of a remote host that is known by name alone.
    pub named: u64,
    /// Failed ones without a remote host.
    pub local: u64,
    /// Verdicts that were not believed.
    pub disbelieved: u64,
}

/// All of them; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct SeenServices(Arc<Mutex<BTreeMap<String, SeenService>>>);

// === impl SeenServices ===

impl SeenServices {
    /// Those that were seen, in the order of their names.
    pub fn list(&self) -> Vec<SeenService> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Adds an attempt.
    pub(super) fn note(&self, verdict: &Verdict) {
        self.add(&verdict.service, &verdict.program, |seen| match (verdict.outcome, verdict.address) {
            (LoginOutcome::Failed, Some(_)) => seen.failed += 1,
            (LoginOutcome::Failed, None) => seen.named += 1,
            (LoginOutcome::Local, _) => seen.local += 1,
            (LoginOutcome::Succeeded, _) => seen.succeeded += 1,
        });
    }

    /// Adds a record that was not believed.
    pub(super) fn disbelieve(&self, record: &Record) {
        self.add(record.service(), &record.program, |seen| seen.disbelieved += 1);
    }

    fn add(&self, service: &str, program: &str, add: impl FnOnce(&mut SeenService)) {
        let mut services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = services.get_mut(service) {
            add(seen);
            if seen.program != program {
                program.clone_into(&mut seen.program);
            }
            return;
        }
        let (service, program) = (service.to_owned(), program.to_owned());
        let mut seen = SeenService { service: service.clone(), program, ..SeenService::default() };
        add(&mut seen);
        let of_its_kind = services.values().filter(|other| other.is_believed() == seen.is_believed());
        if of_its_kind.count() < if seen.is_believed() { MOST } else { MOST_DISBELIEVED } {
            services.insert(service, seen);
        }
    }
}

// === impl SeenService ===

impl SeenService {
    /// Its name, with that of its program where that is another.
    pub fn shown(&self) -> String {
        let Self { service, program, .. } = self;
        if service::is_same(service, program) { service.clone() } else { format!("{service} ({program})") }
    }

    /// Whether a jail that names this means it.
    pub fn is_named(&self, name: &str) -> bool {
        service::is_same(&self.service, name) || service::is_same(&self.program, name)
    }

    /// Why a jail on logins does not do for it, and what does, where that was seen; a sentence.
    pub fn advice(&self) -> Option<String> {
        if self.named == 0 && self.disbelieved == 0 && self.local == 0 {
            return None;
        }
        if let Some(note) = service::note(&self.service).or_else(|| service::note(&self.program)) {
            return Some(note.to_owned());
        }
        let service = self.shown();
        if self.named > 0 {
            return Some(format!(
                "{service} tells PAM names in place of addresses, so that these failed logins ban nobody: set `peers = true` in [logins], or use a jail on its log"
            ));
        }
        (!self.is_believed()).then(|| {
            format!(
                "what {service} says of logins is not believed, for it does not run as root, or nobody was connected to it: if it should count, use a jail on its log"
            )
        })
    }

    fn is_believed(&self) -> bool {
        self.failed + self.succeeded + self.named + self.local > 0
    }
}

/// What to say of the services that a jail names and of which no login was seen, where others were.
pub fn unseen(services: &[String], seen: &[SeenService]) -> Option<String> {
    let is_missing = |name: &&String| !seen.iter().any(|seen| seen.is_named(name));
    let missing: Vec<&str> = services.iter().filter(is_missing).map(String::as_str).collect();
    if missing.is_empty() || seen.is_empty() {
        return None;
    }
    let mut told: Vec<String> = seen.iter().map(SeenService::shown).collect();
    if told.len() > MOST_TOLD {
        told.truncate(MOST_TOLD);
        told.push("others".to_owned());
    }
    Some(format!("no login of {} was seen yet; those seen are of {}", missing.join(", "), told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(service: &str, outcome: LoginOutcome, address: Option<&str>) -> Verdict {
        Verdict {
            outcome,
            address: address.map(|address| address.parse().unwrap()),
            account: "x".to_owned(),
            service: service.to_owned(),
            program: if service == "smtp" { "saslauthd" } else { service }.to_owned(),
            pid: 1,
            time_ns: 0,
            why: "",
        }
    }

    #[test]
    fn a_service_that_gives_no_address_is_told_with_what_to_do() {
        let seen = SeenServices::default();
        seen.note(&verdict("sshd", LoginOutcome::Failed, Some("192.0.2.7")));
        seen.note(&verdict("saslauthd", LoginOutcome::Local, None));
        seen.note(&verdict("smtp", LoginOutcome::Local, None));
        seen.note(&verdict("newd", LoginOutcome::Failed, None));
        seen.note(&verdict("su", LoginOutcome::Local, None));
        let advice: Vec<Option<String>> = seen.list().iter().map(SeenService::advice).collect();
        assert!(advice[0].as_ref().unwrap().contains("peers = true"), "newd: {advice:?}");
        assert!(advice[1].as_ref().unwrap().contains("filter = \"postfix\""), "saslauthd: {advice:?}");
        assert_eq!(advice[2], advice[1], "smtp is asked for by saslauthd");
        assert_eq!(advice[3..], [None, None], "sshd, su");
    }

    #[test]
    fn names_that_users_make_up_leave_room_for_those_of_services() {
        let seen = SeenServices::default();
        let mut record = Record::read(&[0; size_of::<atalaya_sensor_ebpf::logins::LoginRecord>()]).unwrap();
        for number in 0..1000 {
            record.program = format!("made-up-{number}");
            seen.disbelieve(&record);
        }
        for number in 0..1000 {
            seen.note(&verdict(&format!("service-{number}"), LoginOutcome::Local, None));
        }
        let list = seen.list();
        assert_eq!(list.iter().filter(|seen| seen.is_believed()).count(), MOST);
        assert_eq!(list.len(), MOST + MOST_DISBELIEVED);
    }

    #[test]
    fn a_name_that_was_never_seen_is_told_once_others_were() {
        let names: Vec<String> = ["cups", "ssh"].map(ToOwned::to_owned).into();
        assert_eq!(unseen(&names, &[]), None);
        let seen = [("cupsd", "cupsd"), ("smtp", "saslauthd"), ("sshd", "sshd-session")].map(
            |(service, program)| SeenService {
                service: service.to_owned(),
                program: program.to_owned(),
                ..SeenService::default()
            },
        );
        let said = unseen(&names, &seen).unwrap();
        assert_eq!(said, "no login of ssh was seen yet; those seen are of cupsd, smtp (saslauthd), sshd");
        assert_eq!(unseen(&["saslauthd".to_owned()], &seen), None);
        assert_eq!(unseen(&names[..1], &seen), None);
    }
}
