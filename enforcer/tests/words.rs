//! What is said to a person is true: the words that commands print, of the real program with a simulated router.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod host;

use std::time::Instant;

use routeros_sim::{Family, Router};

use host::{Host, PATIENCE};

/// A router that drops by the list, and a host with its enforcer's configuration.
async fn host_with_router(more: &str) -> (Router, Host) {
    let rule = "firewall/raw add chain=prerouting action=drop src-address-list=spammer";
    let router = Router::builder().terminal(format!("/ip/{rule}")).terminal(format!("/ipv6/{rule}"));
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
            (held.sort_unstable(), expected.sort_unstable());
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
