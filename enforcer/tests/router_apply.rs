//! `router add --apply`: what is printed for a router's terminal and what is sent over its API do the same, once, and are
//! told to a person as they are done.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod host;
mod terminal;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use atalaya_enforcer::config::Config;
use atalaya_enforcer::prefixes::Family;
use atalaya_enforcer::router::address_list::EntryId;
use atalaya_enforcer::router::check::apply::{Administrator, Applied};
use atalaya_enforcer::router::check::release::Release;
use atalaya_enforcer::router::check::{Remedy, command};
use atalaya_enforcer::router::{Password, RouterConfig};
use host::{Host, PATIENCE, Running};
use routeros_sim::{Builder, Family as Table, Fault, Router};
use tempfile::TempDir;
use terminal::Terminal;

/// A router whose administrator may do everything.
fn fresh() -> Builder {
    Router::builder().user("admin").password("adminpw").policies(&["read", "write", "policy", "api"])
}

/// How it is set up, but for what two routers never share: their keys and ports.
fn setup(router: &Router) -> Vec<String> {
    let shared = |word: &&str| !word.starts_with("fingerprint=") && !word.starts_with("port=");
    router.setup().iter().map(|line| line.split(' ').filter(shared).collect::<Vec<_>>().join(" ")).collect()
}

fn program(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atalaya-enforcer"));
    command
        .env_remove("ATALAYA_LOG")
        .env("NO_COLOR", "1")
        .env("SSH_CONNECTION", "203.0.113.9 5 192.0.2.1 22");
    command.arg("--config").arg(config).args(["router", "add"]).args(arguments);
    command
}

