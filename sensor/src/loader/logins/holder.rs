//! The processes that run on a library of before its upgrade, as they are told of: which programs, and of which
//! service, so that it can be restarted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::library::FileKey;
use super::survey::{Held, Mapping, Range};
use crate::channel::{Outdated, OutdatedProgram};
use crate::loader::container::{Container, clean};
use crate::loader::process;

/// The most programs that are told of for a file.
const MOST_PROGRAMS: usize = 5;
/// The longest path that is told, in bytes.
const LONGEST: usize = 128;

/// A process that runs on a file.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    process: u32,
    /// What holders are sorted by: see [`process::age`].
    age: (u64, u32),
    range: Range,
    /// As `comm` has it, without control characters.
    program: String,
    /// The unit of this host's systemd that it belongs to.
    service: Option<String>,
}

// === impl Holder ===

impl Holder {
    fn new(mapping: &Mapping) -> Self {
        let Mapping { process, range, of, .. } = *mapping;
        let program = read(process, "comm").unwrap_or_default();
        let cgroups = read(process, "cgroup").filter(|_| of.is_none());
        let service = cgroups.as_deref().and_then(service).map(ToOwned::to_owned);
        Self { process, age: process::age(process), range, program: clean(program.trim_end()), service }
    }

    pub(super) fn process(&self) -> u32 {
        self.process
    }

    /// That it holds a file.
    pub(super) fn held(&self, file: FileKey) -> Held {
        (self.process, self.range, file)
    }
}

/// Brings the holders to those that were found; those that are known are not asked again.
pub(super) fn renew<'a>(holders: &mut Vec<Holder>, found: impl Iterator<Item = &'a Mapping>) {
    let known: BTreeMap<(u32, Range), Holder> =
        holders.drain(..).map(|holder| ((holder.process, holder.range), holder)).collect();
    holders.extend(found.map(|mapping| {
        let before = known.get(&(mapping.process, mapping.range));
        before.cloned().unwrap_or_else(|| Holder::new(mapping))
    }));
    // The oldest is the one that is named: of a daemon it is the one that the others were forked by.
    holders.sort_unstable_by_key(|holder| holder.age);
    // A process may have it mapped twice.
    holders.dedup_by_key(|holder| holder.process);
}

/// What is told of holders of a file, the oldest of which is the first.
pub(super) fn outdated(library: &str, path: &str, place: &str, seen: bool, holders: &[Holder]) -> Outdated {
    let mut programs: Vec<OutdatedProgram> = Vec::new();
    for Holder { process, program, service, .. } in holders {
        match programs.iter_mut().find(|known| known.program == *program && known.service == *service) {
            Some(known) => known.processes += 1,
            None => programs.push(OutdatedProgram {
                program: program.clone(),
                process: *process,
                processes: 1,
                service: service.clone(),
            }),
        }
    }
    programs.truncate(MOST_PROGRAMS);
    Outdated {
        library: library.to_owned(),
        path: shown(path),
        place: place.to_owned(),
        seen,
        processes: holders.len() as u32,
        programs,
    }
}

/// Where a process of another root than this host's lives.
pub(super) fn place_of(process: u32) -> String {
    let cgroups = read(process, "cgroup").unwrap_or_default();
    if let Some(container) = Container::of(&cgroups) {
        return format!("container {}", container.name(Path::new("/")));
    }
    match std::fs::read_link(format!("/proc/{process}/root")) {
        Ok(root) if root != Path::new("/") => format!("root {}", shown(&root.to_string_lossy())),
        _ => "a container".to_owned(),
    }
}

/// The unit that systemd of this host can restart, from a process's control groups (cgroups(7)).
fn service(cgroups: &str) -> Option<&str> {
    let path = cgroups.lines().find_map(|line| line.splitn(3, ':').nth(2)?.strip_prefix("/system.slice/"))?;
    let unit = path.split('/').find(|part| part.ends_with(".service"))?;
    // A name that has to be escaped is nothing to be copied from a screen.
    (clean(unit) == unit).then_some(unit)
}

/// A path that can be shown anywhere; of a long one its end.
fn shown(path: &str) -> String {
    let from = path.ceil_char_boundary(path.len().saturating_sub(LONGEST));
    path[from..].split('/').map(clean).collect::<Vec<_>>().join("/")
}

fn read(process: u32, name: &str) -> Option<String> {
    let mut text = Vec::new();
    File::open(format!("/proc/{process}/{name}")).ok()?.take(64 * 1024).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0::/system.slice/ssh.service", Some("ssh.service"))]
    #[case("12:cpu:/x\n1:name=systemd:/system.slice/ssh.service\n0::/", Some("ssh.service"))]
    #[case("0::/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service"))]
    #[case("0::/system.slice/docker.service/x", Some("docker.service"))]
    #[case("0::/system.slice/my\\x2dunit.service", None)]
    #[case("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service", None)]
    #[case("0::/user.slice/user-0.slice/session-3.scope", None)]
    #[case("0::/init.scope", None)]
    #[case("", None)]
    fn only_a_service_of_the_hosts_own_systemd_is_named(#[case] cgroups: &str, #[case] unit: Option<&str>) {
        assert_eq!(service(cgroups), unit);
    }

    #[test]
    fn processes_are_told_of_by_program_and_no_more_programs_than_fit() {
        let holder = |process, program: &str| Holder {
            process,
            age: (0, process),
            range: (0, 1),
            program: program.to_owned(),
            service: None,
        };
        let mut holders: Vec<Holder> = (10..20).map(|process| holder(process, "sshd")).collect();
        holders.extend((20..30).map(|process| holder(process, &format!("daemon{process}"))));
        let told = outdated("libaudit.so.1", "/usr/lib/\u{1b}[31m", "this host", true, &holders);
        assert_eq!((told.processes, told.programs.len()), (20, MOST_PROGRAMS));
        assert_eq!((told.programs[0].process, told.programs[0].processes), (10, 10));
        assert_eq!(told.path, "/usr/lib/??31m");
    }
}
