//! Two configurations compared, in the words of the configuration file: what a reload says before it changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};

use atalaya_wire::{Escalation, Name};

use super::Config;
use crate::bans::protect::ProtectConfig;
use crate::intake::SensorLimits;
use crate::intake::fleet::FleetConfig;
use crate::router::RouterConfig;
use crate::router::check::command::quoted;

/// What differs, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// What a running enforcer can take up.
    pub changes: Vec<String>,
    /// What it cannot before it is started again, and leaves as it is.
    pub unchanged: Vec<String>,
}

// === impl Differences ===

impl Differences {
    /// From one configuration to another.
    pub fn between(before: &Config, after: &Config) -> Self {
        // Of a setting that is new the compiler tells here that it is to be compared.
        let Config {
            listen: _,
            state: _,
            socket: _,
            allow: _,
            list: _,
            severity: _,
            widen: _,
            escalation: _,
            fleet: _,
            protect: _,
            history: _,
            sensors: _,
            metrics: _,
            nat64: _,
            routers: _,
            warnings: _,
        } = before;
        let mut found = Self::default();
        found.needs_restart("listen", &before.listen, &after.listen);
        found.needs_restart("state", &before.state.display(), &after.state.display());
        found.needs_restart("socket", &before.socket.display(), &after.socket.display());
        let told =
            |at: Option<std::net::SocketAddr>| at.map_or_else(|| "nowhere".to_owned(), |at| at.to_string());
        found.needs_restart("metrics", &told(before.metrics), &told(after.metrics));
        found.routers(&before.routers, &after.routers);
        found.list(before, after);
        found.set("allow", &allowed(before), &allowed(after));
        found.set("nat64", &Vec::from(before.nat64.clone()), &Vec::from(after.nat64.clone()));
        found.policy(before, after);
        found.sensors(before.sensors, after.sensors);
        found.fleet(&before.fleet, &after.fleet);
        found
    }

    fn needs_restart(&mut self, name: &str, before: &impl Display, after: &impl Display) {
        let (before, after) = (before.to_string(), after.to_string());
        if before != after {
            self.unchanged.push(format!(
                "{name}: {after} needs a restart of the enforcer; until then it stays {before}"
            ));
        }
    }

    fn value(&mut self, name: &str, before: impl Display, after: impl Display) {
        let (before, after) = (before.to_string(), after.to_string());
        if before != after {
            self.changes.push(format!("{name} {before} → {after}"));
        }
    }

