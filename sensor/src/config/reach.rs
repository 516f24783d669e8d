//! Which files the sensor must be able to reach with a configuration. It follows from the configuration alone, so that a
//! reload can tell whether the running process kept enough.

use std::path::Path;

use super::Config;
use crate::confine::files::Reach;
use crate::confine::logs::WantedLogs;
use crate::jail::settings::JailConfig;

impl Config {
    /// The logs that its jails read.
    pub fn logs(&self) -> WantedLogs {
        let patterns = self.jails.iter().filter_map(|jail| jail.source.paths()).flatten().cloned();
        WantedLogs { patterns: patterns.collect(), follow: self.follow.clone() }
    }

    /// What it names that this host does not have now, in a sentence each; logs apart.
    pub fn troubles(&self) -> Vec<String> {
        let of_jail = |jail: &JailConfig| {
            let troubles = jail.source.troubles().into_iter().chain(jail.ignore.troubles());
            troubles.map(|trouble| format!("jail {}: {trouble}", jail.policy.name)).collect::<Vec<_>>()
        };
        let mut troubles: Vec<String> = self.jails.iter().flat_map(of_jail).collect();
        if let Some(drop) = &self.local_drop {
            troubles.extend(drop.troubles());
        }
        troubles
    }

    /// What it needs, where it was read from this file; an error in words where nothing less than everything would do.
    pub fn reach(&self, file: &Path) -> Result<Reach, String> {
        let mut reach = Reach::of_state(&self.state);
        reach.read_beside(file);
        for filters in &self.filter_files {
            if filters.is_dir() { reach.read_folder(filters) } else { reach.read_beside(filters) }
        }
        if let Some(fail2ban) = &self.fail2ban {
            reach.read_folder(&fail2ban.folder);
        }
        for jail in &self.jails {
            if jail.ignorecommand.is_some() {
                return Err(format!(
                    "jail {} has an ignorecommand, which may run and read anything",
                    jail.policy.name
                ));
            }
            jail.ignore.files.iter().for_each(|file| reach.read_beside(file));
            jail.source.reach(&mut reach);
        }
        Ok(reach)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn reach(config: &str) -> Reach {
        let file = Path::new("/etc/atalaya/sensor.toml");
        Config::parse(config, file).unwrap().reach(file).unwrap()
    }

    fn reads(reach: &Reach, path: &str) -> bool {
        reach.read.iter().any(|have| Path::new(path).starts_with(have))
    }

    const LOGS: &str = "[jail.mail]\nsource = \"files\"\nfailregex = '<HOST>'\npaths = ";

    #[test]
    fn logs_are_read_with_what_they_rotate_to_and_passwords_are_not() {
        let reach = reach(&format!("{LOGS}[\"/var/log/mail.log\", \"/srv/*/logs/access.log\"]\n"));
        for path in
            ["/var/log/mail.log.1", "/srv/shop/logs/access.log", "/etc/atalaya/sensor.toml", "/etc/hosts"]
        {
            assert!(reads(&reach, path), "{path}");
        }
        for path in ["/etc/shadow", "/root/.ssh/id_ed25519", "/home/anna/x", "/var/lib/dpkg/status"] {
            assert!(!reads(&reach, path), "{path}");
        }
        assert_eq!(reach.write, [PathBuf::from("/var/lib/atalaya-sensor")].into());
    }

    #[test]
    fn a_file_in_a_wide_folder_opens_no_more_than_itself() {
        let config =
            "[jail.ssh]\nsource = \"logins\"\nignore = [\"file:/etc/friends\", \"file:/etc/atalaya/more\"]\n";
        let reach = reach(config);
        assert!(
            reads(&reach, "/etc/friends")
                && reads(&reach, "/etc/atalaya/more")
                && !reads(&reach, "/etc/shadow")
        );
    }

    #[test]
    fn interfaces_and_lists_that_are_not_there_are_named_with_what_it_means() {
        let config = "local_drop = { interfaces = [\"lo\", \"eth77\"] }\n\
                      [jail.scan]\nsource = \"scan\"\ninterfaces = [\"lo\", \"eth78\"]\n\
                      [jail.ssh]\nsource = \"logins\"\nignore = [\"file:/nowhere/friends\", \"file:/etc/hosts\"]\n";
        let config = Config::parse(config, Path::new("sensor.toml")).unwrap();
        let [scan, ssh, drop] = <[String; 3]>::try_from(config.troubles()).unwrap();
        assert!(scan.starts_with("jail scan: there is no interface eth78;"), "{scan}");
        assert!(ssh.starts_with("jail ssh: /nowhere/friends cannot be read: No such file"), "{ssh}");
        assert!(drop.starts_with("local_drop: there is no interface eth77;"), "{drop}");
    }

    #[test]
    fn a_jail_on_a_journal_reaches_that_journal_and_no_other() {
        let of = |more: &str| reach(&format!("[jail.sshd]\nsource = \"journal\"\nfilter = \"sshd\"\n{more}"));
        let system = "/var/log/journal/x/system.journal";
        assert!(reads(&of(""), system) && reads(&of(""), "/run/log/journal/x/system.journal"));
        let folder = of("journalpath = \"/srv/journals/web\"\n");
        assert!(reads(&folder, "/srv/journals/web/remote-a.journal") && !reads(&folder, system));
        let files = of("journalfiles = \"/srv/journals/*/a*.journal\"\n");
        assert!(
            reads(&files, "/srv/journals/web/a.journal")
                && !reads(&files, "/srv/x")
                && !reads(&files, system)
        );
    }

    #[test]
    fn an_ignorecommand_needs_everything() {
        let config = "[jail.ssh]\nsource = \"logins\"\nignorecommand = \"true\"\n";
        let config = Config::parse(config, Path::new("sensor.toml")).unwrap();
        assert!(config.reach(Path::new("sensor.toml")).unwrap_err().contains("ignorecommand"));
    }

    #[test]
    fn what_a_changed_configuration_needs_beyond_is_found() {
        let before = reach(&format!("{LOGS}\"/var/log/mail.log\"\n"));
        assert_eq!(before.lacks(&reach(&format!("{LOGS}\"/var/log/apt/x\"\n"))), None);
        let elsewhere = reach(&format!("{LOGS}\"/srv/mail.log\"\n"));
        assert_eq!(before.lacks(&elsewhere), Some("/srv".into()));
        let journal = reach("[jail.sshd]\nsource = \"journal\"\nfilter = \"sshd\"\n");
        assert!(before.lacks(&journal).is_some());
    }
}