async fn run(folder: &TempDir, arguments: &[&str]) -> Output {
    let mut command = program(&folder.path().join("enforcer.toml"), arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"adminpw\n").unwrap();
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Every kind of remedy, in an order in which each finds what it changes.
fn every_remedy(release: Option<Release>) -> Vec<Remedy> {
    let list = "bad; [list]";
    let id = |text| EntryId::parse(text).unwrap();
    vec![
        command::add_certificate("router.example.org"),
        command::sign_certificate(),
        command::enable_api_ssl("api"),
        command::add_group(),
        command::add_user("guard", "p \"w$x\\?"),
        command::add_user("other", "x"),
        command::set_password("other", "another"),
        command::set_group(),
        command::move_user("admin"),
        command::add_rule(Family::V4, list, Some(id("*1"))),
        command::add_rule(Family::V6, list, None),
        command::enable_rule(Family::V4, "drop", "off"),
        command::move_rule(Family::V4, id("*2"), id("*1")),
        command::set_time_source(release),
    ]
    .into_iter()
    .map(|remedy| remedy.for_release(release))
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_and_what_is_sent_set_a_router_up_alike_and_the_second_time_changes_nothing() {
    for version in ["7.24", "6.49.10"] {
        let start = || {
            fresh()
                .version(version)
                .terminal("/ip firewall raw add chain=prerouting action=accept protocol=icmp")
                .terminal(
                    "/ip firewall raw add chain=prerouting action=drop src-address-list=off disabled=yes",
                )
                .start()
        };
        let (typed, sent) = (start().await.unwrap(), start().await.unwrap());
        let remedies = every_remedy(Release::parse(version));
        let address = sent.address().to_string().parse().unwrap();
        let login = RouterConfig::new("edge".parse().unwrap(), address, "admin", Password::new("adminpw"));
        let mut administrator = Administrator::log_in(&login).await.unwrap();
        for remedy in &remedies {
            typed.terminal(&remedy.typed()).unwrap_or_else(|error| panic!("{}: {error}", remedy.typed()));
            let applied =
                administrator.apply(remedy).await.unwrap_or_else(|error| panic!("{remedy}: {error}"));
            let is_new = !remedy.typed().contains("group set") && !remedy.typed().contains("user group set");
            assert_eq!(applied == Applied::Done, is_new, "{remedy}");
            assert_eq!(setup(&typed), setup(&sent), "{version}: {remedy}");
        }
        let before = setup(&sent);
        for remedy in &remedies {
            // A password cannot be looked at, and where a rule stands is not looked for; both are as they were after it.
            administrator.apply(remedy).await.unwrap_or_else(|error| panic!("{remedy}: {error}"));
            assert_eq!(setup(&sent), before, "{version}: {remedy}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_a_router_that_is_ready_by_one_yes() {
    let router = fresh().connected("192.168.88.1/24").start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("etc/atalaya/enforcer.toml");
    let (path, address) = (config.clone(), router.address().to_string());
    let walk = tokio::task::spawn_blocking(move || {
        let mut terminal = Terminal::start(&mut program(&path, &["edge", "--address", &address, "--apply"]));
        terminal.shows("API user [atalaya]: ");
        terminal.types("");
        terminal.shows("Administrator of the router, for this once [admin]: ");
        terminal.types("");
        terminal.shows("the administrator's password crosses the network unencrypted.\r\nGo on? [y/N] ");
        terminal.types("y");
        terminal.shows("Password of `admin`: ");
        terminal.types("wrong");
        terminal.shows("the router refused the login of `admin`");
        terminal.shows("Password of `admin`: ");
        terminal.types("adminpw");
        let plan = terminal.shows("Do it? [y/N] ");
        terminal.types("y");
        let done = terminal.shows("Your own networks, addresses or names");
        terminal.shows("[192.168.88.0/24 203.0.113.9]: ");
        terminal.types("");
        terminal.shows("Appended to");
        terminal.shows("No enforcer runs");
        assert_eq!(terminal.ends(), Some(0));
        (plan, done, terminal.text.clone())
    });
    let (plan, done, all) = walk.await.unwrap();
    assert!(plan.contains("as admin, in this order:\r\n\r\n/certificate add name=api "), "{plan}");
    assert!(
        plan.contains("/user add name=atalaya group=atalaya password=…\r\n/ip/firewall/raw add "),
        "{plan}"
    );
    let planned = plan.lines().filter(|line| line.starts_with('/'));
    planned.for_each(|line| assert!(done.contains(&format!("  done     {line}")), "{line} in {done}"));
    assert!(done.contains("an entry could be added, was held, and could be changed and removed"), "{done}");
    assert!(!done.contains("FAULT") && done.contains("the router presents the pinned certificate"), "{done}");
    let config = Config::read(&config).unwrap();
    assert_eq!(Vec::<String>::from(config.allow.networks), ["192.168.88.0/24", "203.0.113.9"]);
    assert!(config.routers[0].tls.is_some() && !all.contains(config.routers[0].password.expose()));
    assert!(!all.contains("adminpw"), "{all}");
    for file in fs::read_dir(folder.path().join("etc/atalaya")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("adminpw"), "{text}");
    }
    assert_eq!((router.entry_count(Table::V4), router.entry_count(Table::V6)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_it_is_done_only_with_yes_and_what_is_there_is_left_as_it_is() {
    let router = fresh().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = router.address().to_string();
    let add = ["edge", "--address", &address, "--apply", "--admin-password-file", "-"];
    let before = setup(&router);
    let refused = run(&folder, &add).await;
    let says = told(&refused);
    assert!(says.contains("nothing was changed: there is no terminal to ask at; --yes does it"), "{says}");
    assert_eq!((refused.status.code(), setup(&router)), (Some(1), before));
    assert!(!folder.path().join("enforcer.toml").exists());

    let with_yes = [&add[..], &["--yes"]].concat();
    let done = run(&folder, &with_yes).await;
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    let after = setup(&router);
    let says = told(&run(&folder, &with_yes).await);
    assert!(says.contains("has a router edge already"), "{says}");
    let twice: Vec<&str> = with_yes.iter().map(|word| if *word == "edge" { "again" } else { word }).collect();
    let says = told(&run(&folder, &twice).await);
    assert!(says.contains("`atalaya` is on the router already, and its password is not known"), "{says}");
    assert_eq!(setup(&router), after);
    // Nor with the password of the user that is there.
    let secret = folder.path().join("router-edge.password");
    let known = [&twice[..], &["--password-file", secret.to_str().unwrap()]].concat();
    let says = told(&run(&folder, &known).await);
    assert!(says.contains("Nothing is to be changed on again."), "{says}");
    assert_eq!(setup(&router), after);
    // One router in two sections is a mistake, which is told where it would be written.
    assert!(says.contains("the section above is not in") && says.contains("stays as it is"), "{says}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_is_told_and_the_next_run_does_the_rest() {
    let router = fresh().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = router.address().to_string();
    let add = ["edge", "--address", &address, "--apply", "--yes", "--admin-password-file", "-"];
    let message = "failure: out of memory".to_owned();
    router.inject(Fault::Trap { message, category: None }, "/user/add", 0);
    let failed = run(&folder, &add).await;
    let says = told(&failed);
    assert!(says.contains("  FAILED   /user add name=atalaya group=atalaya password=…"), "{says}");
    assert!(says.contains("the router refused it: failure: out of memory"), "{says}");
    assert!(says.contains("mend this and run the command again: what is there is left as it is"), "{says}");
    assert_eq!(failed.status.code(), Some(1));
    assert!(!setup(&router).iter().any(|line| line.contains("src-address-list")), "the rules come last");
    let rest = run(&folder, &add).await;
    let says = told(&rest);
    assert_eq!(rest.status.code(), Some(0), "{says}");
    assert!(!says.contains("/certificate add") && says.contains("  done     /user add "), "{says}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_without_the_policy_is_told_which_it_takes() {
    let router = Router::builder().user("admin").password("adminpw").start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = router.address().to_string();
    let says = told(
        &run(&folder, &["edge", "--address", &address, "--apply", "--yes", "--admin-password-file", "-"])
            .await,
    );
    assert!(says.contains("`admin` may not do that (not enough permissions (9))"), "{says}");
    assert!(says.contains("log in as somebody with the policies write and policy"), "{says}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rule_is_made_for_a_list_that_holds_ones_own_address() {
    let router = fresh().start().await.unwrap();
    router.insert_foreign(Table::V4, "spammer", "203.0.113.0/24", "by hand", None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = router.address().to_string();
    let says = told(
        &run(&folder, &["edge", "--address", &address, "--apply", "--yes", "--admin-password-file", "-"])
            .await,
    );
    let expected = "list spammer holds 203.0.113.0/24, and 203.0.113.9 is yours: the rule would cut you off";
    assert!(says.contains(expected), "{says}");
    assert!(!setup(&router).iter().any(|line| line.contains("src-address-list")));
}

/// A file system in memory for the configuration, which is unmounted with its owner.
struct FullFolder(PathBuf);

impl Drop for FullFolder {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_no_answer_and_the_section_is_written_once_there_is_room() {
    let router = fresh().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = router.address().to_string();
    let path = folder.path().join("etc");
    fs::create_dir(&path).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&path).status();
    assert!(mounted.unwrap().success());
    let full = FullFolder(path.clone());
    let mut file = File::create(path.join("filling")).unwrap();
    while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
    drop(file);
    let walk = tokio::task::spawn_blocking(move || {
        let config = path.join("enforcer.toml");
        let arguments = ["edge", "--address", &address, "--user", "guard", "--apply", "--admin", "admin"];
        let mut terminal = Terminal::start(&mut program(&config, &arguments));
        terminal.shows("cannot keep the answers");
        terminal.shows("Go on? [y/N] ");
        terminal.types("y");
        terminal.shows("Password of `admin`: ");
        terminal.types("adminpw");
        terminal.shows("Do it? [y/N] ");
        terminal.types("y");
        terminal.shows("Your own networks");
        terminal.types("none");
        terminal.shows("[router.edge]");
        terminal.shows("No space left on device");
        terminal.shows("Try again? [Y/n] ");
        fs::remove_file(path.join("filling")).unwrap();
        terminal.types("");
        terminal.shows("Appended to");
        assert_eq!(terminal.ends(), Some(0));
        let config = Config::read(&config).unwrap();
        assert_eq!((config.routers[0].user.as_str(), config.routers.len()), ("guard", 1));
    });
    walk.await.unwrap();
    drop(full);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_set_up_while_an_enforcer_runs_is_written_taken_up_and_held() {
    let router = fresh().start().await.unwrap();
    let host = Host::new("");
    let _running = host.start();
    host.prints(&["ban", "198.51.100.7", "--for", "1h"]);
    let address = router.address().to_string();
    let done =
        run(&host.folder, &["edge", "--address", &address, "--apply", "--yes", "--admin-password-file", "-"])
            .await;
    let says = told(&done);
    assert_eq!(done.status.code(), Some(0), "{says}");
    let config = host.folder.path().join("enforcer.toml");
    let appended = format!(
        "Appended to {}.\nThe running enforcer has taken it up:\nrouter edge: added (",
        config.display()
    );
    assert!(says.contains(&appended), "{says}");
    let there =
        router.wait_for(|all| all.iter().any(|entry| entry.address == "198.51.100.7"), PATIENCE).await;
    assert!(there.is_ok(), "{:?}", router.entries(Table::V4));
    assert!(fs::read_to_string(&config).unwrap().contains("[router.edge]"));
    let routers = host.json(&["routers", "--json"]);
    assert_eq!(
        (&routers[0]["name"], &routers[0]["read_only"]),
        (&"edge".into(), &false.into()),
        "{routers:#}"
    );
}

/// An enforcer of another user, who may not read what root's files hold.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_router_that_the_running_enforcer_refuses_is_so() {
    const NOBODY: u32 = 65534;
    let router = fresh().start().await.unwrap();
    let host = Host::new("");
    let folder = host.folder.path();
    let open_to_all = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open_to_all(folder);
    for name in ["state", "run"] {
        let path = folder.join(name);
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let real = host.command(&["run"]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(real.get_program()).args(real.get_args());
    let running = Running::of(command);
    host.prints(&["ban", "198.51.100.7", "--for", "1h"]);
    let address = router.address().to_string();
    let add = ["edge", "--address", &address, "--apply", "--yes", "--admin-password-file", "-"];
    let refused = run(&host.folder, &add).await;
    let says = told(&refused);
    assert_eq!(refused.status.code(), Some(1), "{says}");
    let config = folder.join("enforcer.toml");
    let what = format!(
        "edge is in {}, but the running enforcer refused it and goes on as before; mend that, ",
        config.display()
    );
    assert!(says.contains(&what) && says.contains("Permission denied"), "{says}");
    assert!(fs::read_to_string(&config).unwrap().contains("[router.edge]"));
    assert_eq!(host.json(&["routers", "--json"]), serde_json::json!([]));
    assert_eq!(host.banned(), ["198.51.100.7"]);

    let secret = folder.join("router-edge.password");
    std::os::unix::fs::chown(secret, Some(NOBODY), Some(NOBODY)).unwrap();
    host.prints(&["reload"]);
    let there =
        router.wait_for(|all| all.iter().any(|entry| entry.address == "198.51.100.7"), PATIENCE).await;
    assert!(there.is_ok(), "{:?}", router.entries(Table::V4));
    // Nothing was begun that is not finished.
    let again = told(&run(&host.folder, &["edge", "--address", &address]).await);
    assert!(!again.contains("was begun before"), "{again}");
    drop(running);
}
