//! The commands as an administrator runs them, against the real program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod host;
mod terminal;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use atalaya_wire::JoinToken;
use host::{Host, PATIENCE, Running, mode, stderr};
use routeros_sim::{Family, Router};
use serde_json::Value;
use terminal::Terminal;

#[test]
fn check_names_file_line_and_column_of_a_mistake_and_prints_what_it_understood() {
    let host = Host::new("[list]\nname = \"spammer\"\ncoment = \"x\"\n");
    let message = host.fails(&["check"]);
    let place = format!("{}:6:1: ", host.folder.path().join("enforcer.toml").display());
    assert!(
        message.contains(&place) && message.contains("coment") && message.contains("comment"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1, "{message}");

    let host = Host::new("[router.edge]\naddress = \"192.0.2.1\"\nuser = \"u\"\npassword = \"hunter2\"\n");
    let text = host.prints(&["check"]);
    assert!(text.contains("router edge: 192.0.2.1 as u") && text.contains("unencrypted"), "{text}");
    assert!(text.contains("everyone on this host can read it"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(host.json(&["check", "--json"])["warnings"].as_array().unwrap().len(), 2);

    let missing = host.command(&[]).args(["check", "--config", "/nowhere/x.toml"]).output().unwrap();
    assert!(stderr(&missing).contains("/nowhere/x.toml") && stderr(&missing).contains("--config"));
}

#[test]
fn enrol_prints_a_token_and_nothing_else_and_keeps_no_secret() {
    let host = Host::new("");
    let output = host.run(&["enrol", "web-1"]);
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    let token: JoinToken = printed.parse().unwrap();
    assert_eq!(printed, format!("{}\n", token.expose()));
    assert!(stderr(&output).contains("atalaya-sensor join https://HOST:"), "{}", stderr(&output));
    assert!(!stderr(&output).contains(&token.secret.expose()));

    let state = host.folder.path().join("state");
    assert_eq!((mode(&state), mode(&state.join("key.pem"))), (0o700, 0o600));
    for entry in std::fs::read_dir(&state).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let secret = token.secret.expose();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
    assert!(host.fails(&["enrol", "web-1"]).contains("--replace"));
    let again: JoinToken = host.prints(&["enrol", "web-1", "--replace"]).parse().unwrap();
    assert!(again.secret != token.secret && again.fingerprint == token.fingerprint);
    assert_eq!(host.json(&["sensors", "--json"])[0]["name"], "web-1");
    host.prints(&["revoke", "web-1"]);
    assert_eq!(host.json(&["sensors", "--json"]), serde_json::json!([]));
    assert!(host.fails(&["revoke", "web-1"]).contains("web-1"));
}

#[test]
fn a_sensors_jails_are_shown_and_changed_and_revoking_it_says_what_stays() {
    let host = Host::new("");
    host.prints(&["enrol", "web-1", "--jails", "ssh,smtp"]);
    assert_eq!(host.prints(&["jails", "web-1"]), "web-1 may name smtp, ssh\n");
    let running = host.start();
    assert_eq!(host.prints(&["jails", "web-1", "ssh"]), "web-1 may name ssh\n");
    assert_eq!(host.json(&["jails", "web-1", "--json"])["jails"], serde_json::json!(["ssh"]));
    assert_eq!(host.json(&["status", "--json"])["sensors"]["web-1"]["jails"], serde_json::json!(["ssh"]));
    assert_eq!(host.prints(&["jails", "web-1", "--any"]), "web-1 may name any jail\n");
    assert!(host.fails(&["jails", "web-2", "ssh"]).contains("no sensor named web-2 is enrolled"));
    assert_eq!(
        host.prints(&["revoke", "web-1"]),
        "web-1 can send no more; what it reported stays banned: atalaya-enforcer unban --sensor web-1 lifts it\n"
    );
    assert_eq!(host.prints(&["unban", "--sensor", "web-1"]), "lifted 0 bans that only web-1 asked for\n");
    running.stop();
}

#[test]
fn an_enforcer_raises_how_many_files_it_may_have_open() {
    let host = Host::new("");
    // As a shell and systemd begin it.
    let run = host.command(&["run"]);
    let mut limited = Command::new("prlimit");
    limited.args(["--nofile=1024:4096", "--"]).arg(run.get_program()).args(run.get_args());
    let running = Running::of(limited);
    let status = host.json(&["status", "--json"]);
    assert_eq!(status["open_files"]["limit"], 4096);
    let places = &status["connections"];
    let most = places["most_sensors"].as_u64().unwrap() + places["most_strangers"].as_u64().unwrap();
    assert!(most > 2000 && most < 4096 - 96, "{places}");
    running.stop();
}

#[test]
fn without_a_running_enforcer_commands_say_which_socket_and_how_to_start_it() {
    let host = Host::new("");
    for command in [
        &["status"][..],
        &["bans"],
        &["ban", "192.0.2.1"],
        &["unban", "192.0.2.1"],
        &["routers"],
        &["show", "192.0.2.1"],
        &["history"],
    ] {
        let message = host.fails(command);
        assert!(
            message.contains("run/enforcer.sock") && message.contains("atalaya-enforcer run"),
            "{message}"
        );
    }
}

#[test]
fn watch_without_a_terminal_says_so_and_prints_a_json_object_a_second_where_asked() {
    let host = Host::new("");
    assert!(host.fails(&["watch"]).contains("watch --json"));
    assert!(host.fails(&["watch", "--json"]).contains("run/enforcer.sock"));
    let running = host.start();
    let mut watch = host.command(&["watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["latest"], serde_json::json!([]));
    host.prints(&["ban", "198.51.100.9"]);
    let with_ban =
        std::iter::repeat_with(&mut next).take(10).find(|line| line["latest"] != serde_json::json!([]));
    assert_eq!(with_ban.unwrap()["latest"][0]["prefix"], "198.51.100.9");
    running.stop();
    assert!(std::iter::repeat_with(&mut next).take(10).any(|line| line["lost"].is_string()));
    assert!(Command::new("kill").args(["-TERM", &watch.id().to_string()]).status().unwrap().success());
    assert!(watch.wait().unwrap().success());
}

#[test]
fn watch_ends_with_its_terminal() {
    let host = Host::new("");
    let _running = host.start();
    let mut terminal = Terminal::start(host.command(&["watch"]).env("TERM", "xterm"));
    // The other screen, which it takes for itself.
    terminal.shows("\u{1b}[?1049h");
    terminal.hangs_up();
    assert_eq!(terminal.ends(), Some(0));
}

#[test]
fn open_connections_are_counted_against_the_limit_and_are_a_fault_near_it() {
    const LIMIT: u64 = 100;
    let host = Host::new("");
    let usual = host.command(&["run"]);
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={LIMIT}")).arg(usual.get_program()).args(usual.get_args());
    let _running = Running::of(limited);
    let open_files = |status: &Value| status["open_files"].clone();
    let before = host.json(&["status", "--json"]);
    assert_eq!((open_files(&before)["limit"].as_u64(), kinds(&before)), (Some(LIMIT), vec!["no-router"]));
    let used = open_files(&before)["used"].as_u64().unwrap();
    let shown = host.prints(&["status"]);
    assert!(shown.contains(&format!(" of {LIMIT} files open\n")), "{shown}");

    let socket = host.folder.path().join("run/enforcer.sock");
    let connections: Vec<_> = (used..95).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let end = Instant::now() + PATIENCE;
    // A count is up to a second old.
    let after = loop {
        let status = host.json(&["status", "--json"]);
        if kinds(&status).contains(&"open-files") {
            break status;
        }
        assert!(Instant::now() < end, "{status}");
    };
    assert!(open_files(&after)["used"].as_u64().unwrap() > 90, "{after}");
    let told = host.prints(&["status"]);
    assert!(told.contains("! open files: 9") && told.contains("LimitNOFILE="), "{told}");
    drop(connections);
}

/// The kinds of the faults of a status, in order.
fn kinds(status: &Value) -> Vec<&str> {
    status["faults"].as_array().unwrap().iter().map(|fault| fault["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_fault_makes_status_check_fail_and_is_told_first() {
    // No router, so nobody is kept out.
    let host = Host::new("");
    let running = host.start();
    assert!(host.prints(&["status"]).lines().nth(1).unwrap().contains("no router is configured"));
    let checked = host.run(&["status", "--check"]);
    assert_eq!((checked.status.code(), stderr(&checked)), (Some(1), String::new()));
    assert_eq!(host.json(&["status", "--json"])["faults"][0]["kind"], "no-router");
    running.stop();
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let host = Host::new("");
    let folder = host.folder.path().join("man1");
    host.prints(&["man", folder.to_str().unwrap()]);
    for page in ["atalaya-enforcer.8", "atalaya-enforcer-status.1", "atalaya-enforcer-bans.1"] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.contains(".SH EXAMPLES"), "{page}");
    }
}

#[test]
fn what_is_wrong_on_the_command_line_ends_with_status_2() {
    let host = Host::new("");
    for (arguments, says) in [
        (&["ban", "192.0.2.1-9"][..], "2001:db8::/64"),
        (&["ban", "192.0.2.1", "--for", "soon"], "1h30m"),
        (&["enrol", "../x"], "not a name"),
        (&["bann"], "ban"),
        (&["bans", "--since", "soon"], "yesterday"),
        (&["allow", "--for", "2h"], "ADDRESS|NETWORK|NAME"),
    ] {
        let output = host.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
    assert!(host.prints(&["--version"]).starts_with("atalaya-enforcer "));
    assert!(host.prints(&["completions", "bash"]).contains("atalaya-enforcer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_by_hand_go_to_the_router_and_back_and_sigterm_ends_it_all() {
    let rule = "firewall/raw add chain=prerouting action=drop src-address-list=spammer";
    let router = Router::builder().terminal(format!("/ip/{rule}")).terminal(format!("/ipv6/{rule}"));
    let router = router.start().await.unwrap();
    let host = Host::new(&format!(
        "allow = [\"192.0.2.0/24\"]\n[router.edge]\naddress = \"{}\"\nuser = \"atalaya\"\npassword = \"secret\"\n",
        router.address()
    ));
    let running = host.start();
    assert_eq!(mode(&host.folder.path().join("run/enforcer.sock")), 0o600);
    let banned = host.prints(&["ban", "198.51.100.9", "--for", "10m", "--reason", "port scan"]);
    assert!(banned.starts_with("banned 198.51.100.9 until "), "{banned}");
    assert!(banned.contains("on router edge"), "{banned}");
    let again = host.json(&["ban", "198.51.100.9", "--for", "5m", "--json"]);
    assert_eq!(again["changed"], false);
    host.prints(&["ban", "2001:db8:9::/64", "--for", "permanent"]);
    router.wait_for(|entries| entries.len() == 2, PATIENCE).await.unwrap();
    let entry = router.entries(Family::V4).remove(0);
    let left = entry.timeout_left.unwrap().as_secs();
    assert!((590..=600).contains(&left), "{left} s left");

    let bans = host.json(&["bans", "--json"]);
    assert_eq!(bans.as_array().unwrap().len(), 2);
    assert_eq!(bans[1]["evidence"][0]["text"], "port scan");
    assert_eq!(host.json(&["bans", "--address", "198.51.100.0/24", "--json"]).as_array().unwrap().len(), 1);
    assert_eq!(host.json(&["bans", "--jail", "ssh", "--json"]), serde_json::json!([]));
    let table = host.prints(&["bans"]);
    assert!(table.contains("198.51.100.9 ") && table.contains("permanent"), "{table}");

    assert!(host.fails(&["ban", "192.0.2.0/25"]).contains("allow list"));
    assert!(host.fails(&["ban", "0.0.0.0/0"]).contains("never banned"));
    assert!(host.fails(&["unban", "198.51.100.1"]).contains("not banned"));
    let status = host.json(&["status", "--json"]);
    assert_eq!(
        (status["bans"].as_u64(), status["routers"][0]["state"]["is"].as_str()),
        (Some(2), Some("connected"))
    );
    // It waits until the rules are read.
    host.prints(&["status", "--check"]);
    let screen = host.prints(&["status"]);
    assert!(screen.contains("all is well") && screen.contains("2 bans stand on list spammer"), "{screen}");
    assert!(!screen.contains('\u{1b}'), "colour only on a terminal: {screen}");
    assert_eq!(host.json(&["routers", "--json"])[0]["name"], "edge");
    let routers = host.prints(&["routers"]);
    assert!(routers.contains("edge: IPv6: a raw rule in prerouting drops what is on list"), "{routers}");
    let second = host.run(&["run"]);
    assert!(!second.status.success() && stderr(&second).contains("another atalaya-enforcer"));

    let order = |arguments: &[&str]| -> Vec<String> {
        let bans = host.json(&[&["bans", "--json"], arguments].concat());
        bans.as_array().unwrap().iter().map(|ban| ban["prefix"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(order(&["--sort", "address"]), ["198.51.100.9", "2001:db8:9::/64"]);
    assert_eq!(order(&["--sort", "ending", "--reverse"]), ["2001:db8:9::/64", "198.51.100.9"]);
    assert_eq!(order(&["--limit", "1"]), ["2001:db8:9::/64"]);
    assert_eq!(order(&["--since", "1h"]).len(), 2);
    assert!(host.prints(&["bans", "--jail", "ssh"]).contains("no ban"));

    let shown = host.prints(&["show", "198.51.100.9"]);
    assert!(shown.starts_with("198.51.100.9: banned, ends in ") && shown.contains("port scan"), "{shown}");
    assert!(shown.contains("edge  holds it"), "{shown}");
    assert!(host.prints(&["show", "2001:db8:9::1"]).contains("banned with the network 2001:db8:9::/64"));
    let shown = host.json(&["show", "192.0.2.1", "--json"]);
    assert_eq!((&shown["ban"], &shown["allowed"]["network"]), (&Value::Null, &"192.0.2.0/24".into()));
    host.prints(&["ban", "203.0.113.0/24", "203.0.112.0/24"]);
    let inside = host.fails(&["unban", "203.0.113.9"]);
    assert!(inside.contains("the network 203.0.113.0/24, by hand, keeps it out"), "{inside}");
    host.prints(&["unban", "203.0.113.0/24", "203.0.112.0/24"]);
    let lifted = host.prints(&["unban", "2001:db8:9::1"]);
    assert!(lifted.contains("lifted the ban of 2001:db8:9::/64"), "{lifted}");
    assert!(lifted.contains("no router holds it any more"), "{lifted}");
    host.prints(&["ban", "2001:db8:9::/64", "--for", "permanent"]);

    let allowed = host.prints(&["allow", "2001:db8:9::7", "--for", "2h", "--reason", "my laptop"]);
    assert!(allowed.starts_with("2001:db8:9::7 is allowed until "), "{allowed}");
    assert!(allowed.contains("the network 2001:db8:9::/64 stands (permanently) and spares it"), "{allowed}");
    assert!(host.fails(&["ban", "2001:db8:9::7"]).contains("allow list"));
    let shown = host.prints(&["show", "2001:db8:9::7"]);
    assert!(shown.contains("my laptop") && shown.contains("ends in 2h"), "{shown}");
    let list = host.json(&["allow", "--json"]);
    assert_eq!(
        (&list["entries"][0]["what"], list["entries"].as_array().unwrap().len()),
        (&"2001:db8:9::7".into(), 1)
    );
    assert!(host.prints(&["allow"]).contains("192.0.2.0/24"));
    let gone = host.prints(&["allow", "--remove", "2001:db8:9::7"]);
    assert!(gone.contains("can be banned again\n  it is kept out again"), "{gone}");
    assert!(host.fails(&["allow", "--remove", "2001:db8:9::7"]).contains("not allowed at run time"));
    assert!(host.fails(&["allow", "--remove", "192.0.2.0/24"]).contains("configuration"));
    assert!(host.fails(&["allow", "no such thing"]).contains("no host name"));
    host.prints(&["ban", "2001:db8:9::/64", "--for", "permanent"]);
    assert_eq!(host.json(&["protected", "--json"]), serde_json::json!([]));
    assert_eq!(host.json(&["spared", "--json"]), serde_json::json!([]), "the command's old name is gone");
    assert!(!host.prints(&["--help"]).contains("spared"));
    let banned = host.json(&["bans", "--json", "--address", "2001:db8:9::/64"]);
    assert_eq!((&banned[0]["origin"], &banned[0]["jail"]), (&"hand".into(), &"manual".into()));

    host.prints(&["unban", "198.51.100.9", "--reason", "a mistake"]);
    let several = host.run(&["unban", "203.0.113.1", "2001:db8:9::/64"]);
    assert_eq!(several.status.code(), Some(1));
    assert!(stderr(&several).contains("203.0.113.1") && stderr(&several).contains("not banned"));
    assert!(String::from_utf8_lossy(&several.stdout).contains("lifted the ban of 2001:db8:9::/64"));
    let after = host.prints(&["show", "198.51.100.9"]);
    assert!(after.contains("not banned; it was once before") && after.contains(": a mistake"), "{after}");
    let history = host.prints(&["history", "--address", "198.51.100.9"]);
    assert!(history.contains("by hand") && history.lines().count() == 2, "{history}");
    assert!(host.json(&["history", "--over", "--json"]).as_array().unwrap().len() >= 2);
    router.wait_for(<[_]>::is_empty, PATIENCE).await.unwrap();
    assert_eq!(host.json(&["bans", "--json"]), serde_json::json!([]));
    running.stop();
    assert!(!host.folder.path().join("run/enforcer.sock").exists());
}

#[test]
fn a_started_enforcer_tells_systemd() {
    let host = Host::new("");
    let path = host.folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut child = host.command(&["run"]).env("NOTIFY_SOCKET", &path).stderr(Stdio::null()).spawn().unwrap();
    let mut bytes = [0; 32];
    let read = socket.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..read], b"READY=1");
    child.kill().unwrap();
    child.wait().unwrap();
}