    /// What came to a list, and what went from it.
    fn set(&mut self, name: &str, before: &[String], after: &[String]) {
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), after.iter().collect());
        self.changes.extend(new.difference(&old).map(|one| format!("{name}: + {one}")));
        self.changes.extend(old.difference(&new).map(|one| format!("{name}: - {one}")));
    }

    fn routers(&mut self, before: &[RouterConfig], after: &[RouterConfig]) {
        let (old, new) = (by_name(before, |router| &router.name), by_name(after, |router| &router.name));
        for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            match (old.get(name), new.get(name)) {
                (None, Some(router)) => {
                    self.changes.push(format!("router {name}: added ({})", router.address));
                }
                (Some(router), None) => self.changes.push(removed(router)),
                (Some(old), Some(new)) => self.router(old, new),
                (None, None) => {}
            }
        }
    }

    fn router(&mut self, old: &RouterConfig, new: &RouterConfig) {
        let RouterConfig {
            name,
            address: _,
            user: _,
            password: _,
            tls: _,
            lists: _,
            mark: _,
            old_marks: _,
            // Of all routers, said of the list.
            lineage: _,
            adopted: _,
            read_only: _,
            ipv6: _,
            jails: _,
            severity: _,
            max_entries: _,
            window: _,
            rate: _,
            max_cpu: _,
            reconcile_every: _,
            deadlines: _,
        } = new;
        let name = format!("router {name}:");
        let already = self.changes.len();
        self.value(&format!("{name} address"), &old.address, &new.address);
        self.value(&format!("{name} user"), &old.user, &new.user);
        if old.password != new.password {
            self.changes.push(format!("{name} another password"));
        }
        let tls = |router: &RouterConfig| {
            router.tls.map_or("none (not encrypted)".to_owned(), |fingerprint| fingerprint.to_string())
        };
        self.value(&format!("{name} fingerprint"), tls(old), tls(new));
        // One line for both families where they share a list.
        let families = if new.lists[0] == new.lists[1] && old.lists[0] == old.lists[1] { 1 } else { 2 };
        for (family, setting) in ["list", "ipv6_list"].into_iter().enumerate().take(families) {
            let (before, after) = (&old.lists[family], &new.lists[family]);
            if before != after {
                self.changes.push(format!(
                    "{name} {setting} {before} → {after}; entries on {before} expire by themselves, and `atalaya-enforcer tidy {}` removes them now",
                    new.name
                ));
            }
        }
        let jails = |router: &RouterConfig| {
            if router.jails.is_empty() { "all".to_owned() } else { joined(&router.jails) }
        };
        self.value(&format!("{name} jails"), jails(old), jails(new));
        self.value(&format!("{name} severity"), word(old.severity), word(new.severity));
        let most = |router: &RouterConfig| {
            router.max_entries.map_or("what its memory allows".to_owned(), |most| most.to_string())
        };
        self.value(&format!("{name} max_entries"), most(old), most(new));
        self.value(&format!("{name} window"), old.window, new.window);
        let rate =
            |router: &RouterConfig| router.rate.map_or("unlimited".to_owned(), |rate| rate.to_string());
        self.value(&format!("{name} rate"), rate(old), rate(new));
        self.value(&format!("{name} max_cpu"), old.max_cpu, new.max_cpu);
        let every = |router: &RouterConfig| format!("{}s", router.reconcile_every.as_secs());
        self.value(&format!("{name} reconcile"), every(old), every(new));
        self.value(&format!("{name} ipv6"), old.ipv6, new.ipv6);
        self.value(&format!("{name} read_only"), old.read_only, new.read_only);
        if self.changes.len() > already && !old.shares_session(new) {
            self.changes.push(format!("{name} logs in anew"));
        }
    }

    fn list(&mut self, before: &Config, after: &Config) {
        let (old, new) = (&before.list, &after.list);
        self.value("list: name", &old.names[0], &new.names[0]);
        if old.names[1] != old.names[0] || new.names[1] != new.names[0] {
            self.value("list: ipv6_name", &old.names[1], &new.names[1]);
        }
        self.value("list: mark", &old.mark, &new.mark);
        self.value("list: comment", format!("\"{}\"", old.comment), format!("\"{}\"", new.comment));
        let adopted = |config: &Config| -> Vec<String> {
            let words = config.routers.iter().flat_map(|router| &router.adopted);
            words.collect::<BTreeSet<_>>().into_iter().map(ToString::to_string).collect()
        };
        self.set("list: adopt", &adopted(before), &adopted(after));
    }

    fn policy(&mut self, before: &Config, after: &Config) {
        for jail in before.severity.keys().chain(after.severity.keys()).collect::<BTreeSet<_>>() {
            let of = |config: &Config| word(config.severity.get(jail).copied().unwrap_or_default());
            self.value(&format!("severity: {jail}"), of(before), of(after));
        }
        let threshold = |value: Option<usize>| value.map_or("0 (never)".to_owned(), |most| most.to_string());
        self.value("widen: ipv4", threshold(before.widen.ipv4), threshold(after.widen.ipv4));
        self.value("widen: ipv6", threshold(before.widen.ipv6), threshold(after.widen.ipv6));
        self.value("widen: ipv6_prefix", before.widen.ipv6_prefix, after.widen.ipv6_prefix);
        self.value(
            "escalation:",
            escalation(before.escalation.as_ref()),
            escalation(after.escalation.as_ref()),
        );
        let within = |protect: &ProtectConfig| {
            protect.within.map_or("0s (nobody)".to_owned(), |within| within.to_string())
        };
        self.value("protect: within", within(&before.protect), within(&after.protect));
        let (old, new) = (&before.protect.networks, &after.protect.networks);
        self.set("protect: networks", &Vec::from(old.clone()), &Vec::from(new.clone()));
        self.value("history: keep", before.history.keep, after.history.keep);
        let megabytes = |config: &Config| config.history.max_size / 1_000_000;
        self.value("history: max_megabytes", megabytes(before), megabytes(after));
    }

    fn sensors(&mut self, before: SensorLimits, after: SensorLimits) {
        let SensorLimits { offences, bans, logins } = after;
        let most = |most: Option<usize>| most.map_or("0 (any number)".to_owned(), |most| most.to_string());
        let rate = |rate: Option<u32>| most(rate.map(|rate| rate as usize));
        self.value("sensors: offences", rate(before.offences), rate(offences));
        self.value("sensors: bans", most(before.bans), most(bans));
        self.value("sensors: logins", most(before.logins), most(logins));
    }

    fn fleet(&mut self, before: &[FleetConfig], after: &[FleetConfig]) {
        let (old, new) = (by_name(before, |jail| &jail.name), by_name(after, |jail| &jail.name));
        for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            match (old.get(name), new.get(name)) {
                (None, Some(_)) => self.changes.push(format!("fleet.{name}: added")),
                (Some(_), None) => {
                    self.changes.push(format!("fleet.{name}: removed; its bans stand until they end"));
                }
                (Some(old), Some(new)) => {
                    let jails = |jail: &FleetConfig| {
                        if jail.jails.is_empty() { "all".to_owned() } else { joined(&jail.jails) }
                    };
                    if old.jails != new.jails {
                        let (old, new) = (jails(old), jails(new));
                        self.changes.push(format!("fleet.{name}: jails {old} → {new}; it counts anew"));
                    }
                    self.value(&format!("fleet.{name}: maxretry"), old.maxretry, new.maxretry);
                    self.value(&format!("fleet.{name}: findtime"), old.findtime, new.findtime);
                    self.value(&format!("fleet.{name}: bantime"), old.bantime, new.bantime);
                    self.value(&format!("fleet.{name}: sensors"), old.sensors, new.sensors);
                }
                (None, None) => {}
            }
        }
    }
}

