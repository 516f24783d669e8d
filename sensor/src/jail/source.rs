//! Where a jail looks for failures, and all that follows from it: what it shows, which filter its lines pass, what it
//! takes of what is noticed, what it needs of the kernel, and what its process must be able to read. A new source is a
//! new variant here; the compiler then names each question that it has to answer, and nobody else asks which one it is.

use std::path::Path;

use atalaya_wire::Seconds;

use crate::channel;
use crate::confine::files::Reach;
use crate::filter::Filter;
use crate::jail::{Policy, ports};
use crate::source::connections::Guarded;
use crate::source::journal::{Entry, JournalPlace, WantedJournal};
use crate::source::logins::service;
use atalaya_program::count::{agreeing, counted};

/// Where a jail looks for failures.
#[derive(Debug)]
pub enum JailSource {
    /// Failed logins that the kernel sees.
    Logins {
        /// Only these services (`sshd`, `vsftpd`…); all of them where empty.
        services: Vec<String>,
    },
    /// Connections that the kernel sees, to the jail's ports; to those that the other jails speak of, where it
    /// names none.
    Connections {
        /// Only those that end within this time, with no login from their address.
        short: Option<Seconds>,
    },
    /// Closed ports that are touched.
    Scan {
        /// Whether addresses count that completed no handshake lately, and so may be forged.
        unverified: bool,
        /// At these interfaces; where the kernel tells of them, where empty.
        interfaces: Vec<String>,
    },
    /// Lines of log files.
    Files {
        /// Paths, which may have wildcards.
        paths: Vec<String>,
        /// Which lines are failures.
        filter: Filter,
    },
    /// Entries of systemd's journal.
    Journal {
        /// Which journal, and which of its entries.
        wanted: WantedJournal,
        /// Which of them are failures.
        filter: Filter,
    },
    /// What root's programs of this host say to syslog, seen as they call libc's function.
    SyslogCalls {
        /// Only these programs (`sshd`, `dovecot`…); all of them where empty.
        programs: Vec<String>,
        /// Which messages are failures.
        filter: Filter,
    },
    /// Messages that arrive at the syslog listener.
    Syslog {
        /// Which messages are failures.
        filter: Filter,
    },
}

// === impl JailSource ===

// What people and the enforcer see of it.
impl JailSource {
    /// The word for it in `sensor.toml`, and in the evidence of its failures.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Logins { .. } => "logins",
            Self::Connections { .. } => "connections",
            Self::Scan { .. } => "scan",
            Self::Files { .. } => "files",
            Self::Journal { .. } => "journal",
            Self::SyslogCalls { .. } => "syslog-calls",
            Self::Syslog { .. } => "syslog",
        }
    }

    /// As `status` shows it, in a few words. `ports` are those that the jail names.
    pub fn summary(&self, ports: &[u16]) -> String {
        let kind = self.kind();
        match self {
            Self::Logins { services: some } | Self::SyslogCalls { programs: some, .. }
                if !some.is_empty() =>
            {
                format!("{kind} of {}", some.join(", "))
            }
            Self::Connections { .. } if !ports.is_empty() => format!("{kind} to {}", ports::shown(ports)),
            Self::Scan { .. } => "closed ports".to_owned(),
            Self::Files { paths, .. } => paths.join(", "),
            Self::Journal { wanted, .. } if wanted.place != JournalPlace::default() => {
                wanted.place.to_string()
            }
            Self::Logins { .. }
            | Self::Connections { .. }
            | Self::Journal { .. }
            | Self::SyslogCalls { .. }
            | Self::Syslog { .. } => kind.to_owned(),
        }
    }

    /// As `check` explains it. `guarded` are the ports that the jail guards.
    pub fn description(&self, guarded: &[u16]) -> String {
        match self {
            Self::Logins { services } if services.is_empty() => "logins of every service".to_owned(),
            Self::Logins { services } => format!("logins of {}", services.join(", ")),
            Self::Connections { .. } => format!("connections to {}", ports::shown(guarded)),
            Self::Scan { interfaces, .. } if interfaces.is_empty() => "closed ports".to_owned(),
            Self::Scan { interfaces, .. } => format!("closed ports, at {}", interfaces.join(", ")),
            Self::Files { paths, .. } => format!("files {}", paths.join(", ")),
            Self::Journal { wanted, .. } => wanted.place.to_string(),
            Self::SyslogCalls { programs, .. } if programs.is_empty() => {
                "what every program of root says to syslog".to_owned()
            }
            Self::SyslogCalls { programs, .. } => format!("what {} says to syslog", programs.join(", ")),
            Self::Syslog { .. } => "syslog messages".to_owned(),
        }
    }

    /// So many of what a jail on it counts, in words.
    pub fn counted(&self, number: u32) -> String {
        match self {
            Self::Connections { short: None } => counted(number, "new one"),
            Self::Connections { short: Some(short) } => {
                let (end, their) = (agreeing(number, "ends", "end"), agreeing(number, "its", "their"));
                format!("{number} that {end} within {short}, with no login from {their} address,")
            }
            Self::Scan { .. } => format!("{} touched", counted(number, "different one")),
            _ if self.is_scan_of_lines() => format!("{} tried", counted(number, "different port")),
            Self::Logins { .. }
            | Self::Files { .. }
            | Self::Journal { .. }
            | Self::SyslogCalls { .. }
            | Self::Syslog { .. } => counted(number, "failure"),
        }
    }

    /// What a jail on it can, and cannot: lines for `check`. `guarded` are the ports that the jail guards, `policy`
    /// is its own.
    pub fn notes(&self, guarded: &[u16], policy: &Policy) -> Vec<String> {
        let findtime = policy.findtime;
        match self {
            Self::Connections { short } => {
                let mut notes = Vec::new();
                if guarded.is_empty() {
                    notes.push("warning: it guards no port: give it `ports`, such as [22, \"https\"], for no other jail says which".to_owned());
                }
                if short.is_some() {
                    notes.push(format!(
                        "note: an address from which somebody logged in within {findtime} is protected. Logins are seen through libaudit or PAM, and in the journal where a jail reads it: guard only services whose logins are seen so. Where there is neither, this jail counts nothing"
                    ));
                    if let Some(port) = guarded.iter().find(|port| matches!(port, 80 | 443)) {
                        notes.push(format!("warning: nobody logs in to port {port} in a way that is seen here: every short visit would count"));
                    }
                }
                notes
            }
            Self::Scan { unverified: false, .. } => vec![
                "note: only addresses that completed a connection to this host within the last hour count; `unverified = true` counts all".to_owned(),
                "note: a packet to a closed port can be sent in another's name: keep the bantime short, and allow whom you cannot miss".to_owned(),
            ],
            Self::Scan { unverified: true, .. } => vec![UNVERIFIED.to_owned()],
            _ if self.is_scan_of_lines() && policy.scan.is_some_and(|scan| scan.unverified) => {
                vec![UNVERIFIED.to_owned()]
            }
            _ if self.is_scan_of_lines() => vec![
                "note: only addresses that completed a connection to this host within the last hour count, as the kernel's program `connections: state` sees it; `unverified = true` counts all that the router saw".to_owned(),
            ],
            Self::Logins { services } => {
                let notes = services.iter().filter_map(|service| service::note(service));
                notes.map(|note| format!("note: {note}")).collect()
            }
            Self::Files { .. }
            | Self::Journal { .. }
            | Self::SyslogCalls { .. }
            | Self::Syslog { .. } => Vec::new(),
        }
    }
}

