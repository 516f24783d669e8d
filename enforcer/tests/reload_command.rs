//! `atalaya-enforcer reload`, SIGHUP and the end of `router add`, as an administrator sees them, with the real program.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod terminal;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use routeros_sim::{Entry, Router};
use serde_json::Value;
use tempfile::TempDir;
use terminal::Terminal;

const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a configuration.
struct Host {
    folder: TempDir,
}

/// A running enforcer; killed where a test fails.
struct Running {
    child: Child,
    said: mpsc::Receiver<String>,
}

// === impl Host ===

impl Host {
    fn new(more: &str) -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        host.write(more);
        host
    }

    /// Writes the configuration anew: keys of the top, and tables behind ours.
    fn write(&self, more: &str) {
        let path = self.folder.path().display();
        let (keys, tables) = more.split_at(more.find("[router").unwrap_or(more.len()));
        let text = format!(
            "{keys}\nlisten = \"127.0.0.1:0\"\nstate = \"{path}/state\"\nsocket = \"{path}/run/enforcer.sock\"\n{tables}"
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("enforcer.toml")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-enforcer"));
        command.env_remove("RUST_LOG").env_remove("ATALAYA_LOG").env_remove("JOURNAL_STREAM");
        command.arg("--config").arg(self.config()).args(arguments).stdin(Stdio::null());
        command
    }

    /// What a command prints, which must succeed.
    fn prints(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message of a command that must fail with exit status 1.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    }

    fn start(&self, arguments: &[&str]) -> Running {
        Running::of(self.command(arguments))
    }
}

// === impl Running ===

impl Running {
    fn of(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let running = Self { child, said };
        running.says("ready");
        running
    }

    fn says(&self, word: &str) -> String {
        loop {
            let line = self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it does not say {word}"));
            if line.contains(word) {
                return line;
            }
        }
    }

