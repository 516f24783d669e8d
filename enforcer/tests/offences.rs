//! From a sensor's post to the routers and the ledger: the enforcer's share of the main job.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod scene;

use atalaya_wire::{BanTime, Seconds};
use jiff::{SignedDuration, Timestamp};
use routeros_sim::Router;

use scene::{Scene, advance, attacker, batch, in_time, offence};

#[tokio::test(flavor = "multi_thread")]
async fn an_offence_is_on_the_router_with_thirty_minutes_and_in_the_ledger() {
    let scene = Scene::new().await;
    assert_eq!(scene.post(vec![scene.offence(7, "198.51.100.7")]).await.through, 7);
    let entry = scene.banned("198.51.100.7").await;
    let left = entry.timeout_left.unwrap().as_secs_f64();
    assert!((1799.0..=1801.0).contains(&left), "{left} s left");
    assert_eq!(entry.list, "spammer");
    scene::says(&entry, "ssh from web-1");
    let bans = scene.bans().await;
    assert_eq!(bans.len(), 1);
    assert_eq!((bans[0]["strikes"].as_u64(), bans[0]["jail"].as_str()), (Some(1), Some("ssh")));
    assert_eq!(bans[0]["evidence"][0]["text"], "failed password of root");
    let until: Timestamp = bans[0]["until"].as_str().unwrap().parse().unwrap();
    let since: Timestamp = bans[0]["since"].as_str().unwrap().parse().unwrap();
    assert_eq!(until.duration_since(since), SignedDuration::from_secs(1800));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_banned_already_is_no_second_entry_and_no_error() {
    let scene = Scene::new().await;
    let first = scene.offence(1, "198.51.100.7");
    scene.post(vec![first.clone()]).await;
    scene.banned("198.51.100.7").await;
    // From another sensor, of the same moment, and shorter.
    let mut again = first;
    again.sequence = 2;
    again.offence.bantime = BanTime::For(Seconds(60));
    scene.post(vec![again]).await;
    // Later: the entry that is there lasts longer.
    scene.advance(600);
    scene.post(vec![scene.offence(3, "198.51.100.7")]).await;
    scene
        .holds(|entries| {
            entries.iter().any(|entry| entry.timeout_left.is_some_and(|left| left.as_secs() >= 1790))
        })
        .await;
    assert_eq!(scene.entries().len(), 1);
    assert_eq!((scene.router().counts().adds, scene.router().counts().duplicates), (1, 0));
    let bans = scene.bans().await;
    assert_eq!((bans.len(), bans[0]["strikes"].as_u64()), (1, Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_lapses_with_the_router_and_a_new_offence_bans_again() {
    let scene = Scene::new().await;
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    scene.banned("198.51.100.7").await;
    scene.advance(1795);
    assert_eq!((scene.entries().len(), scene.bans().await.len()), (1, 1));
    scene.advance(6);
    scene.holds(<[_]>::is_empty).await;
    assert!(scene.bans().await.is_empty(), "the ledger's ban outlives the router's entry");
    assert_eq!(scene.router().counts().removes, 0, "the router was told to remove what lapses by itself");

    scene.post(vec![scene.offence(2, "198.51.100.7")]).await;
    scene.banned("198.51.100.7").await;
    let bans = scene.bans().await;
    assert_eq!((bans.len(), bans[0]["strikes"].as_u64()), (1, Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_was_away_for_ten_minutes_gets_what_is_left() {
    let scene = Scene::new().await;
    scene.router().go_down().await;
    scene.post(vec![scene.offence(1, "198.51.100.7"), scene.offence(2, "2001:db8::7")]).await;
    scene.advance(600);
    scene.router().come_up().await.unwrap();
    for address in ["198.51.100.7", "2001:db8::/64"] {
        let left = scene.banned(address).await.timeout_left.unwrap().as_secs_f64();
        assert!((1199.0..=1201.0).contains(&left), "{address} has {left} s left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_stand_after_a_restart_and_reach_a_router_that_was_rebooted_meanwhile() {
    let scene = Scene::new().await;
    scene.post(vec![scene.offence(1, "198.51.100.7"), scene.offence(2, "198.51.100.8")]).await;
    scene.banned("198.51.100.8").await;
    let restart = async |routers: &[Router], clock: &_| {
        routers[0].reboot().await;
        advance(routers, clock, 900);
    };
    let scene = scene.restart(restart).await;
    let left = scene.banned("198.51.100.7").await.timeout_left.unwrap().as_secs_f64();
    assert!((899.0..=901.0).contains(&left), "{left} s left");
    assert_eq!(scene.bans().await.len(), 2);
    // The same outbox again: known from before the restart.
    let old = offence(2, "198.51.100.9", scene.clock.now());
    assert_eq!(scene.post(vec![old]).await.through, 2);
    assert_eq!(scene.bans().await.len(), 2);
    // And all that ended while the enforcer was down has ended.
    let scene = scene.restart(async |routers, clock| advance(routers, clock, 901)).await;
    assert!(scene.bans().await.is_empty() && scene.entries().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_router_does_not_delay_another() {
    let mut routers = Vec::new();
    for _ in 0..2 {
        routers.push(Router::builder().start().await.unwrap());
    }
    routers[1].go_down().await;
    let scene = Scene::with(routers, "").await;
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    scene.banned("198.51.100.7").await;
    assert!(!scene.service.routers()[1].status().is_up());
    scene.routers[1].come_up().await.unwrap();
    scene.routers[1].wait_for(|entries| entries.len() == 1, scene::PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_offences_at_once_are_all_there_and_none_twice() {
    let scene = Scene::new().await;
    let posts = (0..10).map(|part: u32| {
        let offences = (part * 1000..(part + 1) * 1000)
            .map(|number| scene.offence(u64::from(number) + 1, &attacker(number)))
            .collect();
        let mut batch = batch(offences);
        // As many sensors would: each outbox counts for itself.
        batch.outbox = format!("o{part}").parse().unwrap();
        batch
    });
    let posts: Vec<_> = posts.collect();
    let acks = async {
        for pair in posts.chunks(2) {
            let (one, two) = tokio::join!(scene.try_post(&pair[0]), scene.try_post(&pair[1]));
            one.unwrap();
            two.unwrap();
        }
    };
    in_time(acks).await;
    scene.holds(|entries| entries.len() == 10_000).await;
    assert_eq!(scene.router().counts().duplicates, 0);
    assert_eq!(scene.bans().await.len(), 10_000);
    // All of it once more.
    for post in &posts {
        scene.try_post(post).await.unwrap();
    }
    assert_eq!(scene.router().counts().adds, 10_000);
    assert_eq!(scene.bans().await.len(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn resending_changes_nothing() {
    let scene = Scene::new().await;
    let offences = vec![scene.offence(4, "198.51.100.7"), scene.offence(9, "198.51.100.8")];
    assert_eq!(scene.post(offences.clone()).await.through, 9);
    scene.banned("198.51.100.8").await;
    scene.command(reqwest::Method::DELETE, "bans?prefix=198.51.100.8/32", None).await;
    scene.holds(|entries| entries.len() == 1).await;
    // Lifted by hand meanwhile: what is sent again does not bring it back.
    for _ in 0..3 {
        assert_eq!(scene.post(offences.clone()).await.through, 9);
    }
    assert_eq!(scene.post(offences[..1].to_vec()).await.through, 9);
    assert_eq!(scene.post(Vec::new()).await.through, 9);
    assert_eq!((scene.entries().len(), scene.bans().await.len()), (1, 1));
    assert_eq!(scene.router().counts().adds, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ban_goes_out_before_the_ledger_has_it_and_the_ack_after() {
    let scene = Scene::new().await;
    let lock = scene.database();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let post = scene.post(vec![scene.offence(1, "198.51.100.7")]);
    let mut post = std::pin::pin!(post);
    tokio::select! {
        ack = post.as_mut() => panic!("acked before the ledger had it: {ack:?}"),
        _ = scene.banned("198.51.100.7") => {}
    }
    assert!(scene.bans().await.is_empty());
    lock.execute_batch("ROLLBACK").unwrap();
    assert_eq!(in_time(post).await.through, 1);
    assert_eq!(scene.bans().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_written_costs_the_ack_and_not_the_ban() {
    let scene = Scene::new().await;
    let database = scene.database();
    let full = "CREATE TRIGGER full BEFORE INSERT ON bans BEGIN SELECT RAISE(FAIL, 'disk is full'); END;";
    database.execute_batch(full).unwrap();
    let post = batch(vec![scene.offence(1, "198.51.100.7")]);
    for _ in 0..2 {
        let (status, problem) = scene.try_post(&post).await.unwrap_err();
        assert_eq!(status, 503);
        assert!(problem.message.contains("disk is full"), "{problem}");
    }
    scene.banned("198.51.100.7").await;
    let by_hand = serde_json::json!({"prefix": "198.51.100.8/32", "bantime": 600});
    let (status, text) = scene.command(reqwest::Method::POST, "bans", Some(by_hand)).await;
    assert!(status == 503 && text.contains("kept in memory until it is written"), "{status} {text}");
    assert!(scene.bans().await.is_empty());
    let (_, status) = scene.command(reqwest::Method::GET, "status", None).await;
    assert!(status.contains("\"ledger_trouble\":\"disk is full\""), "{status}");

    database.execute_batch("DROP TRIGGER full").unwrap();
    // The enforcer writes by itself what its routers hold: nobody may send it again.
    scene.ledger_shows(|bans| bans.len() == 2).await;
    assert_eq!(scene.try_post(&post).await.unwrap().through, 1);
    assert_eq!(scene.bans().await.len(), 2);
    assert_eq!(scene.router().counts().adds, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offence_that_arrives_late_bans_for_what_is_left_and_too_late_not_at_all() {
    let scene = Scene::new().await;
    let now = scene.clock.now();
    let ago = |seconds| now - SignedDuration::from_secs(seconds);
    let late = offence(1, "198.51.100.7", ago(1200));
    let too_late = offence(2, "198.51.100.8", ago(1801));
    let of_the_future = offence(3, "198.51.100.9", ago(-86_400));
    assert_eq!(scene.post(vec![late, too_late, of_the_future]).await.through, 3);
    let left = scene.banned("198.51.100.7").await.timeout_left.unwrap().as_secs_f64();
    assert!((599.0..=601.0).contains(&left), "{left} s left");
    let left = scene.banned("198.51.100.9").await.timeout_left.unwrap().as_secs_f64();
    assert!((1799.0..=1801.0).contains(&left), "{left} s left");
    assert_eq!(scene.bans().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_addresses_are_acked_and_not_banned() {
    let router = Router::builder().start().await.unwrap();
    let scene = Scene::with(vec![router], "allow = [\"192.0.2.0/24\", \"2001:db8:1::/48\"]").await;
    let allowed = [
        "192.0.2.9",
        "::ffff:192.0.2.10",
        "2001:db8:1::5",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
    ];
    let offences =
        allowed.iter().zip(1..).map(|(address, sequence)| scene.offence(sequence, address)).collect();
    assert_eq!(scene.post(offences).await.through, 8);
    scene.post(vec![scene.offence(9, "198.51.100.7")]).await;
    scene.banned("198.51.100.7").await;
    assert_eq!((scene.entries().len(), scene.bans().await.len()), (1, 1));
    let list = scene.allow().await.to_string();
    for network in ["192.0.2.0/24", "2001:db8:1::/48", "127.0.0.0/8"] {
        assert!(list.contains(network), "{list}");
    }
    let (_, status) = scene.command(reqwest::Method::GET, "status", None).await;
    assert!(status.contains("\"allowed\":8"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_allow_list_of_a_restart_lifts_bans() {
    let scene = Scene::new().await;
    scene.post(vec![scene.offence(1, "198.51.100.7"), scene.offence(2, "203.0.113.7")]).await;
    scene.banned("203.0.113.7").await;
    let Scene { folder, routers, clock, service, .. } = scene;
    service.stop().await;
    let config = scene::config(&folder, &routers, "allow = [\"198.51.100.0/24\"]");
    let service = atalaya_enforcer::service::start(config, clock).await.unwrap();
    let left = |entries: &[routeros_sim::Entry]| entries.len() == 1 && entries[0].address == "203.0.113.7";
    routers[0].wait_for(left, scene::PATIENCE).await.unwrap();
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offence_of_a_jail_with_a_reserved_name_is_refused_and_the_rest_of_its_batch_is_taken() {
    let scene = Scene::new().await;
    let mut offences: Vec<_> =
        (1..=5).map(|number| scene.offence(number, &format!("198.51.100.{number}"))).collect();
    for (place, name) in [(1, "manual"), (3, "fleet"), (4, "recovered")] {
        offences[place].offence.jail = name.parse().unwrap();
    }
    let ack = scene.post(offences.clone()).await;
    assert_eq!(ack.through, 5, "the sensor would send what is refused for ever");
    let refused: Vec<u64> = ack.refused.iter().map(|refused| refused.sequence).collect();
    assert_eq!(refused, [2, 4, 5]);
    assert!(
        ack.refused[0].reason.contains("`manual`") && ack.refused[0].reason.contains("bans by hand"),
        "{:?}",
        ack.refused
    );
    scene.banned("198.51.100.1").await;
    scene.banned("198.51.100.3").await;
    assert_eq!(scene.bans().await.len(), 2);
    // One batch of nothing else, too.
    offences[4].sequence = 6;
    let ack = scene.post(vec![offences.remove(4)]).await;
    assert_eq!((ack.through, ack.refused.len()), (6, 1));
    assert_eq!(scene.bans().await.len(), 2);
}
