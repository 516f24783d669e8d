//! The RouterOS commands that a person pastes into a router's terminal, with its quoting.

use std::fmt::Write as _;

use super::release::Release;
use crate::prefixes::Family;
use crate::router::address_list::EntryId;

/// The group that the commands make for the enforcer's user.
pub const GROUP: &str = "atalaya";

/// The policies that it needs, and no more.
pub const POLICIES: [&str; 3] = ["read", "write", "api"];

/// The rule that drops what is on the list, before connection tracking sees it; in front of another where it
/// would come too late at the end.
pub fn add_rule(family: Family, list: &str, before: Option<EntryId>) -> String {
    let root = root(family);
    let place = before.map_or_else(String::new, |before| format!(" place-before={before}"));
    format!(
        "{root}/firewall/raw add chain=prerouting action=drop src-address-list={} comment=\"atalaya\"{place}",
        word(list)
    )
}

/// Enables the raw rules that do this with what is on the list.
pub fn enable_rule(family: Family, action: &str, list: &str) -> String {
    let (root, action) = (root(family), word(action));
    format!("{root}/firewall/raw enable [find action={action} src-address-list={}]", word(list))
}

/// Moves a raw rule in front of another.
pub fn move_rule(family: Family, rule: EntryId, before: EntryId) -> String {
    format!("{}/firewall/raw move {rule} destination={before}", root(family))
}

/// A group with what the enforcer needs.
pub fn add_group() -> String {
    format!("/user/group add name={GROUP} policy={}", POLICIES.join(","))
}

/// Gives the group what the enforcer needs.
pub fn set_group() -> String {
    format!("/user/group set {GROUP} policy={}", POLICIES.join(","))
}

/// A new user of that group.
pub fn add_user(user: &str, password: &str) -> String {
    format!("/user add name={} group={GROUP} password={}", word(user), quoted(password))
}

/// Moves a user to that group.
pub fn move_user(user: &str) -> String {
    format!("/user set {} group={GROUP}", word(user))
}

/// A certificate for api-ssl that signs itself.
pub fn add_certificate(host: &str) -> String {
    let host = word(host);
    format!("/certificate add name=api common-name={host} key-usage=tls-server days-valid=3650")
}

/// Lets the certificate of [`add_certificate`] sign itself.
pub fn sign_certificate() -> String {
    "/certificate sign api".to_owned()
}

/// Turns api-ssl on with a certificate.
pub fn enable_api_ssl(certificate: &str) -> String {
    format!("/ip/service set api-ssl certificate={} disabled=no", word(certificate))
}

/// Has the router ask for the time.
pub fn set_time_source(release: Option<Release>) -> String {
    // RouterOS 7 takes names where 6 had a setting of its own for them.
    let servers =
        if release.is_some_and(|release| release.major < 7) { "server-dns-names" } else { "servers" };
    format!("/system/ntp/client set enabled=yes {servers}=pool.ntp.org")
}

/// The command in the form that this release takes: 6 wants blanks in a path where 7 takes slashes too.
pub fn spoken(command: &str, release: Option<Release>) -> String {
    let (path, rest) = command.split_once(' ').unwrap_or((command, ""));
    match path.strip_prefix('/') {
        Some(path) if release.is_some_and(|release| release.major < 7) => {
            format!("/{} {rest}", path.replace('/', " "))
        }
        _ => command.to_owned(),
    }
}

/// A value without quotes where none are needed.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '@');
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { quoted(text) }
}

/// A value in quotes, in which RouterOS reads nothing but what is meant.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | b'$' | b'?' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            // Writing to a String cannot fail.
            other => drop(write!(quoted, "\\{other:02X}")),
        }
    }
    quoted.push('"');
    quoted
}

fn root(family: Family) -> &'static str {
    match family {
        Family::V4 => "/ip",
        Family::V6 => "/ipv6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_read_otherwise_is_quoted() {
        for (text, typed) in [
            ("spammer", "spammer"),
            ("a;b", "\"a;b\""),
            ("a b", "\"a b\""),
            ("", "\"\""),
            ("$x?\"\\", "\"\\$x\\?\\\"\\\\\""),
            ("é\n", "\"\\C3\\A9\\0A\""),
            ("[find]", "\"[find]\""),
        ] {
            assert_eq!(word(text), typed);
        }
    }

    #[test]
    fn routeros_6_gets_its_paths_with_blanks() {
        let command = add_rule(Family::V6, "a/b", None);
        let old = Release::parse("6.49");
        assert!(spoken(&command, old).starts_with("/ipv6 firewall raw add chain=prerouting "));
        assert!(spoken(&command, old).contains("src-address-list=a/b "));
        assert_eq!(spoken(&command, Release::parse("7.1")), command);
        assert!(set_time_source(old).contains("server-dns-names="));
    }
}