/// That a router is held to nothing any more, and what becomes of its entries.
fn removed(router: &RouterConfig) -> String {
    let RouterConfig { name, address, lists, mark, lineage, .. } = router;
    // Entries of a release before this one have no word of the ledger.
    let rest = lineage.map_or(" ".to_owned(), |word| format!("( |{word}: )"));
    let special = |letter: char| ".[]()*+?{}|^$\\".contains(letter).then_some('\\');
    let mark: String = mark.chars().flat_map(|letter| special(letter).into_iter().chain([letter])).collect();
    let comment = quoted(&format!("^{mark}:{rest}"));
    let remove = |path: &str, list: &str| {
        format!("{path} firewall address-list remove [find list={} comment~{comment}]", quoted(list))
    };
    let mut commands = vec![remove("/ip", &lists[0])];
    commands.extend(router.ipv6.then(|| remove("/ipv6", &lists[1])));
    format!(
        "router {name}: removed ({address}); its entries stay there until each expires by itself; typed at the router, this removes them now: {}",
        commands.join("; ")
    )
}

fn allowed(config: &Config) -> Vec<String> {
    let mut allowed: Vec<String> = config.allow.networks.clone().into();
    allowed.extend(config.allow.names.iter().cloned());
    allowed
}

fn escalation(escalation: Option<&Escalation>) -> String {
    let Some(Escalation { thousandths, max, random, overall, decay }) = escalation else {
        return "none".to_owned();
    };
    let multiplier = |thousandths: &u64| (*thousandths as f64 / 1000.0).to_string();
    let mut text = format!("times {}", thousandths.iter().map(multiplier).collect::<Vec<_>>().join(", "));
    for (name, value) in [("max", max), ("random", random), ("decay", decay)] {
        text.extend(value.iter().map(|value| format!("; {name} {value}")));
    }
    if *overall {
        text.push_str("; overall");
    }
    text
}

fn by_name<'a, T>(all: &'a [T], name: impl Fn(&'a T) -> &'a Name) -> BTreeMap<&'a Name, &'a T> {
    all.iter().map(|one| (name(one), one)).collect()
}

