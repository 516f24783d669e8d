//! The binary as scripts use it: lines of JSON out, commands in, and a clean end.

mod client;

use std::process::Stdio;

use client::{Client, PATIENCE, V4};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_routeros-sim"));
        command.args(["--listen", "127.0.0.1:0", "--events", "json"]).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("cargo built it");
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, input, lines }
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time");
        serde_json::from_str(&line.expect("readable").expect("a line")).expect("JSON")
    }

    async fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("not closed yet");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it listens");
    }
}

#[tokio::test]
async fn it_tells_each_event_obeys_commands_and_ends_cleanly() {
    let mut program = Program::start(&["--control"]);
    let listening = program.next().await;
    assert_eq!(listening["event"], "listening");
    let address = listening["address"].as_str().unwrap().parse().unwrap();
    let mut client = Client::login(address).await;
    assert_eq!(program.next().await["event"], "login");

    let before = jiff::Timestamp::now();
    client.add(V4, "192.0.2.1", &["=timeout=30m", "=comment=c\"\n"]).await;
    let add = program.next().await;
    assert_eq!(
        (&add["event"], &add["list"], &add["address"]),
        (&"add".into(), &"spammer".into(), &"192.0.2.1".into())
    );
    assert_eq!((&add["timeout"], &add["comment"]), (&"30m".into(), &"c\"\n".into()));
    let nanoseconds = add["at_ns"].as_u64().unwrap();
    assert!(u128::from(nanoseconds) >= before.as_nanosecond().cast_unsigned());
    let at: jiff::Timestamp = add["at"].as_str().unwrap().parse().unwrap();
    assert_eq!(at.as_microsecond().cast_unsigned(), nanoseconds / 1000);

    program.say("list").await;
    let list = program.next().await;
    assert_eq!(list["entries"][0]["address"], "192.0.2.1");
    program.say("advance 30m").await;
    let expire = program.next().await;
    assert_eq!((&expire["event"], &expire["address"]), (&"expire".into(), &"192.0.2.1".into()));
    program.say("reboot").await;
    assert_eq!(program.next().await["event"], "reboot");
    assert!(client.is_closed().await);
    program.say("down").await;
    assert_eq!(program.next().await["event"], "down");
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    program.say("nonsense").await;
    program.say("up").await;
    assert_eq!(program.next().await["event"], "up");
    Client::login(address).await;

    let pid = Pid::from_raw(program.child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = tokio::time::timeout(PATIENCE, program.child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn closed_standard_input_does_not_end_it() {
    let mut program = Program::start(&["--control"]);
    let address = program.next().await["address"].as_str().unwrap().parse().unwrap();
    drop(program.input.take());
    Client::login(address).await;
    assert_eq!(program.next().await["event"], "login");
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output =
        Command::new(env!("CARGO_BIN_EXE_routeros-sim")).args(["--listen", &address]).output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(&address), "{error}");
}

#[tokio::test]
async fn routeros_commands_are_taken_at_the_start_and_while_it_runs() {
    let rule = "/ip/firewall/raw add chain=prerouting action=drop src-address-list=";
    let mut program = Program::start(&[
        "--control",
        "--terminal",
        &format!("{rule}first"),
        "--refuse",
        "/user",
        "--no-ipv6",
    ]);
    let address = program.next().await["address"].as_str().unwrap().parse().unwrap();
    let mut client = Client::login(address).await;
    assert_eq!(program.next().await["event"], "login");
    program.say(&format!("{rule}second")).await;
    // Its effect is awaited: `list` is obeyed after it.
    program.say("list").await;
    assert_eq!(program.next().await["event"], "list");
    let rules = client.ask(&["/ip/firewall/raw/print", "=.proplist=src-address-list"]).await;
    assert_eq!(rules, ["!re =src-address-list=first", "!re =src-address-list=second", "!done"]);
    assert_eq!(client.ask(&["/user/print"]).await[0], "!trap =message=not enough permissions (9)");
    assert!(client.print(client::V6, &[]).await[0].contains("no such command"));
    let wrong = Command::new(env!("CARGO_BIN_EXE_routeros-sim"))
        .args(["--listen", "127.0.0.1:0", "--terminal", "/ip/firewall/raw add action=drop"])
        .output();
    let error = String::from_utf8_lossy(&wrong.await.unwrap().stderr).into_owned();
    assert!(error.contains("missing value(s) of argument(s) chain"), "{error}");
}
