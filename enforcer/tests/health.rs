//! What people are told of whether bans are enforced: a whole enforcer in this process, simulated routers behind it,
//! and the commands as the real program prints them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod scene;

use std::process::Command;
use std::time::Duration;

use atalaya_enforcer::config::Config;
use routeros_sim::{Costs, Family, Fault, Router};
use scene::{PATIENCE, Scene, in_time};

const RULES: [&str; 2] = [
    "/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer",
    "/ipv6/firewall/raw add chain=prerouting action=drop src-address-list=spammer",
];

/// A router that drops by its list.
async fn dropping() -> Router {
    Router::builder().terminal(RULES[0]).terminal(RULES[1]).start().await.unwrap()
}

/// What is late after a minute is so after a fifth of a second.
fn soon(config: &mut Config) {
    for router in &mut config.routers {
        router.deadlines.late = Duration::from_millis(200);
        router.deadlines.keepalive = Duration::from_millis(50);
    }
}

/// What a command of the program prints, at whatever exit status.
async fn said(scene: &Scene, arguments: &[&str]) -> String {
    let folder = scene.folder.path().display();
    let config = scene.folder.path().join("commands.toml");
    std::fs::write(&config, format!("state = \"{folder}/state\"\nsocket = \"{folder}/enforcer.sock\"\n"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-enforcer"));
    command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env("COLUMNS", "500");
    command.arg("--config").arg(config).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until a command says something; what it prints.
async fn until_said(scene: &Scene, arguments: &[&str], text: &str) -> String {
    let mut last = String::new();
    let seen = async {
        loop {
            last = said(scene, arguments).await;
            // Lines are broken where the terminal ends.
            if last.split_whitespace().collect::<Vec<_>>().join(" ").contains(text) {
                return;
            }
        }
    };
    let came = tokio::time::timeout(PATIENCE, seen).await;
    assert!(came.is_ok(), "{arguments:?} never says `{text}`:\n{last}");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_in_whose_place_a_disabled_entry_of_others_stands_is_a_fault_and_said_to_keep_nobody_out() {
    let router = dropping().await;
    let id = router.insert_foreign(Family::V4, "spammer", "198.51.100.5", "mine", None).unwrap();
    router.edit_disabled(Family::V4, &id, true).unwrap();
    let scene = Scene::configured(vec![router], "", soon).await;
    until_said(&scene, &["status"], "all is well").await;
    let banned = said(&scene, &["ban", "198.51.100.5", "--for", "2h"]).await;
    assert!(banned.contains("on 0 of 1 router; r0: it is disabled and keeps nobody out"), "{banned}");
    until_said(
        &scene,
        &["show", "198.51.100.5"],
        "r0 holds it, an entry that is not ours, without a timeout, but it is disabled and keeps nobody out, and the router takes no other beside it: enable or remove it there",
    )
    .await;
    until_said(
        &scene,
        &["status"],
        "does not hold the ban of 198.51.100.5: an entry that is not ours and is disabled stands in its place, and the router takes no other beside it; look: atalaya-enforcer show 198.51.100.5",
    )
    .await;
    assert_eq!(scene.entries().len(), 1, "it is not ours to change");
    scene.router().edit_disabled(Family::V4, &id, false).unwrap();
    scene.router().reboot().await;
    until_said(&scene, &["status"], "all is well").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_takes_an_entry_beside_a_disabled_one_holds_the_ban() {
    let router = dropping().await;
    router.take_beside_disabled(true);
    let id = router.insert_foreign(Family::V4, "spammer", "198.51.100.5", "mine", None).unwrap();
    router.edit_disabled(Family::V4, &id, true).unwrap();
    let scene = Scene::configured(vec![router], "", soon).await;
    until_said(&scene, &["status"], "all is well").await;
    let banned = said(&scene, &["ban", "198.51.100.5", "--for", "2h"]).await;
    assert!(banned.contains("on router r0"), "{banned}");
    scene.router().reboot().await;
    until_said(&scene, &["show", "198.51.100.5"], "r0 holds it, 1h 59m left").await;
    let said = said(&scene, &["unban", "198.51.100.5"]).await;
    assert!(said.contains("lifted") || said.contains("unbanned"), "{said}");
    scene.holds(|entries| entries.len() == 1 && entries[0].id == id && entries[0].disabled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_ours_that_someone_disabled_is_replaced_by_one_that_works() {
    for beside in [false, true] {
        let router = dropping().await;
        router.take_beside_disabled(beside);
        let scene = Scene::configured(vec![router], "", |config| {
            soon(config);
            config.routers[0].reconcile_every = Duration::from_millis(100);
        })
        .await;
        said(&scene, &["ban", "198.51.100.5", "--for", "2h"]).await;
        let id = scene.banned("198.51.100.5").await.id;
        scene.router().edit_disabled(Family::V4, &id, true).unwrap();
        scene.holds(|entries| entries.len() == 1 && !entries[0].disabled).await;
        until_said(&scene, &["status"], "all is well").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_that_the_router_refuses_is_a_fault_of_that_ban_too() {
    let scene = Scene::configured(vec![dropping().await], "", |config| {
        soon(config);
        config.routers[0].deadlines.refused_pause = Duration::from_mins(1);
    })
    .await;
    until_said(&scene, &["status"], "all is well").await;
    let message = "failure: out of memory".to_owned();
    let fault = Fault::Trap { message, category: None };
    scene.router().inject(fault, "/ip/firewall/address-list/add", 0);
    said(&scene, &["ban", "198.51.100.5", "--for", "2h"]).await;
    let said =
        until_said(&scene, &["status"], "does not hold the ban of 198.51.100.5: the router refuses it").await;
    assert!(said.contains("out of memory"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_that_wait_for_a_slow_router_for_long_are_a_fault_with_their_number_until_they_are_there() {
    let router = dropping().await;
    router.set_costs(Costs { insert: Duration::from_millis(50), ..Costs::default() });
    let scene = Scene::configured(vec![router], "", soon).await;
    until_said(&scene, &["status"], "all is well").await;
    for number in 0..40 {
        scene.post(vec![scene.offence(number + 1, &format!("198.51.100.{number}"))]).await;
    }
    until_said(&scene, &["status"], "that it should, 198.51.100.").await;
    until_said(&scene, &["status"], "all is well").await;
    assert_eq!(scene.entries().len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_whose_scan_takes_long_is_looked_at_and_gets_its_bans() {
    let router = dropping().await;
    for number in 0..1000_u32 {
        router.insert_foreign(Family::V4, "geoblock", &scene::attacker(number), "", None).unwrap();
    }
    router.set_costs(Costs { scan_per_entry: Duration::from_millis(2), ..Costs::default() });
    let scene = Scene::configured(vec![router], "", soon).await;
    let status = said(&scene, &["status"]).await;
    assert!(status.contains("looking at router r0 (its rules are not read yet)"), "{status}");
    said(&scene, &["ban", "198.51.100.5", "--for", "2h"]).await;
    until_said(&scene, &["show", "198.51.100.5"], "r0 holds it, 1h 59m left").await;
    until_said(&scene, &["status"], "all is well").await;
    in_time(async { assert_eq!(scene.service.routers()[0].status().sessions, 1) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jail_that_no_router_takes_is_named_by_status_show_and_check() {
    let scene = Scene::configured(vec![dropping().await], "", |config| {
        soon(config);
        config.routers[0].jails = vec!["sssh".parse().unwrap()];
    })
    .await;
    until_said(&scene, &["status"], "all is well").await;
    scene.post(vec![scene.offence(1, "203.0.113.1")]).await;
    until_said(
        &scene,
        &["status"],
        "configuration: 1 ban of ssh is on no router, nobody is kept out by it: r0 takes the bans of sssh alone; correct `jails` or `severity` of a [router.NAME]",
    )
    .await;
    let show = said(&scene, &["show", "203.0.113.1"]).await;
    assert!(show.contains("r0  does not hold it: it takes the bans of sssh alone"), "{show}");
    assert!(show.contains("no router takes bans of ssh: nobody is kept out"), "{show}");

    let folder = scene.folder.path().display();
    let section = "user = \"a\"\npassword = \"x\"\njails = [\"sssh\", \"ssh\"]\n";
    let text = format!("state = \"{folder}/state\"\n[router.edge]\naddress = \"192.0.2.1\"\n{section}");
    let path = scene.folder.path().join("check.toml");
    std::fs::write(&path, text).unwrap();
    let config = Config::read(&path).unwrap();
    let unknown = config.unknown_jails();
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    let expected = "[router.edge] takes the bans of jail `sssh`, of which nothing is known: no ban of it is in the ledger, and neither [severity] nor [fleet] names it. Known are: ssh";
    assert_eq!(unknown[0], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_enforcers_with_one_mark_are_named_and_leave_each_others_entries_alone() {
    let router = dropping().await;
    let often = |config: &mut Config| {
        soon(config);
        config.routers[0].reconcile_every = Duration::from_millis(50);
    };
    let first = Scene::configured(vec![router.clone()], "", often).await;
    let second = Scene::configured(vec![router.clone()], "", often).await;
    said(&first, &["ban", "198.51.100.1", "--for", "2h"]).await;
    said(&second, &["ban", "198.51.100.2", "--for", "2h"]).await;
    let word = |comment: &str| comment.strip_prefix("atalaya:").unwrap()[..4].to_owned();
    let words = [first.banned("198.51.100.1").await, second.banned("198.51.100.2").await]
        .map(|entry| word(&entry.comment));
    for (scene, ours, other) in [(&first, 0, 1), (&second, 1, 0)] {
        let text = format!(
            "another enforcer keeps 1 entry on the same list with the same mark, `atalaya:{}:` where ours say `atalaya:{}:`; they are left alone, and what both ban has the other's timeout. Give one of the two its own `mark` or `name` in [list]. If they are this enforcer's own, of before its state was lost: `adopt = [\"{}\"]` in [list]",
            words[other], words[ours], words[other]
        );
        until_said(scene, &["status"], &text).await;
    }
    let prints = router.counts().prints;
    router.wait_for_counts(|counts| counts.prints > prints + 8, PATIENCE).await.unwrap();
    let counts = router.counts();
    assert_eq!((counts.adds, counts.removes, counts.sets), (2, 0, 0), "{counts:?}");
    // One of the two is told that the other's are its own of before, and removes what no ban explains.
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_without_a_ledgers_word_and_adopted_ones_are_ours_and_get_our_word_with_the_next_reading() {
    let router = dropping().await;
    let hour = Some(Duration::from_hours(1));
    for (address, comment) in [
        ("198.51.100.1", "atalaya: ssh from web-1"),
        ("198.51.100.2", "atalaya:x2yz: ssh from web-1"),
        ("198.51.100.3", "atalaya: of no ban"),
        ("198.51.100.4", "atalaya:x2yz: of no ban"),
        ("198.51.100.5", "atalaya:aaaa: another's"),
    ] {
        router.insert_foreign(Family::V4, "spammer", address, comment, hour).unwrap();
    }
    router.go_down().await;
    let scene = Scene::configured(vec![router.clone()], "[list]\nadopt = [\"x2yz\"]", soon).await;
    scene.post(vec![scene.offence(1, "198.51.100.1"), scene.offence(2, "198.51.100.2")]).await;
    router.come_up().await.unwrap();
    let ours = |entries: &[routeros_sim::Entry]| {
        let comments: Vec<&str> = entries.iter().map(|entry| entry.comment.as_str()).collect();
        let word = comments[0].get(8..12).unwrap_or_default();
        let ours = format!("atalaya:{word}: ssh from web-1");
        word != " ssh" && comments == [ours.as_str(), ours.as_str(), "atalaya:aaaa: another's"]
    };
    scene.holds(ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_router_in_two_sections_is_found_by_its_serial_number_and_not_fought_over() {
    let router = dropping().await;
    router.set_serial("HF20912ABCD");
    let scene = Scene::configured(vec![router.clone()], "", |config| {
        soon(config);
        let mut twin = config.routers[0].clone();
        twin.name = "twin".parse().unwrap();
        twin.jails = vec!["smtp".parse().unwrap()];
        twin.deadlines.longest_pause = Duration::from_secs(60);
        config.routers.push(twin);
    })
    .await;
    let text = "by its serial number HF20912ABCD: both sections are for list spammer, and each would remove what the other adds. Make them one section, with the jails of both, or give one a `list` of its own";
    let status = until_said(&scene, &["status"], text).await;
    let status = status.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = ["router r0", "router twin"].iter().any(|of| {
        let down = status
            .split_once(&format!("{of} for"))
            .and_then(|(_, rest)| rest.split_once("down: this is the same router as [router."));
        down.is_some()
    });
    assert!(named, "{status}");
}