fn joined(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// A value as the configuration writes it.
fn word(value: impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const ROUTER: &str = "[router.edge]\naddress = \"192.0.2.1\"\nuser = \"u\"\npassword = \"p\"\n";

    fn between(before: &str, after: &str) -> Differences {
        let parse = |text: &str| Config::parse(text, Path::new("enforcer.toml")).unwrap();
        Differences::between(&parse(before), &parse(after))
    }

    #[test]
    fn each_setting_that_differs_is_a_line_and_none_that_is_the_same() {
        let fingerprint = format!("fingerprint = \"{}\"", "ab".repeat(32));
        let tls = format!("router edge: fingerprint none (not encrypted) → {}", "ab".repeat(32));
        for (before, after, lines) in [
            ("", "allow = [\"192.0.2.0/24\"]", vec!["allow: + 192.0.2.0/24"]),
            ("allow = [\"a.example.org\"]", "", vec!["allow: - a.example.org"]),
            ("", "nat64 = [\"2001:db8:64::/96\"]", vec!["nat64: + 2001:db8:64::/96"]),
            ("[severity]\nssh = \"high\"", "[severity]\nssh = \"low\"", vec!["severity: ssh high → low"]),
            ("", "[severity]\nssh = \"medium\"", vec![]),
            (
                "",
                "[widen]\nipv4 = 0\nipv6 = 9",
                vec!["widen: ipv4 32 → 0 (never)", "widen: ipv6 0 (never) → 9"],
            ),
            ("", "[widen]\nipv6_prefix = 56", vec!["widen: ipv6_prefix 64 → 56"]),
            (
                "",
                "[escalation]\nmultipliers = [1, 2.5]\nmax = \"1d\"\ndecay = \"30d\"",
                vec!["escalation: none → times 1, 2.5; max 1d; decay 30d"],
            ),
            ("", "[protect]\nwithin = 0", vec!["protect: within 7d → 0s (nobody)"]),
            (
                "[protect]\nnetworks = [\"10.0.0.0/8\"]",
                "[protect]\nnetworks = [\"192.0.2.0/24\"]",
                vec!["protect: networks: + 192.0.2.0/24", "protect: networks: - 10.0.0.0/8"],
            ),
            ("", "[history]\nkeep = \"60d\"", vec!["history: keep 365d → 60d"]),
            ("", "[history]\nmax_megabytes = 10", vec!["history: max_megabytes 4000 → 10"]),
            (
                "[sensors]\nbans = 0",
                "[sensors]\noffences = 50\nlogins = 0",
                vec![
                    "sensors: offences 1000 → 50",
                    "sensors: bans 0 (any number) → 200000",
                    "sensors: logins 2000 → 0 (any number)",
                ],
            ),
            ("", "[fleet.a]", vec!["fleet.a: added"]),
            (
                "[fleet.a]",
                "[fleet.a]\nmaxretry = 3\nbantime = -1",
                vec!["fleet.a: maxretry 10 → 3", "fleet.a: bantime 1h → permanent"],
            ),
            ("[fleet.a]", "[fleet.a]\njails = [\"ssh\"]", vec!["fleet.a: jails all → ssh; it counts anew"]),
            (
                "[list]",
                "[list]\nmark = \"m\"\ncomment = \"{jail}\"",
                vec!["list: mark atalaya → m", "list: comment \"{jail} from {sensor}\" → \"{jail}\""],
            ),
            ("[list]", "[list]\nipv6_name = \"six\"", vec!["list: ipv6_name spammer → six"]),
        ] {
            assert_eq!(
                between(before, after),
                Differences { changes: lines.iter().map(ToString::to_string).collect(), unchanged: vec![] },
                "{after}"
            );
            assert_eq!(between(after, after), Differences::default());
        }
        for (more, lines) in [
            (
                "window = 9\nrate = 50\nmax_cpu = 50",
                vec!["window 128 → 9", "rate unlimited → 50", "max_cpu 85 → 50"],
            ),
            ("jails = [\"a\", \"b\"]\nseverity = \"high\"", vec!["jails all → a, b", "severity low → high"]),
            (
                "max_entries = 7\nreconcile = \"1m\"",
                vec!["max_entries what its memory allows → 7", "reconcile 900s → 60s"],
            ),
            ("ipv6 = false\nread_only = true", vec!["ipv6 true → false", "read_only false → true"]),
            ("port = 9", vec!["address 192.0.2.1 → 192.0.2.1:9", "logs in anew"]),
        ] {
            let changes: Vec<String> = lines.iter().map(|line| format!("router edge: {line}")).collect();
            assert_eq!(between(ROUTER, &format!("{ROUTER}{more}")).changes, changes, "{more}");
        }
        assert_eq!(
            between(ROUTER, &format!("{ROUTER}{fingerprint}")).changes,
            [&tls, "router edge: logs in anew"]
        );
    }

    #[test]
    fn the_commands_for_a_removed_router_take_its_own_mark_literally() {
        let before = format!("{ROUTER}list = \"a$b\"\nipv6 = false\n[list]\nmark = \"we+us\"\n");
        let after = "[list]\nmark = \"we+us\"\n";
        let changes = between(&before, after).changes;
        let command = changes[0].split("removes them now: ").nth(1);
        let right = "/ip firewall address-list remove [find list=\"a\\$b\" comment~\"^we\\\\+us: \"]";
        assert_eq!((changes.len(), command), (1, Some(right)));
    }

    #[test]
    fn a_password_is_never_told() {
        let found = between(ROUTER, &ROUTER.replace("\"p\"", "\"hunter2\""));
        assert_eq!(found.changes, ["router edge: another password", "router edge: logs in anew"]);
    }

    #[test]
    fn what_only_a_restart_changes_is_told_apart() {
        let found = between("", "listen = \"0.0.0.0:9443\"\nsocket = \"/run/x\"");
        assert_eq!(found.changes, Vec::<String>::new());
        assert_eq!(found.unchanged.len(), 2);
        assert_eq!(
            found.unchanged[0],
            "listen: 0.0.0.0:9443 needs a restart of the enforcer; until then it stays 0.0.0.0:8443"
        );
    }
}
