//! The session against scripted peers: what a hostile, old, silent or dying router can do to it.

use std::future::Future;

use mikrotik_rs::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::router::{Endpoint, Password};

/// A peer that takes one connection and does with it what the script says.
async fn peer<F>(script: impl FnOnce(TcpStream) -> F + Send + 'static) -> (RouterConfig, SocketAddr)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { script(listener.accept().await.unwrap().0).await });
    let endpoint: Endpoint = address.to_string().parse().unwrap();
    let config = RouterConfig::new("r".parse().unwrap(), endpoint, "api", Password::new("secret"));
    (config, address)
}

async fn open(config: &RouterConfig, address: SocketAddr) -> Result<Session<u8>, SessionError> {
    Session::open(config, &[address]).await
}

fn sentence(words: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in words {
        codec::encode_word(word.as_bytes(), &mut bytes);
    }
    codec::encode_terminator(&mut bytes);
    bytes
}

const LOGGED_IN: [&str; 2] = ["!done", ".tag=0000000000"];

/// Reads one sentence, and says which tag it had.
async fn heard(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        if let Decode::Complete { value, .. } = codec::decode_sentence(&bytes).unwrap() {
            let words: Vec<_> =
                value.words().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            return words.into_iter().find(|word| word.starts_with(".tag=")).unwrap();
        }
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap() == 0 {
            std::future::pending::<()>().await;
        }
        bytes.push(byte[0]);
    }
}

async fn log_in(stream: &mut TcpStream) {
    heard(stream).await;
    stream.write_all(&sentence(&LOGGED_IN)).await.unwrap();
}

#[tokio::test]
async fn answers_that_come_byte_by_byte_reach_their_commands() {
    let (config, address) = peer(|mut stream| async move {
        stream.set_nodelay(true).unwrap();
        log_in(&mut stream).await;
        let (first, second) = (heard(&mut stream).await, heard(&mut stream).await);
        let mut bytes = sentence(&["!re", &second, "=.id=*1", "=address=192.0.2.1"]);
        bytes.extend(sentence(&[]));
        bytes.extend(sentence(&["!trap", &first, "=category=1", "=message=no"]));
        bytes.extend(sentence(&["!done", &first]));
        bytes.extend(sentence(&["!done", "=ret=*1A", &second]));
        for byte in bytes {
            stream.write_all(&[byte]).await.unwrap();
        }
        std::future::pending::<()>().await;
    })
    .await;
    let mut session = open(&config, address).await.unwrap();
    for context in [1, 2] {
        let command = session.command("/x");
        session.send(command, context);
    }
    assert!(
        matches!(session.answer().await, Ok(CommandAnswer::Row(2, row)) if row.text(".id") == Some("*1"))
    );
    assert!(matches!(session.answer().await, Ok(CommandAnswer::Trap(1, trap)) if trap.message == "no"));
    assert!(matches!(session.answer().await, Ok(CommandAnswer::Done(2, Some(id))) if id == "*1A"));
    assert_eq!(session.in_flight(), 0);
}

#[tokio::test]
async fn a_challenge_is_said_to_be_an_old_router() {
    let (config, address) = peer(|mut stream| async move {
        heard(&mut stream).await;
        stream.write_all(&sentence(&["!done", ".tag=0000000000", "=ret=ab12"])).await.unwrap();
    })
    .await;
    assert!(matches!(open(&config, address).await, Err(SessionError::ChallengeLogin)));
}

#[tokio::test]
async fn a_refused_login_says_whose_and_not_with_which_password() {
    let (config, address) = peer(|mut stream| async move {
        heard(&mut stream).await;
        let trap = ["!trap", ".tag=0000000000", "=message=invalid user name or password (6)"];
        stream.write_all(&sentence(&trap)).await.unwrap();
    })
    .await;
    let error = open(&config, address).await.err().unwrap().to_string();
    assert!(error.contains("`api`") && error.contains("invalid user name or password (6)"), "{error}");
    assert!(!error.contains("secret"));
}

