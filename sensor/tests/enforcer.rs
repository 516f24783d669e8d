//! The sensor as a process, and what it says to an enforcer: here the test itself, over HTTPS.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::fs::File;
use std::io::{BufRead, BufReader as LineReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use atalaya_sensor::uplink::membership::Membership;
use atalaya_wire::{Batch, Evidence, Fingerprint, JoinToken, Report, Secret};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

/// A request, and where its answer goes; without one the connection is closed.
struct Asked {
    path: String,
    body: Vec<u8>,
    reply: oneshot::Sender<(u16, String)>,
}

/// The enforcer that the test plays.
struct Enforcer {
    membership: Membership,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// What it says of its ledger.
    ledger: &'static str,
}

/// The process, ended with the test.
struct Sensor {
    child: Child,
    folder: tempfile::TempDir,
    /// What it logs of offences that the enforcer took for none.
    none: std::sync::mpsc::Receiver<String>,
}

// === impl Enforcer ===

impl Enforcer {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["enforcer".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let fingerprint = Fingerprint::of(&certificate);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (sender, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.unwrap();
                    let (reader, mut writer) = tokio::io::split(stream);
                    let mut reader = BufReader::new(reader);
                    while let Some((path, body)) = read_request(&mut reader).await {
                        let (reply, answer) = oneshot::channel();
                        let _ = sender.send(Asked { path, body, reply });
                        let Ok((status, body)) = answer.await else { return };
                        answer_with(&mut writer, status, &body).await;
                    }
                });
            }
        });
        let token = JoinToken { sensor: "web-1".parse().unwrap(), secret: Secret::new([7; 32]), fingerprint };
        Self { membership: Membership::new(&url, token).unwrap(), asked, ledger: "one" }
    }

    /// The next request that is not for the allow list.
    async fn next(&mut self) -> Asked {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), self.asked.recv()).await;
            let asked = next.expect("nothing came from the sensor").unwrap();
            if asked.path != atalaya_wire::ALLOW_PATH {
                return asked;
            }
            asked.say(200, &format!(r#"{{"networks":[],"ledger":"{}"}}"#, self.ledger));
        }
    }

    /// The next batch; reports that come before it are taken.
    async fn next_batch(&mut self, reports: &mut Vec<Report>) -> (Batch, Asked) {
        loop {
            let asked = self.next().await;
            if asked.path == atalaya_wire::OFFENCES_PATH {
                return (serde_json::from_slice(&asked.body).unwrap(), asked);
            }
            reports.push(asked.report());
            asked.say(200, "null");
        }
    }

    fn ack(&self, batch: &Batch, asked: Asked) {
        let through = batch.offences.last().unwrap().sequence;
        asked.say(200, &format!(r#"{{"through":{through},"ledger":"{}"}}"#, self.ledger));
    }
}

// === impl Asked ===

impl Asked {
    fn say(self, status: u16, body: &str) {
        self.reply.send((status, body.to_owned())).unwrap();
    }

    fn report(&self) -> Report {
        assert_eq!(self.path, atalaya_wire::REPORTS_PATH);
        serde_json::from_slice(&self.body).unwrap()
    }
}

// === impl Sensor ===

impl Sensor {
    fn start(folder: tempfile::TempDir) -> Self {
        let mut child = command(folder.path())
            .args(["run", "--log", "info"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (taken, none) = std::sync::mpsc::channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let (ready, taken) = (ready.clone(), taken.clone());
            std::thread::spawn(move || {
                for line in LineReader::new(output).lines().map_while(Result::ok) {
                    println!("{line}");
                    if line.contains("ready") {
                        let _ = ready.send(());
                    }
                    if line.contains("for none") {
                        let _ = taken.send(line);
                    }
                }
            });
        }
        is_ready.recv_timeout(Duration::from_secs(20)).expect("the sensor does not start");
        Self { child, folder, none }
    }

    /// Logs a failure of each of these.
    fn log(&self, addresses: &[&str]) {
        let mut log = File::options().append(true).open(self.folder.path().join("log")).unwrap();
        let now = jiff::Timestamp::now();
        let lines = addresses.iter().map(|address| format!("{now} bad one from {address}\n"));
        log.write_all(lines.collect::<String>().as_bytes()).unwrap();
    }

    /// Returns once its status holds this; what it is told by another thread may still be on its way at the first look.
    async fn shows(&self, text: &str) {
        let mut status = String::new();
        for _ in 0..50 {
            status = self.says(&["status"]).await.unwrap();
            if status.contains(text) {
                return;
            }
        }
        panic!("its status does not hold {text:?}: {status}");
    }

    /// What a command prints; off this thread, which plays the enforcer.
    fn says(&self, arguments: &'static [&'static str]) -> tokio::task::JoinHandle<String> {
        let mut command = command(self.folder.path());
        tokio::task::spawn_blocking(move || {
            let output = command.args(arguments).output().unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            println!("{arguments:?}: {said}");
            said
        })
    }

    /// Ends it as systemd does; its folder stays.
    fn stop(mut self) -> tempfile::TempDir {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_offences_resent_bans_and_unbans_reach_an_enforcer_over_https() {
    let mut enforcer = Enforcer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    enforcer.membership.store(&path("state")).unwrap();
    File::create(path("log")).unwrap();
    let config = format!(
        "state = {:?}\n[jail.a]\nsource = \"files\"\npaths = {:?}\nfailregex = '^ bad one from <ADDR>$'\nescalate = true\n",
        path("state"),
        path("log")
    );
    std::fs::write(path("sensor.toml"), config).unwrap();
    let sensor = Sensor::start(folder);

    // A report whose answer is lost comes again under its number, dated anew.
    sensor.log(&["192.0.2.1", "192.0.2.1", "2001:db8::1"]);
    let lost = enforcer.next().await;
    let first = lost.report();
    drop(lost);
    let again = enforcer.next().await;
    let mut reports = vec![again.report()];
    again.say(200, "");
    assert!(reports[0].sent > first.sent);
    assert_eq!(reports[0], Report { sent: reports[0].sent, ..first });

    // So does a batch; the /64 was counted as one.
    sensor.log(&["2001:db8::2", "2001:db8::3"]);
    let (batch, asked) = enforcer.next_batch(&mut reports).await;
    sensor.shows("\n1 offence waits for the enforcer\n").await;
    asked.say(503, r#"{"code":"unavailable","message":"not now"}"#);
    let (later, asked) = enforcer.next_batch(&mut reports).await;
    assert!(later.sent > batch.sent, "{:?} is not after {:?}", later.sent, batch.sent);
    assert_eq!(later.offences, batch.offences);
    assert_eq!(later.offences[0].offence.address.to_string(), "2001:db8::3");
    enforcer.ack(&later, asked);

    // Another ledger at the next ack: both bans come once more.
    sensor.log(&["192.0.2.1"]);
    enforcer.ledger = "two";
    let (batch, asked) = enforcer.next_batch(&mut reports).await;
    assert!(batch.offences[0].offence.escalation.is_some());
    enforcer.ack(&batch, asked);
    let (resent, asked) = enforcer.next_batch(&mut reports).await;
    enforcer.ack(&resent, asked);
    let told: Vec<String> = resent.offences.iter().map(|one| one.offence.address.to_string()).collect();
    assert_eq!(told, ["192.0.2.1", "2001:db8::3"]);
    for resent in resent.offences.iter().map(|numbered| &numbered.offence) {
        let Evidence { source, text, .. } = &resent.evidence[0];
        assert_eq!((source.as_str(), resent.escalation.is_some()), ("resent", false));
        assert!(text.contains("ledger was lost"), "{text}");
    }

    // Any address of the /64 unbans it.
    let said = sensor.says(&["unban", "2001:db8::77"]);
    let mut unbanned = Vec::new();
    while unbanned.len() < 2 {
        let asked = enforcer.next().await;
        if asked.path != atalaya_wire::UNBAN_PATH {
            reports.push(asked.report());
            asked.say(200, "null");
            continue;
        }
        let unban: atalaya_wire::Unban = serde_json::from_slice(&asked.body).unwrap();
        unbanned.push(unban.address.to_string());
        if unbanned.len() == 1 {
            asked.say(200, "null");
        } else {
            asked.say(404, r#"{"code":"not-found","message":"no such ban"}"#);
        }
    }
    assert_eq!(unbanned, ["2001:db8::3", "2001:db8::77"]);
    assert!(said.await.unwrap().contains("2001:db8::3 is unbanned (jail a)"));

    // Each failure was reported once.
    let sum = |reports: &[Report]| -> u32 {
        reports.iter().flat_map(|report| &report.failures).map(|failures| failures.count).sum()
    };
    while sum(&reports) < 6 {
        let asked = enforcer.next().await;
        reports.push(asked.report());
        asked.say(200, "null");
    }
    assert_eq!(sum(&reports), 6);
    assert!(reports.is_sorted_by(|one, next| one.sequence < next.sequence));
    sensor.shows("\n0 offences wait for the enforcer\n").await;
    sensor.shows("\nreported 6 failures and 0 successful logins; 0 wait\n").await;

    // What it knew of the ledger outlives it.
    let folder = sensor.stop();
    enforcer.ledger = "three";
    let _sensor = Sensor::start(folder);
    let (resent, _) = enforcer.next_batch(&mut reports).await;
    assert_eq!(resent.offences.len(), 1);
    assert_eq!(resent.offences[0].offence.address.to_string(), "192.0.2.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jails_bans_follow_what_the_enforcer_says_of_each_offence() {
    let mut enforcer = Enforcer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    enforcer.membership.store(&path("state")).unwrap();
    File::create(path("log")).unwrap();
    let config = format!(
        "state = {:?}\nreport = false\n[jail.a]\nsource = \"files\"\npaths = {:?}\nfailregex = '^ bad one from <ADDR>$'\nmaxretry = 1\n",
        path("state"),
        path("log")
    );
    std::fs::write(path("sensor.toml"), config).unwrap();
    let sensor = Sensor::start(folder);
    let mut none = Vec::new();
    let hosts = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
    let answers = [
        r#""banned":{"net":"198.51.100.1","ms":7200000}"#,
        r#""refused":"allowed""#,
        // One that this enforcer cannot take at all.
        "",
    ];
    for (host, answer) in hosts.into_iter().zip(answers) {
        sensor.log(&[host]);
        let (batch, asked) = enforcer.next_batch(&mut none).await;
        let sequence = batch.offences[0].sequence;
        assert_eq!((batch.offences.len(), batch.offences[0].offence.address.to_string().as_str()), (1, host));
        if answer.is_empty() {
            asked.say(400, r#"{"code":"malformed","message":"what is that?"}"#);
        } else {
            // And one that was never asked.
            let rulings =
                format!(r#"[{{"sequence":{sequence},{answer}}},{{"sequence":99,"refused":"over"}}]"#);
            let seven = [r#"{"sequence":5,"reason":"a\nreserved name"}"#; 7].join(",");
            let refused = if answer.contains("refused") { seven } else { String::new() };
            let ack = format!(
                r#"{{"through":{sequence},"ledger":"one","rulings":{rulings},"refused":[{refused}]}}"#
            );
            asked.say(200, &ack);
        }
    }
    let (mut jail, mut tries) = (serde_json::Value::Null, 0);
    while jail["refused"].as_array().is_none_or(|refused| refused.len() < 2) {
        assert!(tries < 200, "{jail:#}");
        let said = sensor.says(&["status", "--json"]).await.unwrap();
        jail = serde_json::from_str::<serde_json::Value>(&said).unwrap()["jails"][0].take();
        tries += 1;
    }
    assert_eq!(jail["banned"].as_array().unwrap().len(), 1, "{jail:#}");
    assert_eq!(
        (&jail["banned"][0]["address"], &jail["banned"][0]["net"]),
        (&hosts[0].into(), &"198.51.100.1/32".into())
    );
    let until: jiff::Timestamp = jail["banned"][0]["until"].as_str().unwrap().parse().unwrap();
    assert!(until.duration_since(jiff::Timestamp::now()).as_mins() > 115, "not as long as the enforcer's");
    let grounds: Vec<&str> =
        jail["refused"].as_array().unwrap().iter().map(|one| one["grounds"].as_str().unwrap()).collect();
    assert_eq!(grounds, ["allowed", "unusable"]);

    // What is no offence at all is logged, some of it in words.
    let line = || sensor.none.recv_timeout(Duration::from_secs(20)).unwrap();
    for _ in 0..5 {
        let line = line();
        assert!(line.contains("WARN") && line.contains(r"a\nreserved name"), "{line}");
    }
    let rest = line();
    assert!(rest.contains("offences=2"), "{rest}");

    // Nor is it sent again to a ledger that knows nothing, after a restart.
    let folder = sensor.stop();
    enforcer.ledger = "two";
    let sensor = Sensor::start(folder);
    let (resent, asked) = enforcer.next_batch(&mut none).await;
    let told: Vec<String> = resent.offences.iter().map(|one| one.offence.address.to_string()).collect();
    assert_eq!(told, [hosts[0]]);
    let atalaya_wire::BanTime::For(left) = resent.offences[0].offence.bantime else { panic!("for ever") };
    assert!(left.0 > 7000, "{left}");
    let sequence = resent.offences[0].sequence;
    let refused = format!(
        r#"{{"through":{sequence},"ledger":"two","rulings":[{{"sequence":{sequence},"refused":"over"}}]}}"#
    );
    asked.say(200, &refused);
    // Which that ledger refuses: nothing stands any more.
    let mut said = String::new();
    for _ in 0..200 {
        said = sensor.says(&["status", "a"]).await.unwrap();
        if said.contains("198.51.100.1 ") && said.contains("was lifted since") {
            return;
        }
    }
    panic!("{said}");
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-sensor"));
    command.arg("--config").arg(folder.join("sensor.toml")).env_remove("ATALAYA_LOG");
    command
}

/// A request's path and body.
async fn read_request(
    reader: &mut BufReader<impl tokio::io::AsyncRead + Unpin>,
) -> Option<(String, Vec<u8>)> {
    let mut length = 0;
    let mut path = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match (line.trim_end(), &path) {
            ("", Some(_)) => break,
            (request, None) => path = Some(request.split(' ').nth(1)?.to_owned()),
            (header, Some(_)) => {
                let (name, value) = header.split_once(':')?;
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().ok()?;
                }
            }
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.ok()?;
    Some((path?, body))
}

async fn answer_with(writer: &mut (impl AsyncWrite + Unpin), status: u16, body: &str) {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = writer.write_all(format!("{head}{body}").as_bytes()).await;
    let _ = writer.flush().await;
}
