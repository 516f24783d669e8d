//! `router add` and `router check` as they run without a terminal, against the real program and simulated
//! routers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use atalaya_enforcer::config::Config;
use atalaya_wire::Fingerprint;
use routeros_sim::{ApiSsl, Family, Router};
use serde_json::Value;
use tempfile::TempDir;

const RULES: [&str; 2] = [
    "/ip/firewall/raw add chain=prerouting action=drop src-address-list=spammer",
    "/ipv6/firewall/raw add chain=prerouting action=drop src-address-list=spammer",
];

/// A folder with a configuration, or without one yet.
struct Host {
    folder: TempDir,
}

impl Host {
    fn new(text: Option<&str>) -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        text.into_iter().for_each(|text| std::fs::write(host.config(), text).unwrap());
        host
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("enforcer.toml")
    }

    /// Runs a command of the program, which ends by itself, with this on its standard input.
    async fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-enforcer"));
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG");
        command.arg("--config").arg(self.config()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        let run = move || {
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn section(name: &str, router: &Router, password: &str) -> String {
    let address = router.address();
    format!("[router.{name}]\naddress = \"{address}\"\nuser = \"atalaya\"\npassword = \"{password}\"\n")
}

/// The lines that are RouterOS commands.
fn commands(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with('/')).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_looks_at_all_routers_and_its_exit_status_tells_of_a_fault() {
    let good = Router::builder().terminal(RULES[0]).terminal(RULES[1]).start().await.unwrap();
    let bare = Router::builder().identity("edge\u{1b}[2J").start().await.unwrap();
    let host = Host::new(Some(&(section("good", &good, "secret") + &section("bare", &bare, "secret"))));
    let both = host.run(&["router", "check"], "").await;
    let text = out(&both);
    assert_eq!(both.status.code(), Some(1), "{text}");
    assert!(text.contains("2 routers: 1 with a fault, 1 with a warning"), "{text}");
    assert!(!text.contains('\u{1b}') && text.contains("calls itself edge[2J"), "{text}");
    // Both lack a certificate; the first block is that of `bare`.
    for command in commands(text.split("\ngood  ").next().unwrap()) {
        bare.terminal(command).unwrap();
    }
    let mended = host.run(&["router", "check"], "").await;
    assert_eq!(mended.status.code(), Some(0), "{}", out(&mended));

    let before = good.counts().adds;
    let one = host.run(&["router", "check", "good", "--json", "--read-only"], "").await;
    let json: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!((json.as_array().unwrap().len(), one.status.code()), (1, Some(0)));
    assert_eq!((&json[0]["router"], &json[0]["worst"]), (&"good".into(), &"warning".into()));
    let findings = json[0]["findings"].as_array().unwrap();
    assert!(findings.iter().any(|one| one["check"] == "write" && one["grade"] == "unclear"));
    assert_eq!(json[0]["commands"].as_array().unwrap().len(), 3, "{json}");
    assert_eq!(good.counts().adds, before);

    let unknown = host.run(&["router", "check", "none"], "").await;
    assert!(error(&unknown).contains("bare, good"), "{}", error(&unknown));
    let empty = Host::new(Some(""));
    assert!(error(&empty.run(&["router", "check"], "").await).contains("router add"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_shows_no_password_and_a_dead_router_beside_the_living() {
    let living = Router::builder().start().await.unwrap();
    let dead = Router::builder().start().await.unwrap();
    let text = section("living", &living, "hunter2") + &section("dead", &dead, "secret");
    dead.go_down().await;
    let output = Host::new(Some(&text)).run(&["router", "check"], "").await;
    let text = out(&output);
    assert!(
        text.contains("cannot connect to") && text.contains("invalid user name or password (6)"),
        "{text}"
    );
    assert!(!text.contains("hunter2") && !error(&output).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn add_without_a_terminal_pins_the_certificate_and_writes_a_section_that_works() {
    let router = Router::builder().api_ssl(ApiSsl::WithCertificate).start().await.unwrap();
    let host = Host::new(Some("# mine\nlisten = \"127.0.0.1:0\"\n[list]\nname = \"bad\"\n"));
    let address = router.address().to_string();
    let add = ["router", "add", "edge", "--address", &address, "--password-file", "-", "--write"];
    let output = host.run(&add, "secret\n").await;
    let text = out(&output);
    // No rule yet: a fault, but one that is mended at the router.
    assert_eq!(output.status.code(), Some(1), "{text}{}", error(&output));
    assert!(commands(&text).iter().any(|command| command.contains("src-address-list=bad ")), "{text}");
    assert!(!text.contains("secret"), "{text}");
    let config = Config::read(&host.config()).unwrap();
    let certificate = Fingerprint::of(&router.certificate().unwrap());
    assert_eq!(config.routers[0].tls, Some(certificate));
    assert_eq!(config.routers[0].address.port, Some(router.api_ssl_address().port()));
    assert!(read(&host.config()).starts_with("# mine\nlisten = \"127.0.0.1:0\"\n"));
    for command in commands(&text) {
        router.terminal(command).unwrap();
    }
    let check = host.run(&["router", "check"], "").await;
    assert_eq!(check.status.code(), Some(0), "{}", out(&check));
    let again = host.run(&add, "secret\n").await;
    assert!(error(&again).contains("a router edge already"), "{}", error(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn add_for_a_new_user_prints_the_commands_that_make_it() {
    let router = Router::builder().user("admin").terminal(RULES[0]).terminal(RULES[1]).start().await.unwrap();
    let host = Host::new(None);
    let address = router.address().to_string();
    let output =
        host.run(&["router", "add", "edge", "--address", &address, "--new-user", "--write"], "").await;
    let text = out(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", error(&output));
    let commands = commands(&text);
    assert_eq!(commands[0], "/user/group add name=atalaya policy=read,write,api");
    let password = read(&host.folder.path().join("router-edge.password"));
    assert!(commands[1].contains(&format!("password=\"{}\"", password.trim())), "{text}");
    for command in commands {
        router.terminal(command).unwrap();
    }
    let check = host.run(&["router", "check", "edge"], "").await;
    assert_eq!(check.status.code(), Some(0), "{}", out(&check));
    assert_eq!(router.entry_count(Family::V4), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn add_writes_nothing_about_a_router_that_does_not_let_it_in() {
    let router = Router::builder().start().await.unwrap();
    let host = Host::new(Some("# mine\n"));
    let secret = host.folder.path().join("secret");
    std::fs::write(&secret, "hunter2\n").unwrap();
    let address = router.address().to_string();
    let file = secret.to_str().unwrap().to_owned();
    let add = ["router", "add", "edge", "--address", &address, "--password-file", &file];
    let shown = host.run(&add, "").await;
    // Shown as it would be, with the file that was named.
    assert!(out(&shown).contains(&format!("password_file = \"{file}\"")), "{}", out(&shown));
    let output = host.run(&[&add[..], &["--write"]].concat(), "").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains("nothing is written"), "{}", error(&output));
    assert_eq!(read(&host.config()), "# mine\n");
    assert!(!(out(&output) + &error(&output)).contains("hunter2"));

    let missing = host.run(&["router", "add", "edge"], "").await;
    assert!(error(&missing).contains("--address is missing"), "{}", error(&missing));
    let pinned = Fingerprint::of(b"another").to_string();
    let tls = Router::builder().tls(true).start().await.unwrap();
    let address = tls.address().to_string();
    let wrong = [
        "router",
        "add",
        "edge",
        "--address",
        &address,
        "--fingerprint",
        &pinned,
        "--password-file",
        &file,
        "--write",
    ];
    assert!(!host.run(&wrong, "").await.status.success());
    assert_eq!(tls.counts().login_failures, 0);
    assert_eq!(read(&host.config()), "# mine\n");
}
