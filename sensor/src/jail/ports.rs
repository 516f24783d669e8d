//! TCP ports as administrators write them: numbers, names of services, ranges such as `6000:6010`, and lists of
//! these, as fail2ban's `port` has them. And the ports of the services that jails are named after.

use serde::Deserialize;

/// The most ports of one jail: as many as the kernel programs watch.
pub const MOST: usize = atalaya_sensor_ebpf::connections::PORTS as usize;

/// Where the system keeps names of services (services(5)).
const SERVICES: &str = "/etc/services";

/// Names that jails, filters and configurations use for services, so that they hold on hosts without
/// [`SERVICES`] too, and where the daemon's name is another than the service's.
const KNOWN: &[(&str, &[u16])] = &[
    ("ssh", &[22]),
    ("sshd", &[22]),
    ("dropbear", &[22]),
    ("ftp", &[21]),
    ("vsftpd", &[21]),
    ("proftpd", &[21]),
    ("pure-ftpd", &[21]),
    ("ftp-data", &[20]),
    ("ftps", &[990]),
    ("ftps-data", &[989]),
    ("telnet", &[23]),
    ("smtp", &[25]),
    ("smtps", &[465]),
    ("submissions", &[465]),
    ("submission", &[587]),
    ("postfix", &[25, 465, 587]),
    ("exim", &[25, 465, 587]),
    ("sendmail", &[25, 465, 587]),
    ("pop3", &[110]),
    ("pop3s", &[995]),
    ("imap", &[143]),
    ("imap2", &[143]),
    ("imaps", &[993]),
    ("sieve", &[4190]),
    ("dovecot", &[110, 143, 993, 995]),
    ("http", &[80]),
    ("https", &[443]),
    ("nginx", &[80, 443]),
    ("apache", &[80, 443]),
    ("mysql", &[3306]),
    ("mysqld", &[3306]),
    ("postgresql", &[5432]),
    ("sip", &[5060]),
    ("sips", &[5061]),
    ("asterisk", &[5060, 5061]),
    ("openvpn", &[1194]),
    ("cockpit", &[9090]),
    ("xrdp", &[3389]),
    ("rdp", &[3389]),
    ("samba", &[139, 445]),
    ("haproxy", &[80, 443]),
    ("slapd", &[389, 636]),
    ("ldap", &[389]),
    ("ldaps", &[636]),
    ("mosquitto", &[1883, 8883]),
    ("proxmox", &[8006]),
    ("gitea", &[3000]),
    ("forgejo", &[3000]),
    ("grafana", &[3000]),
    ("home-assistant", &[8123]),
    ("vaultwarden", &[80, 443]),
];

/// The services that check passwords of the host's own accounts.
const LOGINS: [&str; 4] = ["ssh", "ftp", "postfix", "dovecot"];

/// Ports as they are written.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Ports {
    /// A number in TOML, such as `22`; checked when it is read.
    Number(i64),
    /// `"ssh"`, `"22"`, `"6000:6010"`, or several with commas between them.
    Text(String),
    /// Any of these forms in a TOML list: `[22, "6000:6010"]`.
    Many(Vec<Ports>),
}

// === impl Ports ===

impl Ports {
    /// The ports, in order, each once.
    pub fn read(&self) -> Result<Vec<u16>, String> {
        let mut ports = Vec::new();
        self.read_into(&mut ports)?;
        ports.sort_unstable();
        ports.dedup();
        match ports.len() {
            0 => Err("no port is given; expected such as [22, \"https\", \"6000:6010\"]".to_owned()),
            count if count > MOST => Err(format!("{count} ports; expected at most {MOST}")),
            _ => Ok(ports),
        }
    }

    fn read_into(&self, ports: &mut Vec<u16>) -> Result<(), String> {
        match self {
            Self::Number(number) => ports.push(port(&number.to_string())?),
            Self::Text(text) => {
                for word in
                    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty())
                {
                    match word.split_once([':', '-']).map(|(first, last)| (port(first), port(last))) {
                        Some((Ok(first), Ok(last))) => ports.extend(first..=last),
                        _ => ports.extend(service(word)?),
                    }
                }
            }
            Self::Many(many) => many.iter().try_for_each(|one| one.read_into(ports))?,
        }
        Ok(())
    }
}