    fn hang_up(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn section(name: &str, router: &Router) -> String {
    let address = router.address();
    format!("[router.{name}]\naddress = \"{address}\"\nuser = \"atalaya\"\npassword = \"secret\"\n")
}

async fn holds(router: &Router, address: &str) {
    let held = |entries: &[Entry]| entries.iter().any(|entry| entry.address == address);
    router.wait_for(held, PATIENCE).await.unwrap();
}

async fn holds_not(router: &Router, address: &str) {
    let gone = |entries: &[Entry]| !entries.iter().any(|entry| entry.address == address);
    router.wait_for(gone, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_prints_what_changes_a_line_each_and_then_changes_it() {
    let (edge, other) = (Router::builder().start().await.unwrap(), Router::builder().start().await.unwrap());
    let host = Host::new(&section("edge", &edge));
    let _running = host.start(&["run"]);
    host.prints(&["ban", "198.51.100.7"]);
    assert_eq!(host.prints(&["reload"]), "nothing to change\nreloaded: 0 changes, 1 router\n");

    let more = format!("allow = [\"198.51.100.7\"]\n{}{}", section("edge", &edge), section("edge2", &other));
    host.write(&more);
    let address = other.address();
    let lines = format!("router edge2: added ({address})\nallow: + 198.51.100.7\n");
    let warned = "warning: router edge2: the API password crosses the network unencrypted";
    let dry = host.prints(&["reload", "--dry-run"]);
    assert!(dry.starts_with(&format!("{lines}{warned}")) && !dry.contains("reloaded"), "{dry}");
    assert!(host.prints(&["show", "198.51.100.7"]).contains("banned"));
    let said = host.prints(&["reload"]);
    assert!(said.starts_with(&format!("{lines}{warned}")), "{said}");
    let end = "\nreloaded: 2 changes, 2 routers; 1 ban lifted: its address is allowed now\n";
    assert!(said.ends_with(end), "{said}");
    host.prints(&["ban", "198.51.100.8"]);
    holds(&other, "198.51.100.8").await;

    let routers: Value = serde_json::from_str(&host.prints(&["routers", "--json"])).unwrap();
    assert_eq!((&routers[0]["name"], &routers[0]["sessions"]), (&"edge".into(), &1.into()));
    assert_eq!(routers.as_array().unwrap().len(), 2);
    host.write(&section("edge", &edge));
    let json: Value = serde_json::from_str(&host.prints(&["reload", "--json"])).unwrap();
    assert_eq!((json["changes"].as_array().unwrap().len(), &json["applied"]), (2, &true.into()));
}

#[test]
fn a_typo_is_told_as_check_tells_it_and_nothing_is_reloaded() {
    let host = Host::new("");
    assert!(host.fails(&["reload"]).contains("no enforcer answers at "), "without one");
    let running = host.start(&["run"]);
    host.write("alow = [\"198.51.100.7\"]");
    let told = host.fails(&["check"]);
    assert!(told.contains("enforcer.toml:1:1: ") && told.contains("alow"), "{told}");
    assert_eq!(host.fails(&["reload"]), told);
    assert_eq!(host.fails(&["reload", "--dry-run"]), told);

    // What only the enforcer itself sees.
    host.write("allow = [\"198.51.100.7\"]");
    std::fs::remove_file(host.folder.path().join("state/key.pem")).unwrap();
    let told = host.fails(&["reload"]);
    assert!(told.contains("key.pem") && told.contains("; the enforcer runs on as before"), "{told}");
    assert!(running.says("reload: ").contains("ERROR"));
    assert!(!host.prints(&["allow"]).contains("198.51.100.7"));
}

#[test]
fn sighup_reloads_says_what_changed_in_the_log_and_tells_systemd() {
    let host = Host::new("");
    let path = host.folder.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut command = host.command(&["run"]);
    command.env("NOTIFY_SOCKET", &path);
    let running = Running::of(command);
    assert_eq!(told(), "READY=1");

    host.write("allow = [\"198.51.100.7\"]");
    running.hang_up();
    running.says("reload: allow: + 198.51.100.7");
    running.says("reloaded");
    let reloading = told();
    let since: Option<u64> =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|text| text.parse().ok());
    assert!(since.is_some_and(|since| since > 0), "{reloading}");
    assert_eq!(told(), "READY=1");
    let banned = host.fails(&["ban", "198.51.100.7"]);
    assert!(banned.contains("allow list"), "{banned}");

    host.write("alow = []");
    running.hang_up();
    let line = running.says("reload: ");
    assert!(
        line.contains("enforcer.toml:1:1: ") && line.ends_with("the enforcer runs on as before"),
        "{line}"
    );
    assert!(told().starts_with("RELOADING=1"));
    assert_eq!(told(), "READY=1");
    host.write("");
    host.prints(&["status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enforcer_that_was_started_read_only_stays_so() {
    let router = Router::builder().start().await.unwrap();
    let host = Host::new("");
    let _running = host.start(&["run", "--read-only"]);
    host.write(&section("edge", &router));
    assert!(host.prints(&["reload"]).starts_with("router edge: added"));
    let routers: Value = serde_json::from_str(&host.prints(&["routers", "--json"])).unwrap();
    assert_eq!(routers[0]["read_only"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn router_add_ends_with_a_reload_of_the_enforcer_that_runs() {
    let (edge, other) = (Router::builder().start().await.unwrap(), Router::builder().start().await.unwrap());
    let host = Host::new("");
    std::fs::write(host.folder.path().join("secret"), "secret\n").unwrap();
    let file = host.folder.path().join("secret");
    let add = |name: &str, router: &Router| {
        let address = router.address().to_string();
        let password = file.to_str().unwrap();
        let arguments =
            ["router", "add", name, "--address", &address, "--password-file", password, "--write"];
        let output = host.command(&arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let said = add("edge", &edge);
    assert!(said.contains("No enforcer runs: `atalaya-enforcer run`"), "{said}");

    let _running = host.start(&["run"]);
    host.prints(&["ban", "198.51.100.7"]);
    let said = add("other", &other);
    let taken = format!("The running enforcer has taken it up:\nrouter other: added ({})\n", other.address());
    assert!(said.contains(&taken), "{said}");
    holds(&other, "198.51.100.7").await;

    // Where other changes wait too, and nobody can be asked, none is made.
    let third = Router::builder().start().await.unwrap();
    let text = std::fs::read_to_string(host.config()).unwrap();
    std::fs::write(host.config(), format!("allow = [\"198.51.100.7\"]\n{text}")).unwrap();
    let said = add("third", &third);
    assert!(said.contains("The configuration has other changes too"), "{said}");
    assert!(said.contains("allow: + 198.51.100.7"), "{said}");
    assert!(said.contains("`atalaya-enforcer reload` lets the running enforcer take it up"), "{said}");
    holds(&edge, "198.51.100.7").await;
    assert_eq!(third.entry_count(routeros_sim::Family::V4), 0);

    // Who sits at a terminal is asked.
    let fourth = Router::builder().start().await.unwrap();
    let address = fourth.address().to_string();
    let password = file.to_str().unwrap();
    let arguments = [
        "router",
        "add",
        "fourth",
        "--address",
        &address,
        "--user",
        "atalaya",
        "--password-file",
        password,
        "--write",
    ];
    let mut command = host.command(&arguments);
    let walk = tokio::task::spawn_blocking(move || {
        let mut terminal = Terminal::start(&mut command);
        terminal.shows("Check again? [Y/n] ");
        terminal.types("n");
        let waiting = terminal.shows("Let the running enforcer take it up now? [y/N] ");
        assert!(
            waiting.contains("router third: added") && waiting.contains("router fourth: added"),
            "{waiting}"
        );
        terminal.types("y");
        let taken = terminal.shows("allow: + 198.51.100.7");
        assert!(taken.contains("The running enforcer has taken it up:"), "{taken}");
        terminal.ends()
    });
    walk.await.unwrap();
    holds_not(&edge, "198.51.100.7").await;
}
