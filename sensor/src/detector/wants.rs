//! What the jails need of the sources.

use atalaya_wire::Name;

use super::Detector;
use super::watched::Watched;
use crate::channel;
use crate::jail::source::JailSource;
use crate::jail::source::{guarded_ports, spoken_of};
use crate::source::connections::Guard;
use crate::source::journal::WantedJournal;

impl Detector {
    /// The journals that the jails read, and what they want of each.
    pub fn journals(&self) -> Vec<WantedJournal> {
        self.sources().filter_map(JailSource::journal).cloned().collect()
    }

    /// The jails that read files, each with its paths.
    pub fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let paths = self.sources().map(JailSource::paths).enumerate();
        paths.filter_map(|(index, paths)| Some((index, paths?.to_vec()))).collect()
    }

    /// Whether any jail wants failed logins, or has to know of good ones.
    pub fn wants_logins(&self) -> bool {
        self.sources().any(JailSource::wants_logins)
    }

    /// The jails of logins, each with the services that it names.
    pub fn login_services(&self) -> impl Iterator<Item = (&Name, &[String])> {
        self.jails
            .iter()
            .filter_map(|watched| Some((&watched.jail.policy().name, watched.source.services()?)))
    }

    /// Whether a jail counts short connections.
    pub fn wants_short(&self) -> bool {
        self.sources().any(JailSource::is_short)
    }

    /// Whether any jail wants what programs say to syslog.
    pub fn wants_syslog_calls(&self) -> bool {
        self.sources().any(JailSource::wants_syslog_calls)
    }

    /// What the jails want of the kernel besides logins.
    pub fn wants_connections(&self) -> Option<channel::connections::WantedConnections> {
        let mut wanted = None;
        self.jails
            .iter()
            .for_each(|watched| watched.source.want_connections(watched.jail.policy(), &mut wanted));
        wanted
    }

    /// What the kernel is to count for the jails; `logins` as for [`JailSource::guarded`].
    pub fn guards(&self, logins: bool) -> Vec<Guard> {
        let spoken_of = spoken_of(self.jails.iter().map(|watched| (&watched.source, &*watched.ports)));
        let guard = |watched: &Watched| {
            let policy = watched.jail.policy();
            let ports = guarded_ports(&watched.ports, &spoken_of);
            let of = watched.source.guarded(policy, ports, logins)?;
            Some(Guard {
                jail: policy.name.clone(),
                limit: policy.maxretry,
                findtime: policy.findtime,
                ipv6_prefix: policy.ipv6_prefix,
                of,
            })
        };
        self.jails.iter().filter_map(guard).collect()
    }

    fn sources(&self) -> impl Iterator<Item = &JailSource> {
        self.jails.iter().map(|watched| &watched.source)
    }
}