/// The ports of a daemon or service that has a well-known name; empty where it has none.
pub fn of(name: &str) -> &'static [u16] {
    KNOWN.iter().find(|(known, _)| *known == name).map_or(&[], |(_, ports)| ports)
}

/// The ports that a jail of this name speaks of: `sshd`, or `nginx-http-auth`.
pub fn of_jail(name: &str) -> &'static [u16] {
    match of(name) {
        [] => name.split_once('-').map_or(&[], |(daemon, _)| of(daemon)),
        ports => ports,
    }
}

/// The ports of all services that check passwords of the host's accounts.
pub fn of_logins() -> Vec<u16> {
    LOGINS.iter().flat_map(|name| of(name)).copied().collect()
}

/// Ports as people read them: `22, 80, 6000–6010`.
pub fn shown(ports: &[u16]) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let shown = ranges.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}–{last}"),
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    if ports.len() == 1 { format!("port {shown}") } else { format!("ports {shown}") }
}

fn service(word: &str) -> Result<Vec<u16>, String> {
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(vec![port(word)?]);
    }
    let known = of(word);
    if !known.is_empty() {
        return Ok(known.to_vec());
    }
    let services = std::fs::read_to_string(SERVICES).unwrap_or_default();
    let listed = services.lines().find_map(|line| listed(line, word));
    listed.map(|port| vec![port]).ok_or_else(|| {
        format!("`{word}` is no port, no range such as 6000:6010, and no TCP service of {SERVICES}")
    })
}

/// The port of a line `name 22/tcp alias…`, where it is of this service.
fn listed(line: &str, name: &str) -> Option<u16> {
    let mut words = line.split('#').next()?.split_whitespace();
    let first = words.next()?;
    let (port, protocol) = words.next()?.split_once('/')?;
    if protocol != "tcp" || first != name && !words.any(|alias| alias == name) {
        return None;
    }
    port.parse().ok()
}

fn port(text: &str) -> Result<u16, String> {
    let number = text.trim().parse().ok().filter(|number| *number != 0);
    number.ok_or_else(|| format!("`{text}` is no port; expected 1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<u16>, String> {
        #[derive(Deserialize)]
        struct Jail {
            ports: Ports,
        }
        toml::from_str::<Jail>(&format!("ports = {text}")).map_err(|error| error.to_string())?.ports.read()
    }

    #[test]
    fn ports_are_read_in_every_way_that_people_write_them() {
        assert_eq!(read("22"), Ok(vec![22]));
        assert_eq!(read("\"ssh\""), Ok(vec![22]));
        assert_eq!(read("\"http, https\""), Ok(vec![80, 443]));
        assert_eq!(read("[2222, \"ssh\", \"6000:6002\", 22]"), Ok(vec![22, 2222, 6000, 6001, 6002]));
        assert_eq!(read("\"dovecot\""), Ok(vec![110, 143, 993, 995]));
    }

    #[test]
    fn what_is_no_port_is_said_with_what_would_be_one() {
        for (text, says) in [
            ("0", "1 to 65535"),
            ("70000", "1 to 65535"),
            ("-1", "1 to 65535"),
            ("\"6000:70000\"", "no range"),
            ("\"no-such-service\"", "no TCP service"),
            ("[]", "no port is given"),
            ("\"1:65535\"", "at most 1024"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }

    #[test]
    fn names_and_aliases_of_services_are_found_for_tcp_alone() {
        assert_eq!(listed("http-alt\t8080/tcp\twebcache\t# WWW", "webcache"), Some(8080));
        assert_eq!(listed("http-alt\t8080/tcp", "http-alt"), Some(8080));
        assert_eq!(listed("domain 53/udp", "domain"), None);
        assert_eq!(listed("# http 80/tcp", "http"), None);
        assert_eq!(listed("", "http"), None);
    }

    #[test]
    fn ports_are_shown_short() {
        assert_eq!(shown(&[22]), "port 22");
        assert_eq!(shown(&[22, 80, 81, 6000, 6001, 6002]), "ports 22, 80, 81, 6000–6002");
    }
}
