//! How the sensor's client follows the bans of an enforcer that is old, damaged or hostile: here the test itself,
//! over HTTPS.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::sync::Arc;
use std::time::Duration;

use atalaya_sensor::uplink::fleet_bans::{BanChange, Ends};
use atalaya_sensor::uplink::membership::Membership;
use atalaya_sensor::uplink::{Following, Uplink};
use atalaya_wire::{Fingerprint, JoinToken, Secret};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const PATIENCE: Duration = Duration::from_secs(30);

const BEGIN: &str = r#"{"begin":{"version":1,"ledger":"l","stream":"s","resumed":false}}"#;
const RESUMED: &str = r#"{"begin":{"version":1,"ledger":"l","stream":"s","resumed":true}}"#;
const BAN: &str = r#"{"ban":{"net":"192.0.2.1","ms":-1}}"#;
const MARK: &str = r#"{"mark":{"through":3}}"#;

/// The enforcer that the test plays, and the client that follows it.
struct Played {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    changes: mpsc::Receiver<BanChange>,
    following: watch::Receiver<Following>,
    task: tokio::task::JoinHandle<()>,
}

// === impl Played ===

impl Played {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["enforcer".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let fingerprint = Fingerprint::of(&certificate);
        let tls =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let token = JoinToken { sensor: "web-1".parse().unwrap(), secret: Secret::new([7; 32]), fingerprint };
        let uplink = Uplink::new(Membership::new(&url, token).unwrap()).unwrap();
        let (sink, changes) = mpsc::channel(100);
        let (told, following) = watch::channel(Following::default());
        let task = tokio::spawn(async move { uplink.follow_bans(None, sink, told).await });
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(tls)), changes, following, task }
    }

    /// The next request's path with its query, and where its answer goes.
    async fn asked(&mut self) -> (String, TlsStream<TcpStream>) {
        let asked = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            let mut stream = BufReader::new(self.acceptor.accept(stream).await.unwrap());
            let (mut request, mut line) = (String::new(), String::new());
            while stream.read_line(&mut line).await.unwrap() > 2 {
                request.push_str(&std::mem::take(&mut line));
            }
            assert!(request.to_ascii_lowercase().contains("authorization: basic"), "{request}");
            (request.split(' ').nth(1).unwrap().to_owned(), stream.into_inner())
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it does not ask")
    }

    async fn next(&mut self) -> BanChange {
        tokio::time::timeout(PATIENCE, self.changes.recv()).await.expect("nothing comes").unwrap()
    }

    async fn trouble(&mut self, words: &str) -> Following {
        let said =
            |following: &Following| following.trouble.as_ref().is_some_and(|said| said.contains(words));
        let seen = tokio::time::timeout(PATIENCE, self.following.wait_for(said)).await;
        seen.expect("no such trouble").unwrap().clone()
    }
}

/// Answers with lines; the answer goes on.
async fn say(stream: &mut TlsStream<TcpStream>, status: u16, body: &str) {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 100000\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test]
async fn what_is_not_understood_is_said_and_the_client_asks_again_where_it_stood() {
    let mut played = Played::start().await;
    let (path, mut stream) = played.asked().await;
    assert_eq!(path, "/v1/bans?version=1");
    let ban = BanChange::Ban { network: "192.0.2.1/32".parse().unwrap(), ends: Ends::Never };
    let bad = BAN.replace("192.0.2.1", "192.0.2.1/40");
    say(&mut stream, 200, &format!("{BEGIN}\n{BAN}\n{MARK}\n{bad}\n")).await;
    // What came before the bad line counts.
    assert_eq!(played.next().await, BanChange::Reset);
    assert_eq!(played.next().await, ban);
    assert_eq!(played.next().await, BanChange::Whole);
    let BanChange::Reached(reached) = played.next().await else { panic!("no position") };
    assert_eq!((reached.stream.as_str(), reached.through), ("s", 3));
    let said = played.trouble("192.0.2.1/40").await;
    assert!(!said.is_connected && said.trouble.unwrap().contains("neither an address nor a network"));

    let (path, mut stream) = played.asked().await;
    assert_eq!(path, "/v1/bans?version=1&stream=s&through=3");
    say(&mut stream, 200, &format!("{RESUMED}\n{BAN}\n{}", "{".repeat(2000))).await;
    assert_eq!(played.next().await, ban);
    played.trouble("longer than 512 bytes").await;

    // Mended, and nothing is told twice.
    let (path, mut stream) = played.asked().await;
    assert_eq!(path, "/v1/bans?version=1&stream=s&through=3");
    say(&mut stream, 200, &format!("{RESUMED}\n{MARK}\n")).await;
    let well = Following { is_connected: true, is_whole: true, trouble: None };
    let mended = played.following.wait_for(|following| *following == well);
    tokio::time::timeout(PATIENCE, mended).await.expect("it does not mend").unwrap();
    assert!(played.changes.try_recv().is_err());

    // An enforcer that ends, and one that refuses.
    drop(stream);
    played.trouble("").await;
    let (_, mut stream) = played.asked().await;
    say(&mut stream, 503, r#"{"code":"unavailable","message":"not now"}"#).await;
    drop(stream);
    let (_, mut stream) = played.asked().await;
    let old = r#"{"code":"not-found","message":"nothing is here"}"#;
    let head = format!("HTTP/1.1 404 X\r\ncontent-length: {}\r\n\r\n{old}", old.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    played.trouble("nothing is here").await;

    // Nobody takes the bans any more: it ends at once, also while it leaves an old enforcer alone.
    drop(played.changes);
    tokio::time::timeout(PATIENCE, played.task).await.expect("it goes on").unwrap();
}