/// Its filter, and what it takes of what is noticed.
impl JailSource {
    /// Which lines are failures; `None` where it reads no lines.
    pub fn filter(&self) -> Option<&Filter> {
        match self {
            Self::Files { filter, .. }
            | Self::Journal { filter, .. }
            | Self::SyslogCalls { filter, .. }
            | Self::Syslog { filter } => Some(filter),
            Self::Logins { .. } | Self::Connections { .. } | Self::Scan { .. } => None,
        }
    }

    /// The files that it reads, which may have wildcards; `None` where it reads no files.
    pub fn paths(&self) -> Option<&[String]> {
        if let Self::Files { paths, .. } = self { Some(paths) } else { None }
    }

    /// Which entries of which journal it reads; `None` where it reads none.
    pub fn journal(&self) -> Option<&WantedJournal> {
        if let Self::Journal { wanted, .. } = self { Some(wanted) } else { None }
    }

    /// The journal that it reads, to be changed.
    pub fn journal_mut(&mut self) -> Option<&mut JournalPlace> {
        if let Self::Journal { wanted, .. } = self { Some(&mut wanted.place) } else { None }
    }

    /// The filter for lines of its files.
    pub fn take_line(&mut self) -> Option<&mut Filter> {
        if let Self::Files { filter, .. } = self { Some(filter) } else { None }
    }

    /// The filter for an entry of the journal that it wants.
    pub fn take_entry(&mut self, entry: &Entry) -> Option<&mut Filter> {
        match self {
            Self::Journal { wanted, filter } if entry.is_wanted(wanted) => Some(filter),
            _ => None,
        }
    }

    /// The filter for a message that arrived at the syslog listener.
    pub fn take_syslog(&mut self) -> Option<&mut Filter> {
        if let Self::Syslog { filter } = self { Some(filter) } else { None }
    }

    /// The filter for what a program of this host said to syslog, where it wants this program's.
    pub fn take_syslog_call(&mut self, program: &str) -> Option<&mut Filter> {
        match self {
            Self::SyslogCalls { programs, filter } if is_among(program, programs) => Some(filter),
            _ => None,
        }
    }

    /// Whether it takes a failed login of this service, by whichever of its names.
    pub fn takes_login(&self, service: &str) -> bool {
        self.services()
            .is_some_and(|list| list.is_empty() || list.iter().any(|name| service::is_same(name, service)))
    }

    /// The services whose logins it takes, all of them where there is none; `None` where it takes no logins.
    pub fn services(&self) -> Option<&[String]> {
        if let Self::Logins { services } = self { Some(services) } else { None }
    }
}

