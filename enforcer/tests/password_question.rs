//! A question whose answer the terminal does not show, at a real terminal: however it ends, the terminal shows again what
//! is typed. Needs setsid, of util-linux.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod terminal;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use routeros_sim::Router;
use tempfile::TempDir;
use terminal::Terminal;

const PATIENCE: Duration = Duration::from_secs(30);
const CTRL_C: u8 = 3;
const CTRL_Z: u8 = 26;
const CTRL_BACKSLASH: u8 = 28;
const QUESTION: &str = "Password of `admin`: ";

/// What ends a question, by which signal, and how it is done.
type Ending = (&'static str, i32, fn(&mut Terminal));

/// At the question for the administrator's password, with a program before it that runs ours.
fn at_the_question(folder: &TempDir, router: &str, before: &[&str]) -> Terminal {
    let mut command = Command::new("setsid");
    command.args(["--ctty"]).args(before).arg(env!("CARGO_BIN_EXE_atalaya-enforcer"));
    command.arg("--config").arg(folder.path().join("enforcer.toml"));
    command.args(["router", "add", "edge", "--user", "atalaya", "--admin", "admin", "--apply"]);
    let mut terminal = Terminal::start(command.args(["--address", router]));
    terminal.shows("Go on? [y/N] ");
    assert!(terminal.echoes());
    terminal.types("y");
    terminal.shows(QUESTION);
    assert!(!terminal.echoes(), "a password would be shown");
    terminal
}

/// Sends a signal to the program.
fn signal(terminal: &Terminal, name: &str) {
    let id = terminal.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it is not so that {what}");
        std::thread::yield_now();
    }
}

fn is_stopped(id: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('T')
}

async fn router() -> Router {
    Router::builder().user("admin").password("adminpw").start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_a_signal_ends_leaves_a_terminal_that_shows_what_is_typed() {
    let router = router().await;
    let address = router.address().to_string();
    let ends: [Ending; 5] = [
        ("Ctrl-C", 2, |terminal| terminal.presses(CTRL_C)),
        ("Ctrl-\\", 3, |terminal| terminal.presses(CTRL_BACKSLASH)),
        ("SIGTERM", 15, |terminal| signal(terminal, "TERM")),
        ("SIGHUP", 1, |terminal| signal(terminal, "HUP")),
        ("SIGINT", 2, |terminal| signal(terminal, "INT")),
    ];
    for (what, number, end) in ends {
        let folder = tempfile::tempdir().unwrap();
        let mut terminal = at_the_question(&folder, &address, &[]);
        end(&mut terminal);
        assert_eq!(terminal.ends_by(), Some(number), "{what}: whoever started it learns why it ended");
        assert!(terminal.echoes(), "{what} leaves a terminal without echo");
    }
    let folder = tempfile::tempdir().unwrap();
    // As nohup(1) starts a program, which would also take its terminal.
    let ignoring = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    let mut terminal = at_the_question(&folder, &address, &ignoring);
    signal(&terminal, "HUP");
    assert!(!terminal.echoes(), "what is to be ignored is not ignored");
    terminal.presses(CTRL_C);
    assert_eq!(terminal.ends_by(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_stopped_by_ctrl_z_shows_what_is_typed_until_it_is_asked_again() {
    let router = router().await;
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = at_the_question(&folder, &router.address().to_string(), &[]);
    for _ in 0..2 {
        terminal.presses(CTRL_Z);
        until("it is stopped", || is_stopped(terminal.id()));
        assert!(terminal.echoes(), "a shell would not show what is typed");
        signal(&terminal, "CONT");
        terminal.shows(QUESTION);
        assert!(!terminal.echoes(), "a password would be shown");
    }
    terminal.types("wrong");
    terminal.shows("the router refused the login of `admin`");
    terminal.shows(QUESTION);
    assert!(!terminal.text.contains("wrong") && !terminal.echoes(), "{}", terminal.text);
    terminal.types("adminpw");
    terminal.shows("Do it? [y/N] ");
    assert!(terminal.echoes());
    assert!(!terminal.text.contains("adminpw"), "{}", terminal.text);
    // At another question a signal does what it always does.
    terminal.presses(CTRL_C);
    assert_eq!(terminal.ends_by(), Some(2));
}
