//! From where the administrator sits at this host, where that is another one: the ssh session that a command
//! runs in, also behind `sudo`, which hides it from the command's own environment.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;

use atalaya_wire::canonical;

/// What sshd puts into the environment: the client's address and port, and the server's.
const VARIABLE: &str = "SSH_CONNECTION";
/// So many processes above this one are looked at.
const ANCESTORS: usize = 64;

/// The client of the ssh session that this process runs in; `None` where there is none, or nobody may see it.
pub fn client() -> Option<IpAddr> {
    if let Some(connection) = std::env::var_os(VARIABLE) {
        return client_of(&connection);
    }
    let mut process = std::os::unix::process::parent_id();
    for _ in 0..ANCESTORS {
        let folder = format!("/proc/{process}");
        let environment = std::fs::read(format!("{folder}/environ")).unwrap_or_default();
        if let Some(connection) = find(&environment) {
            return client_of(connection);
        }
        process = parent(&std::fs::read_to_string(format!("{folder}/stat")).ok()?)?;
        if process <= 1 {
            return None;
        }
    }
    None
}

/// The variable in an environment as the kernel shows it (`proc_pid_environ(5)`).
fn find(environment: &[u8]) -> Option<&OsStr> {
    let variables = environment.split(|byte| *byte == 0);
    let value =
        |variable: &'_ [u8]| variable.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"=").map(<[u8]>::len);
    let found = variables.into_iter().find_map(|variable| Some((variable, value(variable)?)));
    found.map(|(variable, length)| OsStr::from_bytes(&variable[variable.len() - length..]))
}

fn client_of(connection: &OsStr) -> Option<IpAddr> {
    let address = connection.to_str()?.split_whitespace().next()?;
    let address: IpAddr = address.split('%').next()?.parse().ok()?;
    let address = canonical(address);
    (!address.is_loopback()).then_some(address)
}

/// The parent of a process (`proc_pid_stat(5)`): the second word behind the name, which may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_found_in_an_environment_and_the_own_host_is_none() {
        let environment = b"A=1\0XSSH_CONNECTION=no\0SSH_CONNECTION=203.0.113.5 50000 192.0.2.1 22\0B=\0";
        assert_eq!(client_of(find(environment).unwrap()), Some("203.0.113.5".parse().unwrap()));
        assert_eq!(find(b"A=1\0"), None);
        let client = |text: &str| client_of(OsStr::new(text));
        assert_eq!(client("fe80::1%eth0 1 fe80::2 22"), Some("fe80::1".parse().unwrap()));
        assert_eq!(client("127.0.0.1 1 127.0.0.1 22"), None);
        assert_eq!(client("UNKNOWN 65535 UNKNOWN 65535"), None);
        assert_eq!(client(""), None);
    }

    #[test]
    fn the_parent_of_a_process_with_a_name_of_its_own_choice_is_found() {
        assert_eq!(parent("7 (a) S 1 (b) R 5 7"), Some(5));
        assert_eq!(parent("7 (sshd) S 6 7 7 0"), Some(6));
        assert_eq!(parent(""), None);
    }
}
