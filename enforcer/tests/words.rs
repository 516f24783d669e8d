//! What is said to a person is true: the words that commands print, of the real program with a simulated router.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod host;
mod terminal;

use std::time::Instant;

use routeros_sim::{Builder, Family, Router};

use host::{Host, PATIENCE};
use terminal::Terminal;

/// A router that drops by the list, and a host with its enforcer's configuration.
async fn host_with_router(more: &str) -> (Router, Host) {
    host_with(more, Router::builder()).await
}

async fn host_with(more: &str, router: Builder) -> (Router, Host) {
    let rule = "firewall/raw add chain=prerouting action=drop src-address-list=spammer";
    let router = router.terminal(format!("/ip/{rule}")).terminal(format!("/ipv6/{rule}"));
    let router = router.start().await.unwrap();
    let address = router.address();
    let host = Host::new(&format!(
        "{more}\n[router.edge]\naddress = \"{address}\"\nuser = \"atalaya\"\npassword = \"secret\"\n"
    ));
    (router, host)
}

/// Waits until the router holds exactly these.
async fn holds(router: &Router, addresses: &[&str]) {
    let held = router.wait_for(
        |entries| {
            let mut held: Vec<&str> = entries.iter().map(|entry| entry.address.as_str()).collect();
            let mut expected = addresses.to_vec();
            held.sort_unstable();
            expected.sort_unstable();
            held == expected
        },
        PATIENCE,
    );
    assert!(held.await.is_ok(), "{:?}", router.entries(Family::V4));
}

/// What a command says until it says this.
fn until_it_prints(host: &Host, arguments: &[&str], words: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = host.prints(arguments);
        if text.contains(words) {
            return text;
        }
        assert!(Instant::now() < end, "{arguments:?} do not say {words:?} but {text}");
        std::thread::yield_now();
    }
}

