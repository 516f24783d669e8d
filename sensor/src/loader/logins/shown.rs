//! What `status` shows of the programs that are attached to libraries, and of who runs on old ones.

use std::collections::{BTreeSet, HashSet};

use super::WantedLogins;
use super::files::{Attached, Files};
use super::holder;
use super::hook::{HOOKS, Hook, Subject};
use super::roots::RootKey;
use crate::channel::{Outdated, Program, ProgramState};
use crate::loader::object::Object;
use atalaya_program::count::counted;

/// The most files of before their upgrade that are told of for one program.
const MOST_TOLD: usize = 8;

impl Files {
    /// What is shown of a subject.
    pub(super) fn program(&self, subject: Subject, wanted: WantedLogins, object: &Object) -> Program {
        let counts = |hook: &Hook| hook.subject == subject;
        let has = |attached: &Attached| attached.links.keys().any(|number| counts(&HOOKS[*number]));
        let trouble = |attached: &Attached| {
            let of_subject = attached.troubles.iter().filter(|(number, _)| counts(&HOOKS[**number]));
            of_subject.map(|(_, refusal)| refusal.to_string()).next()
        };
        let mut paths: BTreeSet<&str> = BTreeSet::new();
        let (mut containers, mut old) = (HashSet::new(), false);
        for attached in self.by_key.values().filter(|attached| has(attached)) {
            for (of, need) in &attached.needs {
                match of {
                    None if need.named => drop(paths.insert(&need.path)),
                    None => old = true,
                    Some(root) if need.named || need.told.is_some() => drop(containers.insert(root)),
                    Some(_) => {}
                }
            }
        }
        // Where only some of a library's functions are probed, that is in the log.
        let named =
            |attached: &&Attached| attached.needs.get(&None).is_some_and(|need| need.named) && !has(attached);
        let mut troubles: Vec<String> = self
            .by_key
            .values()
            .filter(named)
            .filter_map(|attached| Some(format!("{}: {}", attached.needs[&None].path, trouble(attached)?)))
            .collect();
        troubles.sort_unstable();
        let shown = subject.shown();
        if paths.is_empty() && (!troubles.is_empty() || (containers.is_empty() && !old)) {
            let mut of_subject = HOOKS.iter().filter(|hook| hook.subject == subject);
            let refused = of_subject.find_map(|hook| self.refused.get(hook.program));
            if let Some(refusal) = refused.filter(|_| subject.wanted(wanted, true, false)) {
                return refusal.program(shown);
            }
            if troubles.is_empty() {
                let why = if subject.wanted(wanted, true, true) {
                    "this host has none of its libraries"
                } else {
                    subject.why_off(wanted)
                };
                return Program::not_on(shown, ProgramState::Off, why);
            }
            let mut program = Program::not_on(
                shown,
                ProgramState::Refused,
                format!("{}; tried again every 5 seconds", troubles.join("; ")),
            );
            (program.outdated, program.more_outdated) = self.outdated(counts);
            return program;
        }
        let mut places: Vec<String> = paths.into_iter().map(ToOwned::to_owned).collect();
        if old && places.is_empty() {
            places.push("only what was replaced or removed since".to_owned());
        }
        match containers.len() {
            0 => {}
            count => places.push(counted(count, "container")),
        }
        let without = self.by_key.values().filter(|attached| attached.via.is_some() && !has(attached));
        let without: Vec<String> = without.filter_map(trouble).collect();
        if let Some(first) = without.iter().min() {
            places.push(format!("not to {} of containers ({first})", counted(without.len(), "file")));
        }
        places.extend(troubles.iter().map(|trouble| format!("not {trouble}")));
        // Of several programs the kernel may refuse some.
        for hook in HOOKS.iter().filter(|hook| hook.subject == subject) {
            let refused = self.refused.get(hook.program).filter(|_| subject.wanted(wanted, true, false));
            places.extend(refused.map(|refusal| format!("without {}: {refusal}", hook.function)));
        }
        let mut program = object.on(shown, self.chosen(subject.program()), places.join(", "));
        (program.outdated, program.more_outdated) = self.outdated(counts);
        program
    }

    /// The programs that run on files of before an upgrade, those of this host first, and of how many more such
    /// files there are.
    fn outdated(&self, counts: impl Fn(&Hook) -> bool) -> (Vec<Outdated>, usize) {
        let mut outdated = Vec::new();
        for attached in self.by_key.values() {
            let counted = |number: &usize| counts(&HOOKS[*number]);
            let seen = attached.links.keys().any(counted);
            if !seen && !attached.troubles.keys().any(counted) {
                continue;
            }
            for (of, need) in &attached.needs {
                let Some(place) = need.told.as_ref().filter(|_| self.is_outdated(*of, attached)) else {
                    continue;
                };
                if !need.holders.is_empty() {
                    let library = attached.library.names()[0];
                    outdated.push((*of, holder::outdated(library, &need.path, place, seen, &need.holders)));
                }
            }
        }
        outdated.sort_by(|(of, one), (other, two)| {
            let place = |of: &Option<RootKey>, what: &Outdated| (of.is_some(), u32::MAX - what.processes);
            (place(of, one), one).cmp(&(place(other, two), two))
        });
        let more = outdated.len().saturating_sub(MOST_TOLD);
        outdated.truncate(MOST_TOLD);
        (outdated.into_iter().map(|(_, outdated)| outdated).collect(), more)
    }
}
