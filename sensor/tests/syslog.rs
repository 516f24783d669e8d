//! The syslog listener, and what real senders send it: util-linux's `logger`, in every form that it knows.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use atalaya_sensor::filter::catalogue;
use atalaya_sensor::filter::{Filter, Host, LineOutcome, Match};
use atalaya_sensor::source::syslog::{Syslog, SyslogOptions};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const TEXT: &str = "Failed password for root from 192.0.2.7 port 4022 ssh2";
/// How long a message may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listener on loopback, and the messages that it takes.
struct Listener {
    udp: u16,
    tcp: u16,
    messages: mpsc::UnboundedReceiver<(Option<Timestamp>, Vec<u8>)>,
    sshd: Filter,
}

// === impl Listener ===

impl Listener {
    async fn new() -> Self {
        let any = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let options = SyslogOptions { udp: any.clone(), tcp: any, ..SyslogOptions::default() };
        let syslog = Syslog::bind(options).await.unwrap();
        let ports: Vec<u16> = syslog.addresses().iter().map(SocketAddr::port).collect();
        let (sender, messages) = mpsc::unbounded_channel();
        tokio::spawn(syslog.run(
            move |message| {
                let _ = sender.send((message.time, message.text.to_vec()));
            },
            CancellationToken::new(),
        ));
        let sshd = catalogue::filter("sshd").unwrap().compile().unwrap();
        Self { udp: ports[0], tcp: ports[1], messages, sshd }
    }

    /// Sends a text as a message of sshd's; with `--tcp` among the arguments over TCP.
    fn send(&self, arguments: &[&str], text: &str) {
        let port = if arguments.contains(&"--tcp") { self.tcp } else { self.udp };
        let port = port.to_string();
        let mut logger = Command::new("logger");
        logger.args(["--server", "127.0.0.1", "--port", &port, "--priority", "auth.info"]);
        let status = logger.args(arguments).arg("--").arg(text).status();
        assert!(status.is_ok_and(|status| status.success()), "logger {arguments:?} cannot send");
    }

    /// When the next message was written, and what the filter for sshd makes of it: an address and a user.
    async fn next(&mut self) -> (Option<Timestamp>, Option<(String, String)>, String) {
        let (time, text) = tokio::time::timeout(PATIENCE, self.messages.recv()).await.unwrap().unwrap();
        let found = match self.sshd.find(&text) {
            LineOutcome::Matched(Match { host: Host::Address(address), user, .. }) => {
                Some((address.to_string(), user.unwrap_or_default()))
            }
            _ => None,
        };
        (time, found, String::from_utf8_lossy(&text).into_owned())
    }
}

#[tokio::test]
async fn a_failure_is_seen_in_every_form_that_logger_sends() {
    let data = r#"x="Failed password for root from 203.0.113.9 port 1 ssh2""#;
    let (datagram, counted) = (["--udp"].as_slice(), ["--tcp", "--octet-count"].as_slice());
    let mut listener = Listener::new().await;
    for carrier in [datagram, &["--tcp"], counted] {
        for (form, dated) in [
            (["--tag", "sshd"].as_slice(), true),
            (&["--tag", "sshd", "--id=411"], true),
            (&["--tag", "sshd-session", "--id=411", "--msgid", "ID47"], true),
            (&["--tag", "sshd", "--id=411", "--rfc5424=notq"], true),
            (&["--tag", "sshd", "--id=411", "--sd-id", "a@1", "--sd-param", data], true),
            (&["--tag", "sshd", "--rfc5424=notq", "--sd-id", "a@1", "--sd-param", r#"x="y""#], true),
            (&["--tag", "sshd", "--id=411", "--rfc5424=nohost"], true),
            (&["--tag", "sshd", "--id=411", "--rfc5424=notime,nohost"], false),
            (&["--tag", "sshd[411]", "--rfc3164"], true),
        ] {
            let before = Timestamp::now();
            listener.send(&[carrier, form].concat(), TEXT);
            let (time, found, text) = listener.next().await;
            assert_eq!(found, Some(("192.0.2.7".to_owned(), "root".to_owned())), "{text}");
            // A BSD date has no fraction.
            let near = time.map(|time| time.duration_since(before).as_secs().abs() < 60);
            assert_eq!(near, dated.then_some(true), "{text}");
        }
    }
}

#[tokio::test]
async fn a_newline_in_a_message_is_a_blank() {
    let mut listener = Listener::new().await;
    // The name is the attacker's. Where a count or a datagram ends the message, no newline does.
    let text = "Invalid user x\nsshd[1]: Failed password for root from 203.0.113.9 port 1 ssh2\r\n from 192.0.2.7 port 4";
    for carrier in [["--udp"].as_slice(), &["--tcp", "--octet-count"]] {
        for form in ["--rfc5424", "--rfc3164"] {
            listener.send(&[carrier, &[form, "--tag", "sshd"]].concat(), text);
            let (_, found, text) = listener.next().await;
            assert!(!text.contains(['\n', '\r']), "{text}");
            assert_eq!(found.map(|(address, _)| address).as_deref(), Some("192.0.2.7"), "{text}");
        }
    }
}
