//! The RouterOS commands that a person pastes into a router's terminal, with its quoting.

use std::fmt::{self, Write as _};

use super::release::Release;
use crate::prefixes::Family;
use crate::router::address_list::EntryId;

/// The group that the commands make for the enforcer's user.
pub const GROUP: &str = "atalaya";

/// The policies that it needs, and no more.
pub const POLICIES: [&str; 3] = ["read", "write", "api"];

/// A change of a router's setup: one description from which both the text for its terminal and the API's sentences come,
/// so that what is printed and what is sent cannot differ.
#[derive(Clone, PartialEq, Eq)]
pub struct Remedy {
    /// `/ip/firewall/raw`.
    pub(super) directory: &'static str,
    /// `add`, `set`, `enable`, `move` or `sign`.
    pub(super) verb: &'static str,
    /// What is changed; `None` where something is added, or where the directory has one row.
    pub(super) item: Option<ItemName>,
    /// Names and values.
    pub(super) properties: Vec<(&'static str, TypedValue)>,
    /// Whether the terminal wants blanks in a path where newer ones take slashes too.
    spaced: bool,
}

/// What a command changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ItemName {
    /// The row of this name.
    Named(String),
    /// The row of this id.
    Id(EntryId),
    /// The rows with these properties.
    Found(Vec<(&'static str, String)>),
}

/// A value, and how it is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TypedValue {
    /// In quotes where it needs them.
    Word(String),
    /// In quotes.
    Quoted(String),
    /// In quotes, and shown to nobody where it need not be typed.
    Secret(String),
    /// Words of RouterOS's own, with commas between them.
    Bare(String),
}

/// The rule that drops what is on the list, before connection tracking sees it; in front of another where it
/// would come too late at the end.
pub fn add_rule(family: Family, list: &str, before: Option<EntryId>) -> Remedy {
    let mut properties = vec![
        ("chain", TypedValue::bare("prerouting")),
        ("action", TypedValue::bare("drop")),
        ("src-address-list", TypedValue::word(list)),
        ("comment", TypedValue::Quoted("atalaya".to_owned())),
    ];
    properties.extend(before.map(|before| ("place-before", TypedValue::Bare(before.to_string()))));
    Remedy::add(raw(family), properties)
}

/// Enables the raw rules that do this with what is on the list.
pub fn enable_rule(family: Family, action: &str, list: &str) -> Remedy {
    let found = vec![("action", action.to_owned()), ("src-address-list", list.to_owned())];
    Remedy::of(raw(family), "enable", ItemName::Found(found), Vec::new())
}

/// Moves a raw rule in front of another.
pub fn move_rule(family: Family, rule: EntryId, before: EntryId) -> Remedy {
    let destination = ("destination", TypedValue::Bare(before.to_string()));
    Remedy::of(raw(family), "move", ItemName::Id(rule), vec![destination])
}

/// A group with what the enforcer needs.
pub fn add_group() -> Remedy {
    Remedy::add("/user/group", vec![("name", TypedValue::bare(GROUP)), policies()])
}

/// Gives the group what the enforcer needs.
pub fn set_group() -> Remedy {
    Remedy::of("/user/group", "set", ItemName::Named(GROUP.to_owned()), vec![policies()])
}

/// A new user of that group.
pub fn add_user(user: &str, password: &str) -> Remedy {
    let password = TypedValue::Secret(password.to_owned());
    let name = ("name", TypedValue::word(user));
    Remedy::add("/user", vec![name, ("group", TypedValue::bare(GROUP)), ("password", password)])
}

/// Moves a user to that group.
pub fn move_user(user: &str) -> Remedy {
    Remedy::of("/user", "set", ItemName::Named(user.to_owned()), vec![("group", TypedValue::bare(GROUP))])
}

/// Gives a user another password.
pub fn set_password(user: &str, password: &str) -> Remedy {
    let password = ("password", TypedValue::Secret(password.to_owned()));
    Remedy::of("/user", "set", ItemName::Named(user.to_owned()), vec![password])
}

/// A certificate for api-ssl that signs itself.
pub fn add_certificate(host: &str) -> Remedy {
    let properties = vec![
        ("name", TypedValue::bare("api")),
        ("common-name", TypedValue::word(host)),
        ("key-usage", TypedValue::bare("tls-server")),
        ("days-valid", TypedValue::bare("3650")),
    ];
    Remedy::add("/certificate", properties)
}

/// Lets the certificate of [`add_certificate`] sign itself.
pub fn sign_certificate() -> Remedy {
    Remedy::of("/certificate", "sign", ItemName::Named("api".to_owned()), Vec::new())
}

/// Turns api-ssl on with a certificate.
pub fn enable_api_ssl(certificate: &str) -> Remedy {
    let properties =
        vec![("certificate", TypedValue::word(certificate)), ("disabled", TypedValue::bare("no"))];
    Remedy::of("/ip/service", "set", ItemName::Named("api-ssl".to_owned()), properties)
}

/// Lets a service take as many sessions as it does by default.
pub fn set_max_sessions(service: &str) -> Remedy {
    let sessions = vec![("max-sessions", TypedValue::bare("20"))];
    Remedy::of("/ip/service", "set", ItemName::Named(service.to_owned()), sessions)
}

/// Has the router ask for the time.
pub fn set_time_source(release: Option<Release>) -> Remedy {
    // RouterOS 7 takes names where 6 had a setting of its own for them.
    let servers =
        if release.is_some_and(|release| release.major < 7) { "server-dns-names" } else { "servers" };
    let properties = vec![("enabled", TypedValue::bare("yes")), (servers, TypedValue::bare("pool.ntp.org"))];
    Remedy { item: None, verb: "set", ..Remedy::add("/system/ntp/client", properties) }
}

fn policies() -> (&'static str, TypedValue) {
    ("policy", TypedValue::Bare(POLICIES.join(",")))
}

fn raw(family: Family) -> &'static str {
    match family {
        Family::V4 => "/ip/firewall/raw",
        Family::V6 => "/ipv6/firewall/raw",
    }
}

