//! The administrators' own networks, which are never banned: what is suggested, and what is answered.

use std::fs;
use std::net::IpAddr;

use atalaya_enforcer::bans::allow::{AllowError, What};
use atalaya_enforcer::router::RouterNetworks;
use atalaya_wire::canonical;
use ipnet::IpNet;

use super::prompt::Prompt;

/// How many processes up it is looked for who is logged in.
const MOST_PARENTS: usize = 32;

/// What was given, each as the configuration has it.
pub fn parse(texts: &[String]) -> Result<Vec<String>, AllowError> {
    texts.iter().map(|text| Ok(What::parse(text)?.key())).collect()
}

/// Asks until the answer is one; Enter takes the suggestion.
pub fn ask(prompt: Prompt, suggestion: &[String]) -> anyhow::Result<Vec<String>> {
    let suggestion = suggestion.join(" ");
    let enter = if suggestion.is_empty() { "" } else { ", or none" };
    let question = format!(
        "Your own networks, addresses or names, with blanks between them, which are never banned{enter}"
    );
    loop {
        let answer: String = prompt.value(None, &question, Some(&suggestion), "--allow")?;
        if answer.trim() == "none" {
            return Ok(Vec::new());
        }
        let words = answer.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned);
        match parse(&words.collect::<Vec<_>>()) {
            Ok(networks) => return Ok(networks),
            Err(error) => eprintln!("{error}"),
        }
    }
}

/// The private networks behind the router, and the address that somebody is logged in from.
pub fn suggestion(networks: Option<&RouterNetworks>, from: Option<IpAddr>) -> Vec<String> {
    let mut all: Vec<IpNet> = networks.iter().flat_map(|told| told.private.iter().copied()).collect();
    if let Some(from) = from.map(canonical)
        && !from.is_loopback()
        && !all.iter().any(|network| network.contains(&from))
    {
        all.push(from.into());
    }
    // As they would be typed: a single address without the length of its network.
    let typed = |network: &IpNet| {
        let single = network.prefix_len() == network.max_prefix_len();
        if single { network.addr().to_string() } else { network.to_string() }
    };
    all.iter().map(typed).collect()
}

/// From where somebody is logged in by SSH. `sudo` takes the variable away, so that it is looked for in the processes
/// that this one came from; the first that has it says it, also where it is empty.
pub fn logged_in_from() -> Option<IpAddr> {
    if let Ok(connection) = std::env::var("SSH_CONNECTION") {
        return client(&connection);
    }
    let mut process = std::os::unix::process::parent_id();
    for _ in 0..MOST_PARENTS {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        if let Some(connection) = variables.find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION=")) {
            return client(&String::from_utf8_lossy(connection));
        }
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        process = parent.trim().parse().ok().filter(|parent| *parent > 1)?;
    }
    None
}

/// The client of `CLIENT PORT SERVER PORT`.
fn client(connection: &str) -> Option<IpAddr> {
    let address = connection.split(' ').next()?;
    // A link-local one names its interface.
    address.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_login_is_suggested_beside_the_networks_unless_it_is_in_one() {
        let networks = RouterNetworks {
            private: ["192.168.88.0/24".parse().unwrap(), "fd00:88::/64".parse().unwrap()].into(),
            ..RouterNetworks::default()
        };
        for (connection, expected) in [
            ("203.0.113.9 50000 192.0.2.1 22", "192.168.88.0/24 fd00:88::/64 203.0.113.9"),
            ("::ffff:203.0.113.9 50000 ::ffff:192.0.2.1 22", "192.168.88.0/24 fd00:88::/64 203.0.113.9"),
            ("192.168.88.7 50000 192.168.88.2 22", "192.168.88.0/24 fd00:88::/64"),
            ("127.0.0.1 50000 127.0.0.1 22", "192.168.88.0/24 fd00:88::/64"),
            ("fe80::1%eth0 50000 fe80::2%eth0 22", "192.168.88.0/24 fd00:88::/64 fe80::1"),
            ("", "192.168.88.0/24 fd00:88::/64"),
        ] {
            assert_eq!(suggestion(Some(&networks), client(connection)).join(" "), expected, "{connection}");
        }
        assert_eq!(suggestion(None, None), Vec::<String>::new());
    }
}
