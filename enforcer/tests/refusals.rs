//! What the enforcer refuses, and that whatever strangers and broken sensors send changes nothing for others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod scene;

use std::time::Duration;

use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::intake::HalfOpenLimits;
use atalaya_enforcer::intake::entrance::{Caller, ConnectionLimits, Entrance};
use atalaya_enforcer::intake::https;
use atalaya_enforcer::router::pin::Pin;
use atalaya_enforcer::tls::Identity;
use atalaya_wire::{Evidence, Fingerprint, JoinToken, MAX_BODY, OFFENCES_PATH, ProblemCode, Secret};
use axum::extract::Extension;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use scene::{Scene, attacker, batch, enrol, in_time};

/// A TLS connection, for what no HTTP client would send.
async fn connect(address: std::net::SocketAddr, fingerprint: Fingerprint) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(std::sync::Arc::new(Pin::new(fingerprint).client().unwrap()));
    let name = ServerName::try_from("enforcer").unwrap();
    connector.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap()
}

/// All that arrives until the other side closes, or breaks off.
async fn rest(stream: &mut TlsStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        bytes.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_a_wrong_name_and_no_name_are_unauthorized_whatever_the_body() {
    let scene = Scene::new().await;
    let good = serde_json::to_vec(&batch(vec![scene.offence(1, "198.51.100.7")])).unwrap();
    let wrong_secret = JoinToken { secret: Secret::new([9; 32]), ..scene.token.clone() };
    let wrong_name = JoinToken { sensor: "web-2".parse().unwrap(), ..scene.token.clone() };
    for token in [wrong_secret, wrong_name] {
        for body in [good.clone(), Vec::new(), vec![b'x'; 2 * MAX_BODY]] {
            let (status, problem) = scene.send(body, &token).await.unwrap_err();
            assert_eq!((status.as_u16(), problem.code), (401, ProblemCode::Unauthorized));
            assert!(problem.message.contains(token.sensor.as_str()), "{problem}");
            assert!(!problem.message.contains(&token.secret.expose()), "{problem}");
        }
    }
    let bare = scene.client.post(scene.url(OFFENCES_PATH)).body(good).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    assert!(bare.headers().contains_key("www-authenticate"));
    let allow = scene.client.get(scene.url("/v1/allow")).send().await.unwrap();
    assert_eq!(allow.status(), 401);
    assert!(scene.entries().is_empty() && scene.bans().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_or_too_large_is_told_apart_and_nothing_of_it_is_banned() {
    let scene = Scene::new().await;
    let one = |sequence| scene.offence(sequence, "198.51.100.7");
    let text = |offences| serde_json::to_string(&batch(offences)).unwrap();
    let many = (0..1001).map(|number| scene.offence(u64::from(number) + 1, &attacker(number))).collect();
    for (body, status, code, says) in [
        (
            text(vec![one(1)]).replace("\"version\":1", "\"version\":2"),
            400,
            ProblemCode::UnknownVersion,
            "version 2",
        ),
        (r#"{"version":7,"x":[]}"#.to_owned(), 400, ProblemCode::UnknownVersion, "version 1"),
        (String::new(), 400, ProblemCode::Malformed, "not understood"),
        ("{\"version\":1}".to_owned(), 400, ProblemCode::Malformed, "outbox"),
        ("[".repeat(100_000), 400, ProblemCode::Malformed, "not understood"),
        (text(vec![one(2), one(1)]), 400, ProblemCode::Malformed, "grow"),
        (text(vec![one(1), one(1)]), 400, ProblemCode::Malformed, "grow"),
        (text(vec![one(0)]), 400, ProblemCode::Malformed, "2^63-1"),
        (
            text(vec![one(1)]).replace("198.51.100.7", "198.51.100.7/0"),
            400,
            ProblemCode::Malformed,
            "address",
        ),
        (text(vec![one(1)]).replace("\"ssh\"", "\"a\\nb\""), 400, ProblemCode::Malformed, "not a name"),
        (
            // With its key: the same digits may be in the time.
            text(vec![one(1)]).replace("\"bantime\":1800", "\"bantime\":1e300"),
            400,
            ProblemCode::Malformed,
            "ban time",
        ),
        (text(many), 413, ProblemCode::TooLarge, "1001 offences"),
        ("x".repeat(MAX_BODY + 1), 413, ProblemCode::TooLarge, "4194304 bytes"),
    ] {
        let shown: String = body.chars().take(60).collect();
        let (found, problem) = scene.send(body.into_bytes(), &scene.token).await.unwrap_err();
        assert_eq!((found.as_u16(), problem.code), (status, code), "{shown}: {problem}");
        assert!(problem.message.contains(says), "{shown}: {problem}");
    }
    let nowhere = scene.client.get(scene.url("/v2/offences")).send().await.unwrap();
    assert_eq!(nowhere.status(), 404);
    assert!(scene.bans().await.is_empty());
    scene.post(vec![one(1)]).await;
    scene.banned("198.51.100.7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attackers_text_reaches_ledger_and_router_cut_and_cleaned() {
    let scene = Scene::new().await;
    let mut offence = scene.offence(1, "198.51.100.7");
    let piece = Evidence {
        time: scene.clock.now(),
        source: "/var/log/\u{1b}[2J".to_owned() + &"s".repeat(10_000),
        text: "\u{1b}]0;x\u{7}\r\n'; DROP TABLE bans; --".to_owned() + &"t".repeat(100_000),
    };
    offence.offence.evidence = vec![piece; 20];
    scene.post(vec![offence]).await;
    scene.banned("198.51.100.7").await;
    let ban = scene.bans().await.remove(0);
    let evidence = ban["evidence"].as_array().unwrap();
    assert_eq!(evidence.len(), Evidence::MOST);
    let kept = evidence[0].to_string();
    assert!(kept.len() < 1000 && !kept.contains("\\u00") && !kept.contains("\\r"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_enrolled_this_moment_may_send_and_a_revoked_one_may_not() {
    let scene = Scene::new().await;
    let token = enrol(&scene.folder, &scene.service, "web-2", false);
    let body = |sequence| serde_json::to_vec(&batch(vec![scene.offence(sequence, "198.51.100.7")])).unwrap();
    scene.send(body(1), &token).await.unwrap();
    let replaced = enrol(&scene.folder, &scene.service, "web-2", true);
    scene.send(body(2), &replaced).await.unwrap();
    assert_eq!(scene.send(body(3), &token).await.unwrap_err().0, 401);

    let state = scene.folder.path().join("state");
    atalaya_enforcer::enrolment::revoke(&state, &token.sensor).unwrap();
    // Its connections end, perhaps in the middle of a request.
    let refused = async {
        loop {
            let request = scene.client.post(scene.url(OFFENCES_PATH)).body(body(4));
            let request = request.basic_auth(&replaced.sensor, Some(replaced.secret.expose()));
            if request.send().await.is_ok_and(|response| response.status() == 401) {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("a revoked sensor may go on");
    scene.post(vec![scene.offence(5, "198.51.100.8")]).await;
    assert_eq!(scene.bans().await.len(), 2, "what the revoked sensor reported stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_enforcer_on_the_same_state_is_refused_and_the_first_goes_on() {
    let scene = Scene::new().await;
    let config = scene::config(&scene.folder, &scene.routers, "");
    let error = atalaya_enforcer::service::start(config, scene.clock.clone()).await.unwrap_err();
    assert!(format!("{error:#}").contains("another atalaya-enforcer"), "{error:#}");
    scene.post(vec![scene.offence(1, "198.51.100.7")]).await;
    scene.banned("198.51.100.7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_connections_that_say_nothing_do_not_keep_an_offence_waiting() {
    let scene = Scene::new().await;
    let address = scene.service.address();
    let mut held = Vec::new();
    for number in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(&[0x16, 0x03, 0x01, 0xff, 0xff, number, 7, 7, 7]).await.unwrap();
        }
        held.push(stream);
    }
    let mut shaken = connect(address, scene.service.fingerprint()).await;
    shaken.write_all(b"\x00\xff NOT HTTP\r\n\r\n").await.unwrap();
    assert!(in_time(rest(&mut shaken)).await.starts_with("HTTP/1.1 400"));
    let mut endless = connect(address, scene.service.fingerprint()).await;
    endless.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    let more = async { while endless.write_all(&[b'x'; 16 * 1024]).await.is_ok() {} };
    in_time(more).await;
    in_time(scene.post(vec![scene.offence(1, "198.51.100.7")])).await;
    scene.banned("198.51.100.7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_sent_away_for_a_newcomer_or_after_a_while_and_a_sensors_connection_stays() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_make(folder.path(), || true).unwrap();
    let fingerprint = identity.fingerprint();
    let acceptor = TlsAcceptor::from(identity.presented().unwrap().server_config().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let know = |Extension(caller): Extension<Caller>| async move {
        caller.admit(&"web-1".parse().unwrap(), jiff::Timestamp::UNIX_EPOCH).unwrap();
    };
    let routes = axum::Router::new().route("/know", axum::routing::get(know));
    let limits = ConnectionLimits {
        stay: Duration::from_millis(100),
        half_open: HalfOpenLimits { strangers: 3, strangers_of_one: 3, known: 3 },
        ..ConnectionLimits::default()
    };
    let entrance = Entrance::new(limits, std::sync::Arc::default(), Clock::system());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(https::accept(listener, acceptor, routes, entrance.clone(), stop.clone(), tasks.clone()));

    let mut sensor = connect(address, fingerprint).await;
    let ask = b"GET /know HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut answer = [0; 12];
    sensor.write_all(ask).await.unwrap();
    sensor.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.push(connect(address, fingerprint).await);
    }
    assert_eq!(entrance.status().displaced, 0);
    strangers.push(connect(address, fingerprint).await);
    assert_eq!(entrance.status().displaced, 1, "one address may have any number, or the newcomer is refused");
    assert_eq!(in_time(rest(&mut strangers[0])).await, "", "the oldest stays");
    for mut stranger in strangers {
        let _ = stranger.write_all(b"GET /x HTTP/1.1\r\nslow: ").await;
        assert_eq!(in_time(rest(&mut stranger)).await, "");
    }
    sensor.write_all(ask).await.unwrap();
    in_time(sensor.read_exact(&mut answer)).await.unwrap();
    stop.cancel();
    tasks.close();
    in_time(tasks.wait()).await;
}

/// A sensor's connection: a request of its own was answered.
async fn joined(scene: &Scene, token: &JoinToken) -> TlsStream<TcpStream> {
    let mut stream = connect(scene.service.address(), scene.service.fingerprint()).await;
    stream.write_all(request(token, "GET /v1/allow", 0).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}

fn request(token: &JoinToken, what: &str, length: usize) -> String {
    let credentials = format!("{}:{}", token.sensor, token.secret.expose());
    let credentials = data_encoding::BASE64.encode(credentials.as_bytes());
    format!(
        "{what} HTTP/1.1\r\nhost: x\r\nauthorization: Basic {credentials}\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_sensors_connections_and_stream_end_with_the_command_and_others_stay() {
    let scene = Scene::new().await;
    let web_2 = enrol(&scene.folder, &scene.service, "web-2", false);
    let mut other = joined(&scene, &scene.token).await;
    let mut idle = joined(&scene, &web_2).await;
    let mut stream = connect(scene.service.address(), scene.service.fingerprint()).await;
    stream.write_all(request(&web_2, "GET /v1/bans?version=1", 0).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    let state = scene.folder.path().join("state");
    atalaya_enforcer::enrolment::revoke(&state, &web_2.sensor).unwrap();
    let (status, text) = scene.command(reqwest::Method::POST, "enrolled/refresh", None).await;
    assert_eq!((status.as_u16(), text.as_str()), (200, r#"{"ended":2}"#));
    in_time(rest(&mut idle)).await;
    in_time(rest(&mut stream)).await;
    other.write_all(request(&scene.token, "GET /v1/allow", 0).as_bytes()).await.unwrap();
    in_time(other.read_exact(&mut answer)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_has_eight_connections_and_one_unfinished_body_of_its_keeps_nobody_elses_waiting() {
    let scene = Scene::new().await;
    let web_2 = enrol(&scene.folder, &scene.service, "web-2", false);
    let mut links = Vec::new();
    for _ in 0..9 {
        links.push(joined(&scene, &web_2).await);
    }
    in_time(rest(&mut links[0])).await;
    for link in &mut links[1..] {
        link.write_all(request(&web_2, "POST /v1/offences", MAX_BODY).as_bytes()).await.unwrap();
        link.write_all(b"{\"version\":1,").await.unwrap();
    }
    in_time(scene.post(vec![scene.offence(1, "198.51.100.7")])).await;
    scene.banned("198.51.100.7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_that_sends_too_much_is_told_how_long_to_wait_and_status_names_it() {
    let routers = vec![routeros_sim::Router::builder().start().await.unwrap()];
    let scene = Scene::with(routers, "[sensors]\noffences = 1\n").await;
    let many = (1..=200).map(|number| scene.offence(number, &attacker(number as u32))).collect();
    scene.post(many).await;
    let again = batch(vec![scene.offence(201, "198.51.100.7")]);
    let (status, problem) = scene.try_post(&again).await.unwrap_err();
    assert_eq!((status.as_u16(), problem.code), (429, ProblemCode::TooMany));
    assert!(problem.message.starts_with("web-1 sends more than 1 offences a second"), "{problem}");
    assert!(problem.wait().unwrap() >= Duration::from_secs(30), "{problem:?}");
    let web_2 = enrol(&scene.folder, &scene.service, "web-2", false);
    scene.send(serde_json::to_vec(&again).unwrap(), &web_2).await.unwrap();
    let (_, text) = scene.command(reqwest::Method::GET, "status", None).await;
    assert!(text.contains("1 request had to wait, because it sends too much"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offence_of_a_jail_that_the_sensor_may_not_name_bans_nobody_and_the_rest_of_its_batch_does() {
    let scene = Scene::new().await;
    let state = scene.folder.path().join("state");
    let ssh = "ssh".parse().unwrap();
    atalaya_enforcer::enrolment::restrict(&state, &scene.token.sensor, &[ssh].into()).unwrap();
    scene.command(reqwest::Method::POST, "enrolled/refresh", None).await;
    let mut other = scene.offence(1, "198.51.100.7");
    other.offence.jail = "smtp".parse().unwrap();
    let ack = scene.post(vec![other, scene.offence(2, "198.51.100.8")]).await;
    assert_eq!((ack.through, ack.refused.len(), ack.refused[0].sequence), (2, 1, 1));
    assert!(ack.refused[0].reason.starts_with("web-1 may not name the jail smtp"), "{:?}", ack.refused);
    scene.banned("198.51.100.8").await;
    assert_eq!(scene.bans().await.len(), 1);
    let (_, text) = scene.command(reqwest::Method::GET, "status", None).await;
    assert!(text.contains("it named a jail that it may not name 1 time, which led to no ban"), "{text}");
}
