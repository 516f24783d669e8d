//! `router add` at a terminal: the questions, the answers, and a password that is not shown.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod terminal;

use std::path::Path;
use std::process::Command;

use atalaya_enforcer::config::Config;
use atalaya_wire::Fingerprint;
use routeros_sim::Router;
use tempfile::TempDir;
use terminal::Terminal;

fn add(folder: &TempDir, arguments: &[&str]) -> Terminal {
    add_to(&folder.path().join("enforcer.toml"), arguments)
}

fn add_to(config: &Path, arguments: &[&str]) -> Terminal {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-enforcer"));
    command.env_remove("ATALAYA_LOG").env("NO_COLOR", "1").env("SSH_CONNECTION", "");
    command.arg("--config").arg(config).args(["router", "add"]).args(arguments);
    Terminal::start(&mut command)
}

/// The RouterOS commands among what a terminal showed.
fn commands(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.trim_end_matches('\r')).filter(|line| line.starts_with('/')).collect()
}

fn mend(router: &Router, text: &str) {
    let commands = commands(text);
    assert!(!commands.is_empty(), "{text}");
    for command in commands {
        router.terminal(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_a_router_that_is_ready_by_answering_and_pasting() {
    let router = Router::builder().user("admin").start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Neither the configuration nor its folder is there.
    let path = folder.path().join("etc/enforcer.toml");
    let address = router.address().to_string();
    let walk = tokio::task::spawn_blocking(move || {
        let mut terminal = add_to(&folder.path().join("etc/enforcer.toml"), &[]);
        terminal.shows("Name of the router");
        terminal.types("a b");
        terminal.shows("is not a name");
        terminal.types("edge");
        terminal.shows("Its address");
        terminal.types(&address);
        terminal.shows("API user [atalaya]: ");
        terminal.types("");
        terminal.shows("Password of `atalaya`");
        terminal.types("");
        let user = terminal.shows("Press Enter when that is done.");
        mend(&router, &user);
        terminal.types("");
        let missing = terminal.shows("Check again? [Y/n] ");
        assert!(missing.contains("FAULT    ipv4-rule"), "{missing}");
        mend(&router, &missing);
        terminal.types("");
        let presented = terminal.shows("Pin it? [Y/n] ");
        let certificate = Fingerprint::of(&router.certificate().unwrap());
        assert!(presented.contains(&certificate.to_string()), "{presented}");
        terminal.types("");
        let good = terminal.shows("Your own networks, addresses or names");
        terminal.types("0.0.0.0/0");
        terminal.shows("so large that next to nobody could be banned");
        terminal.types("192.0.2.0/24, admin.example.org");
        terminal.shows("Append it to");
        assert!(!good.contains("FAULT") && good.contains("the pinned certificate"), "{good}");
        terminal.types("y");
        terminal.shows("Appended to");
        assert_eq!(terminal.ends(), Some(0));
        let config = Config::read(&path).unwrap();
        assert_eq!(config.routers[0].tls, Some(certificate));
        assert!(user.contains(config.routers[0].password.expose()));
        assert_eq!(Vec::<String>::from(config.allow.networks), ["192.0.2.0/24"]);
        assert_eq!(config.allow.names, ["admin.example.org"]);
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(names.count(), 2, "the configuration and the password, and nothing that was for the way");
        drop(folder);
    });
    walk.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typed_password_is_not_shown_and_a_wrong_one_can_be_typed_again() {
    let router = Router::builder().tls(true).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = router.address().to_string();
    let walk = tokio::task::spawn_blocking(move || {
        let mut terminal = add(&folder, &["edge", "--address", &address, "--user", "atalaya"]);
        terminal.shows("Pin it? [Y/n] ");
        terminal.types("y");
        terminal.shows("Password of `atalaya`");
        terminal.types("hunter2");
        terminal.shows("Another password");
        terminal.types("secret");
        terminal.shows("Check again?");
        terminal.types("n");
        terminal.shows("Your own networks");
        terminal.types("");
        terminal.shows("Append it to");
        terminal.types("n");
        terminal.shows("belongs into router-edge.password");
        // The rules are missing still.
        assert_eq!(terminal.ends(), Some(1));
        let text = &terminal.text;
        assert!(!text.contains("hunter2") && !text.contains("secret"), "{text}");
        assert!(!folder.path().join("enforcer.toml").exists());
    });
    walk.await.unwrap();
    assert_eq!(router.counts().login_failures, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_that_was_broken_off_goes_on_with_its_answers_and_the_same_password() {
    let router = Router::builder().user("admin").start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = router.address().to_string();
    let walk = tokio::task::spawn_blocking(move || {
        let mut terminal = add(&folder, &["edge"]);
        terminal.shows("Its address");
        terminal.types(&address);
        terminal.shows("API user [atalaya]: ");
        terminal.types("guard");
        terminal.shows("Password of `guard`");
        terminal.types("");
        let first = terminal.shows("Press Enter when that is done.");
        // Ctrl-C, or worse.
        drop(terminal);
        let mut terminal = add(&folder, &[]);
        let offered = terminal.shows("Go on with those answers? [Y/n] ");
        assert!(
            offered.contains(&format!("Router edge ({address}) was begun before and not finished.")),
            "{offered}"
        );
        terminal.types("");
        let again = terminal.shows("Press Enter when that is done.");
        assert_eq!(commands(&first), commands(&again), "the same user with the same password");
        mend(&router, &again);
        terminal.types("");
        terminal.shows("Check again?");
        terminal.types("n");
        terminal.shows("Your own networks");
        terminal.types("192.0.2.0/24");
        terminal.shows("Append it to");
        terminal.types("y");
        terminal.shows("Appended to");
        let config = Config::read(&folder.path().join("enforcer.toml")).unwrap();
        assert_eq!((config.routers[0].name.as_str(), config.routers[0].user.as_str()), ("edge", "guard"));
        assert_eq!(Vec::<String>::from(config.allow.networks), ["192.0.2.0/24"]);
        drop(terminal);
        // The answers of one that is finished are gone.
        let mut terminal = add(&folder, &[]);
        let asked = terminal.shows("Name of the router");
        assert!(!asked.contains("Go on"), "{asked}");
    });
    walk.await.unwrap();
}
