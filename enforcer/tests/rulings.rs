//! What a sensor is told of its offences, in a whole enforcer: who is banned, for how long and with what around
//! it, and who is not and why; the same for an offence that is sent again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod scene;

use atalaya_wire::{Left, Login, NumberedOffence, NumberedRuling, Report, Ruling, VERSION};
use jiff::SignedDuration;

use scene::{Scene, batch, offence};

/// What was ruled, in words; what is left of a ban in whole minutes.
fn said(rulings: &[NumberedRuling]) -> Vec<String> {
    let said = |numbered: &NumberedRuling| match numbered.ruling {
        Ruling::Banned { net, ms: Left::Milliseconds(left) } => {
            format!("{} {net} {} min", numbered.sequence, left.div_ceil(60_000))
        }
        Ruling::Banned { net, ms: Left::Permanent } => format!("{} {net} for ever", numbered.sequence),
        Ruling::Refused(grounds) => format!("{} {grounds:?}", numbered.sequence),
    };
    rulings.iter().map(said).collect()
}

async fn log_in(scene: &Scene, address: &str) {
    let login = Login {
        address: address.parse().unwrap(),
        service: "sshd".to_owned(),
        account: "ann".to_owned(),
        time: scene.clock.now(),
    };
    let outbox = "o1".parse().unwrap();
    let report = Report {
        version: VERSION,
        outbox,
        sequence: 1,
        sent: scene.clock.now(),
        failures: Vec::new(),
        logins: vec![login],
    };
    assert_eq!(scene.report(&report, &scene.token).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_offence_is_answered_with_what_stands_also_when_it_is_sent_again() {
    let routers = vec![routeros_sim::Router::builder().start().await.unwrap()];
    let scene = Scene::with(routers, "allow = [\"192.0.2.0/24\"]\n").await;
    log_in(&scene, "fd00::7").await;
    let now = scene.clock.now();
    let offences = || -> Vec<NumberedOffence> {
        vec![
            offence(1, "198.51.100.7", now),
            offence(2, "192.0.2.9", now),
            offence(3, "fd00::7", now),
            // Its neighbour in the /64 is spared: it is banned alone.
            offence(4, "fd00::8", now),
            offence(5, "2001:db8::9", now),
            offence(6, "198.51.100.8", now - SignedDuration::from_secs(3600)),
            offence(7, "::ffff:198.51.100.7", now),
        ]
    };
    let first = scene.post(offences()).await;
    let expected = [
        "1 198.51.100.7/32 30 min",
        "2 Allowed",
        "3 Protected",
        "4 fd00::8/128 30 min",
        "5 2001:db8::/64 30 min",
        "6 Over",
        "7 198.51.100.7/32 30 min",
    ];
    assert_eq!((first.through, said(&first.rulings)), (7, expected.map(str::to_owned).to_vec()));
    assert_eq!(said(&scene.post(offences()).await.rulings), expected);

    // Someone lifts one: that is what stands, after a restart too.
    let (status, text) = scene.command(reqwest::Method::DELETE, "bans?prefix=198.51.100.7/32", None).await;
    assert_eq!(status, 200, "{text}");
    let scene = scene.restart(async |routers, clock| scene::advance(routers, clock, 600)).await;
    let again = scene.post(offences()).await;
    assert_eq!(
        said(&again.rulings),
        [
            "1 Over",
            "2 Allowed",
            "3 Protected",
            "4 fd00::8/128 20 min",
            "5 2001:db8::/64 20 min",
            "6 Over",
            "7 Over"
        ]
    );
    // A batch of nothing is answered with nothing.
    let nothing = scene.try_post(&batch(Vec::new())).await.unwrap();
    assert!(nothing.rulings.is_empty());
}
