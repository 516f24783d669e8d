//! The clients that people use today, from `PyPI` and unchanged, take the simulator for a router.
//!
//! They live in a virtual environment under the target directory, made at the first run. That needs
//! Python's venv module and, once, `PyPI`.

use std::path::PathBuf;
use std::process::Stdio;

use routeros_sim::{Family, Router};
use tokio::process::Command;
use tokio::sync::OnceCell;

const PACKAGES: [&str; 2] = ["routeros_api==0.21.0", "librouteros==4.2.2"];

/// The Python that has the clients. Tests of this file wait for one of them to make it.
async fn python() -> PathBuf {
    static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();
    PYTHON.get_or_init(make_environment).await.clone()
}

async fn make_environment() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("routeros-python");
    let python = folder.join("bin/python");
    // Some runners give each test a process: one of them makes it, the others wait.
    let lock =
        std::fs::File::create(folder.with_extension("lock")).expect("the target folder can be written");
    lock.lock().expect("a lock of the target folder");
    // Written last, so that an interrupted installation is made anew.
    let mark = folder.join(PACKAGES.join(" "));
    if mark.exists() {
        return python;
    }
    run(
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder),
        "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv",
    )
    .await;
    run(
        Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES),
        "pip cannot install the clients; it needs PyPI, or a mirror that pip is configured for",
    )
    .await;
    std::fs::write(mark, "").expect("the folder was just made");
    python
}

async fn run(command: &mut Command, advice: &str) -> String {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.unwrap_or_else(|error| panic!("{advice}: {error}"));
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{advice}\n{out}{errors}");
    out.into_owned()
}

async fn drive(router: &Router, script: &str, more: &[&str]) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let port = router.address().port().to_string();
    let mut command = Command::new(python().await);
    command.arg(&script).args([&port, "admin", "hunter2"]).args(more);
    let out = run(&mut command, "the client does not get on with the simulator").await;
    assert_eq!(out, "ok\n");
}

fn edge(version: &str) -> routeros_sim::Builder {
    Router::builder().user("admin").password("hunter2").identity("edge").version(version)
}

#[tokio::test]
async fn routeros_api_does_what_its_users_do_today() {
    let router = edge("7.24").start().await.unwrap();
    drive(&router, "routeros_api_client.py", &[]).await;
    let counts = router.counts();
    assert_eq!((counts.logins, counts.login_failures), (1, 1));
    assert_eq!((counts.adds, counts.duplicates, counts.sets, counts.removes), (3, 1, 1, 1));
    let add =
        "=list=spammer =address=212.11.64.212 =timeout=00:30:00 =comment=fail2ban: 3 failures =disabled=no";
    assert!(router.journal().iter().any(|record| record.words.join(" ").contains(add)));
    assert_eq!(router.entries(Family::V6).len(), 1);
}

#[tokio::test]
async fn routeros_api_does_the_same_before_there_was_an_empty_reply() {
    let router = edge("7.17").start().await.unwrap();
    drive(&router, "routeros_api_client.py", &[]).await;
}

#[tokio::test]
async fn librouteros_gets_on_with_it() {
    let router = edge("7.24").start().await.unwrap();
    drive(&router, "librouteros_client.py", &["plain"]).await;
    assert_eq!(router.entries(Family::V4).len(), 1);
}

#[tokio::test]
async fn librouteros_answers_the_challenge_of_an_old_router() {
    let router = edge("6.42.12").start().await.unwrap();
    drive(&router, "librouteros_client.py", &["token"]).await;
    assert_eq!(router.counts().logins, 1);
}