// === impl Remedy ===

impl Remedy {
    fn add(directory: &'static str, properties: Vec<(&'static str, TypedValue)>) -> Self {
        Self { directory, verb: "add", item: None, properties, spaced: false }
    }

    fn of(
        directory: &'static str,
        verb: &'static str,
        item: ItemName,
        properties: Vec<(&'static str, TypedValue)>,
    ) -> Self {
        Self { verb, item: Some(item), ..Self::add(directory, properties) }
    }

    /// In the form that this release takes at its terminal: 6 wants blanks in a path where 7 takes slashes too.
    #[must_use]
    pub fn for_release(self, release: Option<Release>) -> Self {
        Self { spaced: release.is_some_and(|release| release.major < 7), ..self }
    }

    /// As it is typed at the router's terminal, secrets included.
    pub fn typed(&self) -> String {
        self.text(false)
    }

    /// Where it is done, such as `/user`.
    pub fn directory(&self) -> &'static str {
        self.directory
    }

    /// What is done there, such as `add`.
    pub fn verb(&self) -> &'static str {
        self.verb
    }

    /// Whether it gives api-ssl its certificate.
    pub fn is_of_tls(&self) -> bool {
        self.directory == "/certificate" || self.verb == "set" && self.value("certificate").is_some()
    }

    /// The family whose list is dropped by once it is done.
    pub fn dropping(&self) -> Option<Family> {
        [Family::V4, Family::V6].into_iter().find(|family| raw(*family) == self.directory)
    }

    /// The value of a property.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(key, _)| *key == name).map(|(_, value)| value.text())
    }

    fn text(&self, hides: bool) -> String {
        let path = if self.spaced {
            format!("/{}", self.directory[1..].replace('/', " "))
        } else {
            self.directory.to_owned()
        };
        let mut text = format!("{path} {}", self.verb);
        match &self.item {
            Some(ItemName::Named(name)) => text += &format!(" {}", word(name)),
            Some(ItemName::Id(id)) => text += &format!(" {id}"),
            Some(ItemName::Found(properties)) => {
                let asked = properties.iter().map(|(name, value)| format!(" {name}={}", word(value)));
                text += &format!(" [find{}]", asked.collect::<String>());
            }
            None => {}
        }
        for (name, value) in &self.properties {
            text += &format!(" {name}={}", value.typed(hides));
        }
        text
    }
}

/// As it is shown where it is not to be typed: without secrets.
impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(true))
    }
}

impl fmt::Debug for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl TypedValue ===

impl TypedValue {
    fn word(text: &str) -> Self {
        Self::Word(text.to_owned())
    }

    fn bare(text: &str) -> Self {
        Self::Bare(text.to_owned())
    }

    /// The value itself, which the API takes as it is.
    pub(super) fn text(&self) -> &str {
        let (Self::Word(text) | Self::Quoted(text) | Self::Secret(text) | Self::Bare(text)) = self;
        text
    }

    fn typed(&self, hides: bool) -> String {
        match self {
            Self::Word(text) => word(text),
            Self::Secret(_) if hides => "…".to_owned(),
            Self::Quoted(text) | Self::Secret(text) => quoted(text),
            Self::Bare(text) => text.clone(),
        }
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
        let typed = |release| command.clone().for_release(release).typed();
        assert!(typed(old).starts_with("/ipv6 firewall raw add chain=prerouting "));
        assert!(typed(old).contains("src-address-list=a/b "));
        assert_eq!(typed(Release::parse("7.1")), command.typed());
        assert!(set_time_source(old).typed().contains("server-dns-names="));
    }

    #[test]
    fn a_password_is_typed_and_not_shown() {
        let add = add_user("guard", "p\"w");
        assert_eq!(add.typed(), "/user add name=guard group=atalaya password=\"p\\\"w\"");
        assert_eq!(format!("{add} {add:?}").matches("password=…").count(), 2);
    }
}
