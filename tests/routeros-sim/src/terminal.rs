//! Commands as an administrator types them at the router's own terminal, as far as setting up a client of
//! the API needs them: rules, groups, users, services, certificates.
//!
//! Quoting is RouterOS's: in `"…"` a backslash escapes, and a bare `$name` is a variable and vanishes.

use std::iter::Peekable;
use std::str::Chars;

use crate::address::Family;
use crate::address_list::parse_id;
use crate::site::{Certificate, Chains, Route, Rule, Site};
use crate::user::{Group, User};

/// A command that the terminal refuses; the texts are RouterOS's as far as they are known.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TerminalError {
    /// No such command, or none that is simulated.
    #[error("bad command name {0}")]
    Command(String),
    /// The line cannot be read.
    #[error("syntax error near {0:?}")]
    Syntax(String),
    /// A parameter that the command does not have.
    #[error("expected end of command at {0:?}")]
    Parameter(String),
    /// A parameter is missing.
    #[error("missing value(s) of argument(s) {0}")]
    Missing(&'static str),
    /// A value that is none.
    #[error("input does not match any value of {0}")]
    Value(&'static str),
    /// What is named is not there.
    #[error("no such item")]
    NoSuchItem,
    /// What is to be added is there already.
    #[error("failure: {0} with the same name already exists")]
    Exists(&'static str),
}

/// The commands that change something.
pub(crate) const VERBS: [&str; 7] = ["add", "set", "sign", "enable", "disable", "remove", "move"];

/// A line taken apart.
pub(crate) struct Typed {
    /// Without its first slash: `ip/firewall/raw`.
    pub(crate) directory: String,
    pub(crate) verb: String,
    /// What stands between the verb and the parameters.
    pub(crate) item: Option<String>,
    pub(crate) parameters: Vec<(String, String)>,
}

impl Site {
    /// Carries out one line.
    pub(crate) fn obey(&mut self, line: &str) -> Result<(), TerminalError> {
        self.carry_out(Typed::read(line)?)?;
        self.present();
        Ok(())
    }

    /// Carries out a command that was taken apart.
    pub(crate) fn carry_out(&mut self, mut typed: Typed) -> Result<(), TerminalError> {
        let rules = match typed.directory.as_str() {
            "ip/firewall/raw" => Some((Family::V4, Chains::Raw)),
            "ip/firewall/filter" => Some((Family::V4, Chains::Filter)),
            "ipv6/firewall/raw" => Some((Family::V6, Chains::Raw)),
            "ipv6/firewall/filter" => Some((Family::V6, Chains::Filter)),
            _ => None,
        };
        if let Some((family, chains)) = rules {
            return match typed.verb.as_str() {
                "add" => self.add_rule(typed, family, chains),
                _ => self.change_rules(typed, family, chains),
            };
        }
        match (typed.directory.as_str(), typed.verb.as_str()) {
            ("user/group", "add") => {
                let name = typed.need("name")?;
                let policy = typed.take("policy").unwrap_or_default();
                let policies = policy.parse().map_err(|_| TerminalError::Value("policy"))?;
                typed.end()?;
                if self.groups.iter().any(|group| group.name == name) {
                    return Err(TerminalError::Exists("group"));
                }
                self.groups.push(Group { name, policies });
                Ok(())
            }
            ("user/group", "set") => {
                let item = typed.item()?;
                let group = self.groups.iter_mut().find(|group| group.name == item);
                let group = group.ok_or(TerminalError::NoSuchItem)?;
                if let Some(policy) = typed.take("policy") {
                    group.policies = policy.parse().map_err(|_| TerminalError::Value("policy"))?;
                }
                typed.end()
            }
            ("user", "add") => {
                let name = typed.need("name")?;
                let group = self.known_group(typed.need("group")?)?;
                let password = typed.take("password").unwrap_or_default();
                let address = typed.take("address").unwrap_or_default();
                let disabled = typed.take_flag("disabled")?.unwrap_or(false);
                typed.end()?;
                if self.users.iter().any(|user| user.name == name) {
                    return Err(TerminalError::Exists("user"));
                }
                self.users.push(User { name, password, group, address, disabled });
                Ok(())
            }
            ("user", "set") => {
                let item = typed.item()?;
                let group = typed.take("group").map(|group| self.known_group(group)).transpose()?;
                let user = self.users.iter_mut().find(|user| user.name == item);
                let user = user.ok_or(TerminalError::NoSuchItem)?;
                user.group = group.unwrap_or_else(|| user.group.clone());
                user.password = typed.take("password").unwrap_or_else(|| user.password.clone());
                user.address = typed.take("address").unwrap_or_else(|| user.address.clone());
                user.disabled = typed.take_flag("disabled")?.unwrap_or(user.disabled);
                typed.end()
            }
            ("ip/service", "set") => self.set_service(typed),
            ("ip/address" | "ipv6/address", "add") => {
                let address = (typed.need("address")?, typed.need("interface")?);
                typed.end()?;
                self.addresses.push(address);
                Ok(())
            }
            ("ip/route", "add") => self.add_route(typed, Family::V4),
            ("ipv6/route", "add") => self.add_route(typed, Family::V6),
            ("certificate", "add") => {
                let certificate = Certificate {
                    name: typed.need("name")?,
                    common_name: typed.need("common-name")?,
                    key_usage: typed.take("key-usage").unwrap_or_default(),
                    days_valid: typed.take("days-valid").unwrap_or_else(|| "365".to_owned()),
                    fingerprint: None,
                };
                typed.end()?;
                if self.certificates.iter().any(|known| known.name == certificate.name) {
                    return Err(TerminalError::Exists("certificate"));
                }
                self.certificates.push(certificate);
                Ok(())
            }
            ("certificate", "sign") => {
                let item = typed.item()?;
                typed.end()?;
                let certificate = self.certificates.iter_mut().find(|certificate| certificate.name == item);
                certificate.ok_or(TerminalError::NoSuchItem)?.fingerprint.clone_from(&self.fingerprint);
                Ok(())
            }
            // Where the time comes from is not simulated; that it can be set is.
            ("system/ntp/client", "set") => Ok(()),
            _ => Err(TerminalError::Command(format!("{} {}", typed.directory, typed.verb).trim().to_owned())),
        }
    }

    fn add_rule(&mut self, mut typed: Typed, family: Family, chains: Chains) -> Result<(), TerminalError> {
        let disabled = typed.take_flag("disabled")?.unwrap_or(false);
        let comment = typed.take("comment").unwrap_or_default();
        let before = typed.take("place-before");
        let before = before.map(|item| self.named_rules(family, chains, &item)).transpose()?;
        let at = self.place_of(before.and_then(|ids| ids.first().copied()));
        if !typed.parameters.iter().any(|(name, _)| name == "chain") {
            return Err(TerminalError::Missing("chain"));
        }
        if typed.item.is_some() {
            return Err(TerminalError::Parameter(typed.item.unwrap_or_default()));
        }
        if !typed.parameters.iter().any(|(name, _)| name == "action") {
            typed.parameters.push(("action".to_owned(), "accept".to_owned()));
        }
        self.last_rule += 1;
        let (id, attributes) = (self.last_rule, typed.parameters);
        let (invalid, dynamic, packets) = (false, false, 0);
        self.rules.insert(
            at,
            Rule { id, family, chains, attributes, disabled, invalid, dynamic, packets, comment },
        );
        Ok(())
    }

    fn change_rules(
        &mut self,
        mut typed: Typed,
        family: Family,
        chains: Chains,
    ) -> Result<(), TerminalError> {
        let ids = self.named_rules(family, chains, &typed.item()?)?;
        let named = |rule: &Rule| ids.contains(&rule.id);
        match typed.verb.as_str() {
            "remove" => self.rules.retain(|rule| !named(rule)),
            "move" => {
                let before = self.named_rules(family, chains, &typed.need("destination")?)?;
                let moved: Vec<Rule> = self.rules.extract_if(.., |rule| named(rule)).collect();
                let at = self.place_of(before.first().copied());
                self.rules.splice(at..at, moved);
            }
            verb @ ("enable" | "disable") => {
                let disabled = verb == "disable";
                self.rules.iter_mut().filter(|rule| named(rule)).for_each(|rule| rule.disabled = disabled);
            }
            verb => return Err(TerminalError::Command(format!("{} {verb}", typed.directory))),
        }
        typed.end()
    }

    /// The ids of the rules that `*1A` or `find name=value …` names.
    fn named_rules(&self, family: Family, chains: Chains, item: &str) -> Result<Vec<u64>, TerminalError> {
        let mut here = self.rules.iter().filter(|rule| rule.family == family && rule.chains == chains);
        if item.starts_with('*') {
            let id = parse_id(item.as_bytes());
            let named = here.find(|rule| Some(rule.id) == id);
            return named.map(|rule| vec![rule.id]).ok_or(TerminalError::NoSuchItem);
        }
        let asked = Typed::read_find(item)?;
        let found = here.filter(|rule| asked.iter().all(|property| rule.attributes.contains(property)));
        Ok(found.map(|rule| rule.id).collect())
    }

    /// Where a rule goes that is to stand before this one; at the end without one.
    fn place_of(&self, before: Option<u64>) -> usize {
        let at = before.and_then(|id| self.rules.iter().position(|rule| rule.id == id));
        at.unwrap_or(self.rules.len())
    }

    fn add_route(&mut self, mut typed: Typed, family: Family) -> Result<(), TerminalError> {
        let any = if family == Family::V4 { "0.0.0.0/0" } else { "::/0" };
        let route = Route {
            family,
            destination: typed.take("dst-address").unwrap_or_else(|| any.to_owned()),
            gateway: typed.need("gateway")?,
            distance: typed.take("distance").unwrap_or_else(|| "1".to_owned()),
            dynamic: false,
            disabled: typed.take_flag("disabled")?.unwrap_or(false),
        };
        typed.end()?;
        self.routes.push(route);
        Ok(())
    }

    fn set_service(&mut self, mut typed: Typed) -> Result<(), TerminalError> {
        let item = typed.item()?;
        let certificate = typed.take("certificate");
        let signed = |name: &String| {
            name == "none"
                || self.certificates.iter().any(|one| one.name == *name && one.fingerprint.is_some())
        };
        if certificate.as_ref().is_some_and(|name| !signed(name)) {
            return Err(TerminalError::Value("certificate"));
        }
        let service = self.services.iter_mut().find(|service| service.name == item);
        let service = service.ok_or(TerminalError::NoSuchItem)?;
        if certificate.is_some() {
            if service.certificate.is_none() {
                return Err(TerminalError::Parameter("certificate".to_owned()));
            }
            service.certificate = certificate;
        }
        service.address = typed.take(self.version.service_limit()).unwrap_or_else(|| service.address.clone());
        service.disabled = typed.take_flag("disabled")?.unwrap_or(service.disabled);
        typed.end()
    }

    fn known_group(&self, group: String) -> Result<String, TerminalError> {
        let known = self.groups.iter().any(|one| one.name == group);
        if known { Ok(group) } else { Err(TerminalError::Value("group")) }
    }
}

// === impl Typed ===

impl Typed {
    fn read(line: &str) -> Result<Self, TerminalError> {
        let mut path: Vec<String> = Vec::new();
        let mut parameters = Vec::new();
        let mut rest = line.trim().chars().peekable();
        while rest.peek().is_some() {
            if rest.next_if_eq(&'[').is_some() {
                // What stands in brackets is read by whoever wants it.
                path.push(rest.by_ref().take_while(|c| *c != ']').collect());
                while rest.next_if(|c| c.is_whitespace()).is_some() {}
                continue;
            }
            let name = word(&mut rest, |c| c == '=')?;
            if rest.next_if_eq(&'=').is_some() {
                parameters.push((name, word(&mut rest, |_| false)?));
            } else if parameters.is_empty() {
                path.extend(name.split('/').filter(|part| !part.is_empty()).map(str::to_owned));
            } else {
                return Err(TerminalError::Parameter(name));
            }
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
        }
        let verb = path.iter().position(|part| VERBS.contains(&part.as_str()));
        let Some(verb) = verb else { return Err(TerminalError::Command(path.join(" "))) };
        let mut after = path.split_off(verb).into_iter();
        let typed = Self {
            directory: path.join("/"),
            verb: after.next().unwrap_or_default(),
            item: after.next(),
            parameters,
        };
        after.next().map_or(Ok(typed), |more| Err(TerminalError::Parameter(more)))
    }

    /// The properties that `find name=value …` asks for.
    fn read_find(text: &str) -> Result<Vec<(String, String)>, TerminalError> {
        let asked = text.strip_prefix("find ").ok_or_else(|| TerminalError::Syntax(text.to_owned()))?;
        Self::read(&format!("/set {asked}")).map(|typed| typed.parameters)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.parameters.iter().position(|(key, _)| key == name)?;
        Some(self.parameters.remove(at).1)
    }

    fn take_flag(&mut self, name: &'static str) -> Result<Option<bool>, TerminalError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        crate::query::boolean(value.as_bytes()).map(Some).ok_or(TerminalError::Value(name))
    }

    fn need(&mut self, name: &'static str) -> Result<String, TerminalError> {
        self.take(name).ok_or(TerminalError::Missing(name))
    }

    fn item(&mut self) -> Result<String, TerminalError> {
        self.item.take().ok_or(TerminalError::Missing("numbers"))
    }

    /// Nothing may be left over.
    fn end(self) -> Result<(), TerminalError> {
        let left = self.item.or_else(|| self.parameters.into_iter().next().map(|(name, _)| name));
        left.map_or(Ok(()), |left| Err(TerminalError::Parameter(left)))
    }
}

/// Reads up to a blank outside quotes, or up to where `ends` says.
fn word(rest: &mut Peekable<Chars<'_>>, ends: impl Fn(char) -> bool) -> Result<String, TerminalError> {
    let mut word = String::new();
    while let Some(&c) = rest.peek() {
        if c.is_whitespace() || ends(c) {
            break;
        }
        rest.next();
        match c {
            '"' => quoted(rest, &mut word)?,
            '$' | '[' | ']' | '(' | ')' | '{' | '}' | ';' | '\\' | '?' => {
                return Err(TerminalError::Syntax(c.to_string()));
            }
            c => word.push(c),
        }
    }
    Ok(word)
}

fn quoted(rest: &mut Peekable<Chars<'_>>, word: &mut String) -> Result<(), TerminalError> {
    let broken = |word: &str| TerminalError::Syntax(word.to_owned());
    loop {
        match rest.next().ok_or_else(|| broken(word))? {
            '"' => return Ok(()),
            '$' => while rest.next_if(char::is_ascii_alphanumeric).is_some() {},
            '\\' => match rest.next().ok_or_else(|| broken(word))? {
                'n' => word.push('\n'),
                'r' => word.push('\r'),
                't' => word.push('\t'),
                '_' => word.push(' '),
                c @ ('"' | '\\' | '$' | '?') => word.push(c),
                high if high.is_ascii_hexdigit() => {
                    let low = rest.next().and_then(|low| low.to_digit(16));
                    let value = high.to_digit(16).zip(low).map(|(high, low)| (high * 16 + low) as u8);
                    word.push(char::from(value.ok_or_else(|| broken(word))?));
                }
                _ => return Err(broken(word)),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::version::Version;

    fn site() -> Site {
        Site::new(Version::new(7, 24, 0), Vec::new(), Vec::new(), Vec::new())
    }

    #[rstest]
    #[case(r#""a b""#, "a b")]
    #[case(r#""a\"b\\\$c\?""#, "a\"b\\$c?")]
    #[case(r#""a$var b""#, "a b")]
    #[case(r#""\41\_b""#, "A b")]
    #[case("atalaya", "atalaya")]
    fn quotes_are_read_as_routeros_reads_them(#[case] typed: &str, #[case] comment: &str) {
        for path in ["/ip/firewall/raw add", "/ip firewall raw add", "/ip/firewall/raw/add"] {
            let mut site = site();
            site.obey(&format!("{path} chain=prerouting comment={typed} action=drop")).unwrap();
            assert_eq!(site.rules[0].comment, comment);
            assert_eq!(site.rules[0].attributes[1], ("action".to_owned(), "drop".to_owned()));
        }
    }

    #[rstest]
    #[case("/ip/firewall/raw add action=drop", "missing value(s) of argument(s) chain")]
    #[case("/ip/firewall/mangle add chain=x", "bad command name ip/firewall/mangle add")]
    #[case("/user/group add name=a policy=read,fly", "input does not match any value of policy")]
    #[case("/user add name=a group=none", "input does not match any value of group")]
    #[case("/user add name=a group=full colour=red", "expected end of command at \"colour\"")]
    #[case("/user set nobody group=full", "no such item")]
    #[case("/user/group add name=full policy=read", "failure: group with the same name already exists")]
    #[case("/user add name=$x group=full", "syntax error near \"$\"")]
    #[case("/user add name=\"x group=full", "syntax error near \"x group=full\"")]
    #[case("/certificate sign api", "no such item")]
    #[case("reboot", "bad command name reboot")]
    fn what_is_wrong_is_refused(#[case] line: &str, #[case] says: &str) {
        assert_eq!(site().obey(line).unwrap_err().to_string(), says);
    }

    #[test]
    fn found_rules_are_enabled_and_others_are_not() {
        let mut site = site();
        for list in ["a", "b"] {
            let rule = format!("/ip/firewall/raw add chain=prerouting src-address-list={list} disabled=yes");
            site.obey(&rule).unwrap();
        }
        site.obey("/ip/firewall/raw enable [find src-address-list=\"a\" action=accept]").unwrap();
        assert_eq!(site.rules.iter().map(|rule| rule.disabled).collect::<Vec<_>>(), [false, true]);
        assert!(site.obey("/ip/firewall/raw enable [nothing]").is_err());
    }

    #[test]
    fn rules_stand_where_they_are_placed_and_moved_and_keep_their_ids() {
        let mut site = site();
        let raw = "/ip/firewall/raw";
        let add = format!("{raw} add chain=prerouting");
        for line in [
            format!("{add} action=accept"),
            "/ip/firewall/filter add chain=input".to_owned(),
            format!("{add} action=drop src-address-list=a"),
            format!("{add} action=drop src-address-list=b place-before=*1"),
            format!("{add} action=log"),
            format!("{raw} move *3 destination=*4"),
            format!("{raw} disable *5"),
        ] {
            site.obey(&line).unwrap();
        }
        let ids = |site: &Site| {
            let raw = site.rules.iter().filter(|rule| rule.chains == Chains::Raw);
            raw.map(|rule| rule.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&site), [3, 4, 1, 5]);
        assert!(site.rules.iter().all(|rule| rule.disabled == (rule.id == 5)));
        // An id is another table's, or nobody's.
        for wrong in ["move *3 destination=*2", "remove *9", "add chain=prerouting place-before=*9"] {
            assert_eq!(site.obey(&format!("{raw} {wrong}")), Err(TerminalError::NoSuchItem));
        }
        site.obey(&format!("{raw} remove [find src-address-list=b]")).unwrap();
        site.obey(&add).unwrap();
        assert_eq!(ids(&site), [3, 1, 5, 6]);
    }

    #[test]
    fn only_a_signed_certificate_can_be_given_to_a_service() {
        let tls = Some("none".to_owned());
        let service = crate::site::Service {
            name: "api-ssl",
            port: 8729,
            disabled: true,
            address: String::new(),
            certificate: tls,
        };
        let mut site = Site::new(Version::new(7, 24, 0), Vec::new(), Vec::new(), vec![service]);
        site.fingerprint = Some("ab".to_owned());
        site.obey("/certificate add name=api common-name=edge key-usage=tls-server").unwrap();
        let set = "/ip/service set api-ssl certificate=api disabled=no";
        assert_eq!(site.obey(set), Err(TerminalError::Value("certificate")));
        site.obey("/certificate sign api").unwrap();
        site.obey(set).unwrap();
        assert!(!site.services[0].disabled && site.services[0].certificate.as_deref() == Some("api"));
    }
}