// What it asks of the kernel and of the system.
impl JailSource {
    /// What of it this host does not have now, in a sentence each; files apart, whose follower tells of them.
    pub fn troubles(&self) -> Vec<String> {
        if let Self::Journal { wanted, .. } = self {
            return wanted.place.trouble().into_iter().collect();
        }
        let Self::Scan { interfaces, .. } = self else { return Vec::new() };
        let absent = interfaces.iter().filter(|name| !Path::new("/sys/class/net").join(name).exists());
        absent
            .map(|name| format!("there is no interface {name}; closed ports are seen there once it is there"))
            .collect()
    }

    /// Whether the kernel counts for it, and tells only who reached the limit.
    pub fn is_counted_by_kernel(&self) -> bool {
        self.is_connections() || self.is_scan()
    }

    /// Whether it counts connections.
    pub fn is_connections(&self) -> bool {
        matches!(self, Self::Connections { .. })
    }

    /// Whether it counts closed ports.
    pub fn is_scan(&self) -> bool {
        matches!(self, Self::Scan { .. })
    }

    /// Whether its lines tell of ports that were tried.
    pub fn is_scan_of_lines(&self) -> bool {
        self.filter().is_some_and(Filter::counts_ports)
    }

    /// Whether it counts connections that are short, and so must know of successful logins.
    pub fn is_short(&self) -> bool {
        matches!(self, Self::Connections { short: Some(_) })
    }

    /// Whether the kernel has to look at logins for it.
    pub fn wants_logins(&self) -> bool {
        matches!(self, Self::Logins { .. }) || self.is_short()
    }

    /// Whether the kernel has to look at what programs say to syslog for it.
    pub fn wants_syslog_calls(&self) -> bool {
        matches!(self, Self::SyslogCalls { .. })
    }

    /// Whether nothing reaches it without `[syslog]`.
    pub fn wants_syslog_listener(&self) -> bool {
        matches!(self, Self::Syslog { .. })
    }

    /// Adds what the kernel has to look at for it besides logins.
    pub fn want_connections(
        &self,
        policy: &Policy,
        wanted: &mut Option<channel::connections::WantedConnections>,
    ) {
        match self {
            Self::Connections { .. } => drop(wanted.get_or_insert_default()),
            Self::Scan { interfaces, .. } => {
                let scans = &mut wanted.get_or_insert_default().scans;
                let named = &mut scans.get_or_insert_default().interfaces;
                named.extend(interfaces.iter().cloned());
                named.sort_unstable();
                named.dedup();
            }
            _ if self.wants_handshakes(policy) => drop(wanted.get_or_insert_default()),
            Self::Logins { .. }
            | Self::Files { .. }
            | Self::Journal { .. }
            | Self::SyslogCalls { .. }
            | Self::Syslog { .. } => {}
        }
    }

    /// Whether the kernel has to remember for it who connected.
    fn wants_handshakes(&self, policy: &Policy) -> bool {
        self.is_scan_of_lines() && policy.scan.is_some_and(|scan| !scan.unverified)
    }

    /// What the kernel is to count for it. Without `logins` that can be seen, nobody could tell a short connection from
    /// a quick login: they are not counted then.
    pub fn guarded(&self, policy: &Policy, ports: &[u16], logins: bool) -> Option<Guarded> {
        match self {
            Self::Connections { short } if short.is_none() || logins => {
                Some(Guarded::Connections { ports: ports.to_vec(), short: *short })
            }
            Self::Scan { unverified, .. } => Some(Guarded::ClosedPorts { unverified: *unverified }),
            _ => self.wants_handshakes(policy).then_some(Guarded::Handshakes),
        }
    }

    /// Adds what its process must be able to read.
    pub fn reach(&self, reach: &mut Reach) {
        match self {
            Self::Files { paths, .. } => paths.iter().for_each(|path| reach.read_log(path)),
            Self::Journal { wanted, .. } => {
                reach.read_journal(&wanted.place.folders());
                wanted.place.files.iter().for_each(|path| reach.read_log(path));
            }
            Self::Logins { .. }
            | Self::Connections { .. }
            | Self::Scan { .. }
            | Self::SyslogCalls { .. }
            | Self::Syslog { .. } => {}
        }
    }
}

/// Said of each jail of scans that counts everybody.
const UNVERIFIED: &str = "warning: unverified: whoever can forge a sender's address can have that address banned: keep the bantime short, and allow whom you cannot miss";

/// Whether a list that stands for all where it is empty has a name.
fn is_among(name: &str, list: &[String]) -> bool {
    list.is_empty() || list.iter().any(|listed| listed == name)
}

/// The ports that a jail of connections guards: its own, else those that the others speak of.
pub fn guarded_ports<'a>(own: &'a [u16], spoken_of: &'a [u16]) -> &'a [u16] {
    if own.is_empty() { spoken_of } else { own }
}

/// The ports that jails other than those of connections speak of, in order: what a jail of connections guards that names
/// none.
pub fn spoken_of<'a>(jails: impl IntoIterator<Item = (&'a JailSource, &'a [u16])>) -> Vec<u16> {
    let others = jails.into_iter().filter(|(source, _)| !source.is_connections());
    let mut ports: Vec<u16> = others.flat_map(|(_, ports)| ports).copied().collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