#[tokio::test]
async fn a_fatal_ends_the_session_with_its_reason_even_with_a_tag() {
    let (config, address) = peer(|mut stream| async move {
        log_in(&mut stream).await;
        let tag = heard(&mut stream).await;
        stream.write_all(&sentence(&["!fatal", &tag, "session terminated"])).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut session = open(&config, address).await.unwrap();
    let command = session.command("/x");
    session.send(command, 1);
    assert!(matches!(session.answer().await, Err(SessionError::Fatal(why)) if why == "session terminated"));
}

#[tokio::test]
async fn an_endless_sentence_is_given_up() {
    let (config, address) = peer(|mut stream| async move {
        log_in(&mut stream).await;
        let mut start = Vec::new();
        codec::encode_word(b"!re", &mut start);
        start.extend([0xF0, 0x7F, 0xFF, 0xFF, 0xFF]);
        stream.write_all(&start).await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    let mut session = open(&config, address).await.unwrap();
    let error = session.answer().await.err().unwrap();
    assert!(matches!(error, SessionError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn a_web_server_is_told_apart_from_a_router() {
    let (config, address) = peer(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream.write_all(&[0; 80]).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let error = open(&config, address).await.err().unwrap();
    assert!(matches!(error, SessionError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn a_peer_that_never_answers_the_login_meets_its_deadline() {
    let (mut config, address) = peer(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    config.deadlines.login = Duration::from_millis(50);
    assert!(matches!(open(&config, address).await, Err(SessionError::LoginDeadline(_))));
}

#[tokio::test]
async fn silence_is_an_error_only_while_commands_are_in_flight() {
    let (mut config, address) = peer(|mut stream| async move {
        log_in(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    config.deadlines.idle = Duration::from_millis(50);
    let mut session = open(&config, address).await.unwrap();
    assert!(timeout(Duration::from_millis(200), session.answer()).await.is_err());
    let command = session.command("/x");
    session.send(command, 1);
    assert!(matches!(session.answer().await, Err(SessionError::Silent(_))));
}

#[tokio::test]
async fn a_close_in_the_middle_of_a_reply_is_a_close() {
    let (config, address) = peer(|mut stream| async move {
        log_in(&mut stream).await;
        let tag = heard(&mut stream).await;
        let reply = sentence(&["!re", &tag, "=address=192.0.2.1"]);
        stream.write_all(&reply[..reply.len() / 2]).await.unwrap();
    })
    .await;
    let mut session = open(&config, address).await.unwrap();
    let command = session.command("/x");
    session.send(command, 1);
    assert!(matches!(session.answer().await, Err(SessionError::Closed)));
}

#[tokio::test]
async fn a_peer_that_writes_without_reading_does_not_lock_us_up() {
    const ROWS: usize = 40_000;
    let (config, address) = peer(|mut stream| async move {
        log_in(&mut stream).await;
        let tag = heard(&mut stream).await;
        let row = sentence(&["!re", &tag, &format!("=comment={}", "x".repeat(400))]);
        for _ in 0..ROWS {
            stream.write_all(&row).await.unwrap();
        }
        stream.write_all(&sentence(&["!done", &tag])).await.unwrap();
        // Only now the many commands are read.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
    })
    .await;
    let mut session = open(&config, address).await.unwrap();
    for context in 0..2_u8 {
        let command = session.command("/x");
        session.send(command, context);
    }
    let big = "x".repeat(16 * 1024 * 1024);
    let command: CommandBuilder<Cmd> = session.command("/x").attribute("comment", Some(&big));
    session.send(command, 9);
    let mut rows = 0;
    loop {
        match session.answer().await.unwrap() {
            CommandAnswer::Row(0, _) => rows += 1,
            CommandAnswer::Done(0, _) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rows, ROWS);
}

#[tokio::test]
async fn rows_without_end_end_the_session_whatever_they_answer() {
    let (config, address) = peer(|mut stream| async move {
        log_in(&mut stream).await;
        let tag = heard(&mut stream).await;
        let row = sentence(&["!re", &tag, "=address=192.0.2.1"]);
        while stream.write_all(&row).await.is_ok() {}
    })
    .await;
    let mut session = open(&config, address).await.unwrap();
    session.most_rows = 1000;
    let command = session.command("/system/resource/print");
    session.send(command, 1);
    let mut rows = 0;
    let error = loop {
        match session.answer().await {
            Ok(CommandAnswer::Row(..)) => rows += 1,
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(rows, 1000);
    assert!(error.to_string().contains("more than any router holds"), "{error}");
}

#[test]
fn commands_are_encoded_as_routeros_reads_them() {
    let builder = CommandBuilder::with_tag(Tag::from_raw(3)).command("/x/print");
    let command: Command =
        builder.attribute(".proplist", Some(".id,address")).query_equal("list", "spammer").build();
    let expected = sentence(&["/x/print", ".tag=0000000003", "=.proplist=.id,address", "?list=spammer"]);
    assert_eq!(command.data(), expected);
}
