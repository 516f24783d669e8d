//! Who the router is and who we are to it: pinned certificates, logins, versions.

#![allow(clippy::unwrap_used, reason = "tests")]

mod stage;

use std::time::Duration;

use atalaya_enforcer::desired::Desired;
use atalaya_enforcer::router::{Password, RouterConfig, State};
use atalaya_wire::Fingerprint;
use routeros_sim::{Builder, Router};
use stage::Stage;

/// The last error of a worker that cannot get in.
async fn failure(builder: Builder, configure: impl FnOnce(&mut RouterConfig)) -> String {
    let stage = Stage::raise(builder.start().await.unwrap(), Desired::new(), configure);
    let status = stage.shows(|status| status.last_error.is_some() && !status.is_up()).await;
    assert_eq!(status.sessions, 0);
    status.last_error.unwrap().text
}

#[tokio::test]
async fn a_pinned_certificate_is_trusted_over_tls() {
    let router = Router::builder().tls(true).start().await.unwrap();
    let pin = Fingerprint::of(&router.certificate().unwrap());
    let stage = Stage::raise(router, Desired::new(), |config| config.tls = Some(pin));
    stage.is(State::Connected).await;
    for number in 0..500_u32 {
        stage.ban(&std::net::Ipv4Addr::from(0x0A00_0000 + number).to_string(), 1800);
    }
    stage.shows(|status| status.counts.adds == 500).await;
    assert_eq!(stage.entries().len(), 500);
}

#[tokio::test]
async fn another_certificate_is_refused_and_both_are_named() {
    let router = Router::builder().tls(true).start().await.unwrap();
    let presented = Fingerprint::of(&router.certificate().unwrap());
    let pinned = Fingerprint::of(b"another certificate");
    let stage = Stage::raise(router, Desired::new(), |config| config.tls = Some(pinned));
    let status = stage.shows(|status| status.last_error.is_some()).await;
    let text = status.last_error.unwrap().text;
    assert!(text.contains(&presented.to_string()) && text.contains(&pinned.to_string()), "{text}");
    assert_eq!(stage.router.counts().logins, 0);
}

#[tokio::test]
async fn a_plain_port_is_told_apart_from_a_tls_one() {
    let pin = Fingerprint::of(b"x");
    let text = failure(Router::builder(), |config| {
        config.tls = Some(pin);
        // The simulator may wait for the rest of what it takes for a long word.
        config.deadlines.connect = Duration::from_millis(200);
    });
    let text = text.await;
    assert!(text.contains("no TLS") || text.contains("does not speak TLS"), "{text}");
    assert!(text.contains("the plain API's"), "{text}");
}

#[tokio::test]
async fn a_tls_port_is_told_from_a_plain_one_by_what_comes_back() {
    let router = Router::builder().tls(true).start().await.unwrap();
    let port = router.address().port();
    let stage = Stage::raise(router, Desired::new(), |config| config.tls = None);
    let status = stage.shows(|status| status.last_error.is_some() && !status.is_up()).await;
    let expected = format!("port {port} speaks TLS: it is api-ssl's; set `fingerprint` for it");
    let text = status.last_error.unwrap().text;
    assert!(text.starts_with(&expected), "{text}");
}

#[tokio::test]
async fn what_answers_a_tls_handshake_with_something_else_is_told_to_speak_no_tls() {
    use tokio::io::AsyncWriteExt;
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            // As RouterOS does before a login.
            let _ = stream.write_all(b"\x06!fatal\x0dnot logged in\0").await;
        }
    });
    let router = Router::builder().start().await.unwrap();
    let stage = Stage::raise(router, Desired::new(), |config| {
        config.tls = Some(Fingerprint::of(b"x"));
        config.address.port = Some(port);
    });
    let status = stage.shows(|status| status.last_error.is_some()).await;
    let text = status.last_error.unwrap().text;
    assert!(text.starts_with(&format!("port {port} does not speak TLS: it is the plain API's")), "{text}");
}

#[tokio::test]
async fn a_wrong_password_says_what_to_check_and_shows_no_password() {
    let text = failure(Router::builder(), |config| config.password = Password::new("hunter2")).await;
    assert!(text.contains("`atalaya`") && text.contains("invalid user name or password"), "{text}");
    assert!(!text.contains("hunter2"));
    assert!(!format!("{:?}", Password::new("hunter2")).contains("hunter2"));
}

#[tokio::test]
async fn a_router_before_6_43_is_told_to_be_updated() {
    let text = failure(Router::builder().version("6.42"), |_| {}).await;
    assert!(text.contains("before 6.43"), "{text}");
}

#[tokio::test]
async fn routers_before_and_after_the_empty_reply_are_read() {
    for version in ["6.49", "7.17", "7.18", "7.24"] {
        let stage = Stage::with(Router::builder().version(version), |_| {}).await;
        stage.ban("192.0.2.1", 1800);
        stage.holds(&["192.0.2.1"]).await;
        let status = stage.shows(|status| status.version.is_some()).await;
        assert!(status.version.unwrap().starts_with(version));
    }
}

#[tokio::test]
async fn the_status_names_the_router_and_its_addresses() {
    let stage = Stage::with(Router::builder().identity("edge-1"), |_| {}).await;
    let status = stage.shows(|status| status.identity.is_some() && status.uptime.is_some()).await;
    assert_eq!(status.identity.as_deref(), Some("edge-1"));
    assert_eq!(stage.worker.addresses(), [stage.router.address().ip()]);
    assert!(serde_json::to_string(&status).unwrap().contains("\"state\":{\"is\":\"connected\"}"));
}

#[tokio::test]
async fn a_host_name_is_resolved() {
    let router = Router::builder().start().await.unwrap();
    let port = router.address().port();
    let stage = Stage::raise(router, Desired::new(), |config| {
        config.address = format!("localhost:{port}").parse().unwrap();
    });
    stage.is(State::Connected).await;
    assert!(stage.worker.addresses().contains(&stage.router.address().ip()));
}