const AROUND_50: [&str; 8] = [
    "203.0.113.0/27",
    "203.0.113.32/28",
    "203.0.113.48/31",
    "203.0.113.51",
    "203.0.113.52/30",
    "203.0.113.56/29",
    "203.0.113.64/26",
    "203.0.113.128/25",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_a_network_that_is_banned_by_hand_is_told_what_keeps_it_out_and_is_spared_alone() {
    let (router, host) = host_with_router("").await;
    let running = host.start();
    host.prints(&["ban", "203.0.113.0/24", "--for", "8h"]);
    holds(&router, &["203.0.113.0/24"]).await;

    let refused = host.fails(&["unban", "203.0.113.50"]);
    for says in [
        "203.0.113.50 has no ban of its own: the ban of the network 203.0.113.0/24, by hand, keeps it out",
        "`atalaya-enforcer unban 203.0.113.0/24` lifts that for all of the network",
        "`atalaya-enforcer allow 203.0.113.50` spares it alone, for which each router holds about 8 entries",
    ] {
        assert!(refused.contains(says), "{refused}");
    }
    let allowed = host.prints(&["allow", "203.0.113.50", "--for", "1h"]);
    for says in [
        "203.0.113.50 is allowed until",
        "the ban of the network 203.0.113.0/24 stands (until",
        "spares it: each router holds 8 entries in the place of 1",
        "when that time is over, the network's ban keeps it out again",
    ] {
        assert!(allowed.contains(says), "{allowed}");
    }
    holds(&router, &AROUND_50).await;
    let spared = host.prints(&["show", "203.0.113.50"]);
    assert!(
        spared.starts_with("203.0.113.50: not banned; the ban of the network 203.0.113.0/24 spares it\n"),
        "{spared}"
    );
    let neighbour = until_it_prints(&host, &["show", "203.0.113.51"], "edge  holds it");
    assert!(
        neighbour.starts_with("203.0.113.51: banned with the network 203.0.113.0/24, ends in"),
        "{neighbour}"
    );
    let other = until_it_prints(&host, &["show", "203.0.113.200"], "edge  holds 203.0.113.128/25");
    assert!(other.starts_with("203.0.113.200: banned with the network 203.0.113.0/24, ends in"), "{other}");
    assert!(host.fails(&["unban", "203.0.113.50"]).contains(
        "203.0.113.50 is not banned: 203.0.113.50 is on the allow list, since run time, and that is never banned; the ban of the network 203.0.113.0/24 around it spares it"
    ));

    // It outlives the enforcer, and ends with the entry of the allow list.
    running.stop();
    let running = host.start();
    holds(&router, &AROUND_50).await;
    let gone = host.prints(&["allow", "--remove", "203.0.113.50"]);
    assert!(
        gone.contains("203.0.113.50 can be banned again\n  it is kept out again, by the ban of the network 203.0.113.0/24, until"),
        "{gone}"
    );
    holds(&router, &["203.0.113.0/24"]).await;

    // One with a ban of its own is told of the network's when that is lifted.
    host.prints(&["ban", "203.0.113.7"]);
    let lifted = host.prints(&["unban", "203.0.113.7"]);
    assert!(
        lifted.contains("lifted the ban of 203.0.113.7\n  it is still kept out: the network 203.0.113.0/24 is banned by hand, until"),
        "{lifted}"
    );
    assert!(!lifted.contains("no router holds it"), "{lifted}");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_a_widened_network_is_headed_banned_and_what_allowing_it_costs_is_told() {
    let (router, host) = host_with_router("widen.ipv4 = 3").await;
    let running = host.start();
    for address in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
        host.prints(&["ban", address]);
    }
    holds(&router, &["198.51.100.0/24"]).await;
    let shown = host.prints(&["show", "198.51.100.77"]);
    assert!(
        shown.starts_with("198.51.100.77: banned with the network 198.51.100.0/24, of which many addresses are banned, ends in"),
        "{shown}"
    );
    let allowed = host.prints(&["allow", "198.51.100.77"]);
    assert!(
        allowed.contains("routers no longer hold the whole network 198.51.100.0/24, only its banned addresses\n  that is 2 entries more"),
        "{allowed}"
    );
    holds(&router, &["198.51.100.1", "198.51.100.2", "198.51.100.3"]).await;
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_is_banned_by_hand_only_after_a_question_and_what_is_nobodys_never() {
    let (router, host) = host_with_router("allow = [\"192.0.2.0/24\"]").await;
    let running = host.start();
    for private in ["172.30.254.0/24", "192.168.88.1", "fd00::7", "172.0.0.0/6"] {
        let refused = host.fails(&["ban", private]);
        for says in [
            "which nobody outside has",
            "a router that hides others behind its address",
            "add --force to ban it",
        ] {
            assert!(refused.contains(says), "{private}: {refused}");
        }
    }
    for (nobodys, says) in [
        (
            "127.9.9.9",
            "127.9.9.9 is not banned: 127.0.0.0/8 is loopback, link-local, multicast or reserved, and that is never banned",
        ),
        ("169.254.7.7", "169.254.0.0/16 is loopback, link-local,"),
        ("fe80::1", "fe80::/10 is loopback"),
        ("224.0.0.1", "224.0.0.0/3 is loopback"),
        ("0.0.0.0", "0.0.0.0/8 is loopback"),
        (
            "192.0.2.7",
            "192.0.2.0/24 is on the allow list of the configuration, and that is never banned; change `allow` there first",
        ),
    ] {
        let refused = host.fails(&["ban", nobodys, "--force"]);
        assert!(refused.contains(says), "{refused}");
    }
    assert!(router.entries(Family::V4).is_empty());
    // Somebody at a terminal is asked.
    let mut terminal = Terminal::start(&mut host.command(&["ban", "192.168.88.1"]));
    terminal.shows("Ban 192.168.88.1 all the same? [y/N] ");
    terminal.types("");
    terminal.shows("192.168.88.1 is not banned");
    assert_eq!(terminal.ends(), Some(1));
    let mut terminal = Terminal::start(&mut host.command(&["ban", "192.168.88.1"]));
    terminal.shows("all the same?");
    terminal.types("y");
    terminal.shows("banned 192.168.88.1 until");
    assert_eq!(terminal.ends(), Some(0));
    // It is made longer without another question.
    host.prints(&["ban", "192.168.88.1", "--for", "8h"]);
    host.prints(&["ban", "10.9.0.0/16", "--force"]);
    holds(&router, &["192.168.88.1", "10.9.0.0/16"]).await;
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_private_networks_behind_a_router_are_never_banned_and_it_is_said_whose_they_are() {
    let router = Router::builder().connected("192.168.88.1/24").connected("203.0.113.9/24");
    let (router, host) = host_with("", router.leased("192.168.1.2/24", "192.168.1.1")).await;
    let running = host.start();
    let shown = until_it_prints(&host, &["show", "192.168.88.7"], "never banned");
    let expected = "never banned: router edge is connected to the private network 192.168.88.0/24";
    assert!(shown.contains(expected), "{shown}");
    assert!(
        host.prints(&["show", "203.0.113.9"])
            .contains("never banned: 203.0.113.9 is an address of router edge")
    );
    let refused = host.fails(&["ban", "192.168.88.7", "--force"]);
    assert!(
        refused.contains("192.168.88.7 is not banned: router edge is connected to the private network"),
        "{refused}"
    );
    // Public ones, and what is beyond the uplink, are strangers'.
    host.prints(&["ban", "203.0.113.77"]);
    host.prints(&["ban", "192.168.1.77", "--force"]);
    holds(&router, &["203.0.113.77", "192.168.1.77"]).await;
    let networks = &host.json(&["status", "--json"])["routers"][0]["networks"];
    assert_eq!(networks["private"], serde_json::json!(["192.168.88.0/24"]));
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_uplink_that_was_configured_by_hand_is_no_network_of_ones_own() {
    let router = Router::builder().connected("192.168.88.1/24");
    let router = router.terminal("/ip/address add address=192.168.1.2/24 interface=ether1");
    let router = router.terminal("/ip/route add dst-address=10.0.0.0/8 gateway=192.168.88.2");
    let (router, host) = host_with("", router.terminal("/ip/route add gateway=192.168.1.1%ether1")).await;
    let running = host.start();
    until_it_prints(&host, &["show", "192.168.88.7"], "never banned");
    let networks = &host.json(&["status", "--json"])["routers"][0]["networks"];
    assert_eq!(networks["private"], serde_json::json!(["192.168.88.0/24"]));
    host.prints(&["ban", "192.168.1.77", "--force"]);
    holds(&router, &["192.168.1.77"]).await;
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_a_ban_by_hand_is_in_the_routers_comment_whatever_it_holds() {
    let (router, host) = host_with_router("").await;
    let running = host.start();
    host.prints(&["ban", "203.0.113.7", "--reason", "c2; of \"x\" at $y [:delay 1] é"]);
    holds(&router, &["203.0.113.7"]).await;
    let comment = router.entries(Family::V4)[0].comment.clone();
    // After the mark stands the ledger's word.
    let (mark, said) = comment.split_once(": ").unwrap();
    assert!(mark.starts_with("atalaya:") && mark.len() == 12, "{comment}");
    assert_eq!(said, "manual from manual: c2; of \"x\" at $y [:delay 1] ?");
    // Nothing of it changes when it is made longer, nor by a new start.
    host.prints(&["ban", "203.0.113.7", "--for", "2h"]);
    running.stop();
    let running = host.start();
    until_it_prints(&host, &["show", "203.0.113.7"], "edge  holds it");
    host.prints(&["status", "--check"]);
    assert_eq!(router.entries(Family::V4)[0].comment, comment);
    assert!(host.prints(&["plan"]).contains("nothing"), "{}", host.prints(&["plan"]));
    running.stop();
}

#[test]
fn what_stands_is_shown_while_another_program_locks_the_ledger() {
    let host = Host::new("");
    let running = host.start();
    let other = rusqlite::Connection::open(host.folder.path().join("state/ledger.sqlite3")).unwrap();
    other.busy_timeout(PATIENCE).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut ban = host.command(&["ban", "203.0.113.0/24", "--for", "8h"]).spawn().unwrap();
    let shown = until_it_prints(&host, &["show", "203.0.113.9"], "banned with");
    let expected = "203.0.113.9: banned with the network 203.0.113.0/24, ends in ";
    assert!(shown.starts_with(expected), "{shown}");
    assert!(shown.contains("  203.0.113.0/24 banned by hand; the ledger does not have it yet\n"), "{shown}");
    drop(other);
    assert!(ban.wait().unwrap().success());
    until_it_prints(&host, &["show", "203.0.113.9"], "203.0.113.0/24 banned by hand, ");
    running.stop();
}

#[test]
fn times_are_told_in_the_readers_zone_and_in_utc_in_json_and_prefixes_and_units_in_one_form() {
    let host = Host::new("");
    let running = host.start();
    host.prints(&["ban", "203.0.113.7", "--for", "2h"]);
    let in_zone = |zone: &str, arguments: &[&str]| {
        let output = host.command(arguments).env("TZ", zone).output().unwrap();
        assert!(output.status.success(), "{}", host::stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let ban: serde_json::Value = serde_json::from_str(&in_zone("XXX-5:45", &["bans", "--json"])).unwrap();
    let since: jiff::Timestamp = ban[0]["since"].as_str().unwrap().parse().unwrap();
    assert!(
        ban[0]["since"].as_str().unwrap().ends_with('Z') && ban[0]["until"].as_str().unwrap().ends_with('Z')
    );
    let east = jiff::tz::TimeZone::posix("XXX-5:45").unwrap();
    let there = since.to_zoned_datetime(east).strftime("(%Y-%m-%d %H:%M:%S +05:45)").to_string();
    let shown = in_zone("XXX-5:45", &["show", "203.0.113.7"]);
    assert!(shown.contains(&there) && !shown.contains("Z)"), "{there}: {shown}");
    let shown = in_zone("UTC", &["show", "203.0.113.7"]);
    assert!(shown.contains(&since.strftime("(%Y-%m-%d %H:%M:%SZ)").to_string()), "{shown}");
    // A host is its address, everywhere.
    let json = host.json(&["show", "203.0.113.7", "--json"]);
    for place in ["/prefix", "/ban/prefix", "/standing/bans/0/prefix", "/standing/held_as/0"] {
        assert_eq!(json.pointer(place).unwrap(), "203.0.113.7", "{place}");
    }
    for (arguments, place) in [
        (&["bans", "--json"][..], "/0/prefix"),
        (&["ban", "203.0.113.7", "--for", "3h", "--json"], "/prefix"),
        (&["allow", "203.0.113.9", "--json"], "/entry/what"),
        (&["allow", "--json"], "/entries/0/what"),
        (&["unban", "203.0.113.7", "--json"], "/prefix"),
    ] {
        let json = host.json(arguments);
        let host = json.pointer(place).unwrap().as_str().unwrap();
        assert!(host.starts_with("203.0.113.") && !host.contains('/'), "{arguments:?}: {json}");
    }
    running.stop();
}

/// What `check` says of a configuration: its errors, or its warnings.
fn checked(text: &str) -> String {
    let host = Host::new("");
    let path = host.folder.path().join("enforcer.toml");
    for (name, content, mode) in [
        ("empty", "", 0o600),
        ("blank", "\n", 0o600),
        ("two", "a\nb\n", 0o600),
        ("open", "p\n", 0o644),
        ("good", "p\n", 0o600),
    ] {
        let file = host.folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let output = host.run(&["check"]);
    let (said, failed) = (
        String::from_utf8(output.stdout.clone()).unwrap() + &host::stderr(&output),
        !output.status.success(),
    );
    for internal in ["struct ", "invalid type", "usize", "u16", "RawRouter", "a sequence", "unknown field"] {
        assert!(!said.contains(internal), "{said}");
    }
    if failed {
        assert_eq!(said.lines().count(), 1, "an error is one line, printed once: {said}");
    }
    said.replace(host.folder.path().to_str().unwrap(), "")
}

#[test]
fn check_says_of_each_mistake_what_is_wrong_and_what_would_be_right() {
    let router = |lines: &str| format!("[router.edge]\nuser = \"u\"\n{lines}\n");
    let address = |address: &str| router(&format!("address = \"{address}\"\npassword_file = \"good\""));
    let secret = |line: &str| router(&format!("address = \"192.0.2.1\"\n{line}"));
    let good = |line: &str| secret(&format!("password_file = \"good\"\n{line}"));
    let pinned = |port: &str| good(&format!("port = {port}\nfingerprint = \"{}\"", "ab".repeat(32)));
    for (text, says) in [
        (
            address("192.0.2.300"),
            "3:11: router `edge`: `192.0.2.300` is no IPv4 address: it has four numbers from 0 to 255",
        ),
        (
            address("192.0.2.1:0"),
            "3:11: router `edge`: `192.0.2.1:0` has no port that there is; expected 1 to 65535",
        ),
        (good("port = 0"), "5:8: router `edge`: expected a port from 1 to 65535"),
        (good("port = 70000"), "5:8: found the number 70000; expected a whole number from 0 to 65535"),
        (
            address("fe80::1"),
            "`fe80::1` is link-local: say by which interface it is reached, such as `fe80::1%eth0`",
        ),
        (address("fe80::1%eth0"), "router edge: fe80::1%eth0 as u"),
        (address("[fe80::1%eth0]:8729"), "router edge: [fe80::1%eth0]:8729 as u"),
        (
            secret("password_file = \"empty\""),
            "/empty is empty, or begins with an empty line; expected the password on its only line",
        ),
        (secret("password_file = \"blank\""), "/blank is empty, or begins with an empty line"),
        (secret("password_file = \"two\""), "/two has more than one line; expected the password alone"),
        (
            secret("password_file = \"open\""),
            "warning: router edge: everyone on this host can read the password in /open: chmod 600 it",
        ),
        (
            secret("password_file = \"absent\""),
            "cannot read /absent: No such file or directory (os error 2)\n",
        ),
        (secret("password = \"\""), "`password` is empty: give the user one on the router"),
        (
            good("tls = true"),
            "TLS needs `fingerprint` too, the SHA-256 of the certificate that the router is known by; `openssl s_client -connect 192.0.2.1:8729 </dev/null | openssl x509 -noout -fingerprint -sha256` shows what it presents",
        ),
        (
            good("port = 8729"),
            "warning: router edge: port 8729 is usually api-ssl's, which speaks TLS: set `fingerprint`",
        ),
        (
            pinned("8728"),
            "warning: router edge: port 8728 is usually the plain API's, and `fingerprint` asks for TLS",
        ),
        (
            "allow = [\"0.0.0.0/0\"]".to_owned(),
            "1:10: 0.0.0.0/0 in the allow list is so large that next to nobody could be banned",
        ),
        ("allow = [\"::/0\"]".to_owned(), "1:10: ::/0 in the allow list is so large"),
        ("allow = [\"128.0.0.0/1\"]".to_owned(), "1:10: 128.0.0.0/1 in the allow list is so large"),
        (
            "allow = \"192.0.2.1\"".to_owned(),
            "1:9: found the text \"192.0.2.1\"; expected a list in brackets, such as",
        ),
        ("alow = []".to_owned(), "1:1: there is no `alow` here; did you mean `allow`?"),
        ("router = 5".to_owned(), "1:10: found the number 5; expected a table"),
        ("[router]\nedge = 5".to_owned(), "2:8: found the number 5; expected a table"),
        (
            "[severity]\nssh = \"hgih\"".to_owned(),
            "2:7: `hgih` is none of `low`, `medium`, `high`; did you mean `high`?",
        ),
        ("[widen]\nipv4 = -1".to_owned(), "2:8: found the number -1; expected a whole number"),
        (
            "listen = \"8443\"".to_owned(),
            "1:10: `8443` is no address with a port; expected such as `0.0.0.0:8443`",
        ),
    ] {
        let said = checked(&text);
        assert!(said.contains(says), "{text}\n{said}");
    }
    let host = Host::new("");
    let missing = host.command(&[]).args(["check", "--config", "/nowhere/x.toml"]).output().unwrap();
    let said = host::stderr(&missing);
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
}

#[test]
fn the_configuration_that_the_readme_begins_with_is_valid() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let text = readme.split("```toml\n").find(|text| text.starts_with("listen = ")).unwrap();
    let text = text.split("```").next().unwrap().replace("/etc/atalaya/edge.password", "good");
    let said = checked(&text);
    assert!(said.contains("no mistakes") && said.contains("router edge: 192.0.2.1 as atalaya"), "{said}");
}
