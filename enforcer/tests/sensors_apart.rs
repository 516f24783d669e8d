//! That one sensor changes nothing of what others asked for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod scene;

use atalaya_wire::{BanTime, JoinToken, NumberedOffence, Seconds, UNBAN_PATH, Unban};
use reqwest::Method;
use serde_json::{Value, json};

use scene::{Scene, attacker, batch, enrol};

async fn send(scene: &Scene, token: &JoinToken, offences: Vec<NumberedOffence>) {
    scene.send(serde_json::to_vec(&batch(offences)).unwrap(), token).await.unwrap();
}

async fn unban(scene: &Scene, token: &JoinToken, address: &str, jail: Option<&str>) -> u16 {
    let unban = Unban { address: address.parse().unwrap(), jail: jail.map(|jail| jail.parse().unwrap()) };
    let request = scene.client.post(scene.url(UNBAN_PATH));
    let request = request.basic_auth(&token.sensor, Some(token.secret.expose()));
    request.body(serde_json::to_vec(&unban).unwrap()).send().await.unwrap().status().as_u16()
}

/// An offence by a jail, for a ban of so many seconds.
fn offence(scene: &Scene, sequence: u64, address: &str, jail: &str, seconds: u64) -> NumberedOffence {
    let mut numbered = scene.offence(sequence, address);
    numbered.offence.jail = jail.parse().unwrap();
    numbered.offence.bantime = BanTime::For(Seconds(seconds));
    numbered
}

async fn ban_of(scene: &Scene, address: &str) -> Option<Value> {
    let bans = scene.bans().await;
    bans.into_iter().find(|ban| ban["prefix"] == address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensors_unban_leaves_what_others_asked_for_also_after_a_restart() {
    let scene = Scene::new().await;
    let web_2 = enrol(&scene.folder, &scene.service, "web-2", false);
    let (web_1, address) = (scene.token.clone(), "198.51.100.7");
    send(&scene, &web_1, vec![offence(&scene, 1, address, "ssh", 7200)]).await;
    send(&scene, &web_2, vec![offence(&scene, 1, address, "smtp", 600)]).await;
    assert_eq!(unban(&scene, &web_1, address, Some("smtp")).await, 404, "it asked by another jail");
    let scene = scene.restart(async |_, _| {}).await;
    scene.banned(address).await;
    assert_eq!(unban(&scene, &web_1, address, None).await, 200);
    let ban = ban_of(&scene, address).await.unwrap();
    assert_eq!((ban["sensor"].as_str(), ban["jail"].as_str()), (Some("web-2"), Some("smtp")));
    scene
        .holds(|entries| {
            entries.iter().any(|entry| {
                entry.address == address && entry.timeout_left.is_some_and(|left| left.as_secs() <= 600)
            })
        })
        .await;
    assert_eq!(unban(&scene, &web_1, address, None).await, 404, "it has taken it back");
    let scene = scene.restart(async |_, _| {}).await;
    assert_eq!(unban(&scene, &web_2, address, None).await, 200);
    scene.holds(<[_]>::is_empty).await;
    assert!(ban_of(&scene, address).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_sensor_asked_for_is_lifted_at_once_and_nothing_that_others_did() {
    let scene = Scene::new().await;
    let web_2 = enrol(&scene.folder, &scene.service, "web-2", false);
    let many = (1..=600).map(|number| offence(&scene, number, &attacker(number as u32), "ssh", 3600));
    send(&scene, &web_2, many.collect()).await;
    let own = [(1, attacker(1)), (2, attacker(9000))];
    let own = own.iter().map(|(sequence, address)| offence(&scene, *sequence, address, "ssh", 60));
    send(&scene, &scene.token, own.collect()).await;
    let hand = json!({"prefix": format!("{}/32", attacker(2)), "bantime": 60});
    assert_eq!(scene.command(Method::POST, "bans", Some(hand)).await.0, 200);

    let request = json!({"sensor": "web-2", "by": "me", "reason": "it lies"});
    let (status, text) = scene.command(Method::POST, "sensors/unban", Some(request)).await;
    assert_eq!((status.as_u16(), text.as_str()), (200, r#"{"sensor":"web-2","lifted":598,"stand":2}"#));
    let mut left: Vec<String> = scene
        .bans()
        .await
        .iter()
        .map(|ban| format!("{} {}", ban["prefix"].as_str().unwrap(), ban["sensor"].as_str().unwrap()))
        .collect();
    left.sort();
    let mut expected = [(1, "web-1"), (2, "manual"), (9000, "web-1")]
        .map(|(number, sensor)| format!("{} {sensor}", attacker(number)));
    expected.sort();
    assert_eq!(left, expected);
    scene.holds(|entries| entries.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_that_has_its_share_of_bans_gets_no_more_and_others_do() {
    let routers = vec![routeros_sim::Router::builder().start().await.unwrap()];
    let scene = Scene::with(routers, "[sensors]\nbans = 100\n").await;
    let web_2 = enrol(&scene.folder, &scene.service, "web-2", false);
    let many = (1..=103).map(|number| scene.offence(number, &attacker(number as u32))).collect();
    let ack = scene.post(many).await;
    assert_eq!((ack.through, ack.refused.len(), ack.refused[0].sequence), (103, 3, 101));
    assert!(ack.refused[0].reason.starts_with("100 bans stand that web-1 asked for"), "{:?}", ack.refused[0]);
    send(&scene, &web_2, vec![scene.offence(1, "198.51.100.7")]).await;
    scene.banned("198.51.100.7").await;
    let (_, text) = scene.command(Method::GET, "status", None).await;
    assert!(text.contains("3 offences led to no ban, because so many of its bans stand"), "{text}");
    scene.command(Method::DELETE, &format!("bans?prefix={}/32", attacker(1)), None).await;
    let ack = scene.post(vec![scene.offence(104, &attacker(104))]).await;
    assert_eq!(ack.refused, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_up_what_a_sensor_may_take_and_keeps_who_asked_for_which_ban() {
    let routers = vec![routeros_sim::Router::builder().start().await.unwrap()];
    let scene = Scene::with(routers, "[sensors]\nbans = 100\n").await;
    let web_2 = enrol(&scene.folder, &scene.service, "web-2", false);
    let (web_1, address) = (scene.token.clone(), attacker(1));
    let many = (1..=101).map(|number| scene.offence(number, &attacker(number as u32))).collect();
    assert_eq!(scene.post(many).await.refused.len(), 1);
    send(&scene, &web_2, vec![offence(&scene, 1, &address, "smtp", 60)]).await;

    // Another comment makes all labels anew.
    scene.edit(|text| text.replace("bans = 100\n", "bans = 0\nlogins = 7\n[list]\ncomment = \"{jail}\"\n"));
    let answer = scene.reload().await;
    let said = [
        "list: comment \"{jail} from {sensor}\" → \"{jail}\"",
        "sensors: bans 100 → 0 (any number)",
        "sensors: logins 2000 → 7",
    ];
    assert_eq!(answer.changes, said);
    assert_eq!(scene.post(vec![scene.offence(102, &attacker(102))]).await.refused, []);
    assert_eq!(unban(&scene, &web_1, &address, None).await, 200);
    let ban = ban_of(&scene, &address).await.unwrap();
    assert_eq!((ban["sensor"].as_str(), ban["jail"].as_str()), (Some("web-2"), Some("smtp")));
}
