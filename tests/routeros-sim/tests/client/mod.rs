//! The barest client of the API: sends words, reads sentences.

#![allow(dead_code, reason = "each test file uses its part of it")]

use std::net::SocketAddr;
use std::time::Duration;

use routeros_sim::sentence::{Decoder, Sentence};
use routeros_sim::{Builder, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const V4: &str = "/ip/firewall/address-list";
pub const V6: &str = "/ipv6/firewall/address-list";

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Client {
    stream: TcpStream,
    decoder: Decoder,
}

/// A router with these settings and a client that is logged in.
pub async fn start(builder: Builder) -> (Router, Client) {
    let router = builder.start().await.expect("it starts");
    let client = Client::login(router.address()).await;
    (router, client)
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        Self { stream, decoder: Decoder::default() }
    }

    pub async fn login(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        let answer = client.ask(&["/login", "=name=atalaya", "=password=secret"]).await;
        assert_eq!(answer, ["!done"], "login");
        client
    }

    pub async fn send(&mut self, words: &[&str]) {
        self.send_all(&[words]).await;
    }

    pub async fn send_all(&mut self, commands: &[&[&str]]) {
        let mut bytes = Vec::new();
        for words in commands {
            Sentence::new(*words).encode(&mut bytes);
        }
        self.stream.write_all(&bytes).await.expect("the router takes it");
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the router takes it");
    }

    /// The next sentence, its words joined by spaces; `None` when the connection is closed.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(sentence) = self.decoder.take_sentence().expect("the router frames well") {
                let words: Vec<_> = sentence.words().map(String::from_utf8_lossy).collect();
                return Some(words.join(" "));
            }
            let read = self.stream.read_buf(self.decoder.buffer());
            match tokio::time::timeout(PATIENCE, read).await.expect("an answer in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Sends a command and returns the sentences up to `!done` or `!fatal`, or all before the end.
    pub async fn ask(&mut self, words: &[&str]) -> Vec<String> {
        self.send(words).await;
        self.answer().await
    }

    pub async fn answer(&mut self) -> Vec<String> {
        let mut answer = Vec::new();
        while let Some(sentence) = self.next().await {
            let last = sentence.starts_with("!done") || sentence.starts_with("!fatal");
            answer.push(sentence);
            if last {
                break;
            }
        }
        answer
    }

    /// Adds to the list `spammer`.
    pub async fn add(&mut self, table: &str, address: &str, more: &[&str]) -> Vec<String> {
        let (path, address) = (format!("{table}/add"), format!("=address={address}"));
        let mut words = vec![path.as_str(), "=list=spammer", &address];
        words.extend(more);
        self.ask(&words).await
    }

    pub async fn print(&mut self, table: &str, more: &[&str]) -> Vec<String> {
        let path = format!("{table}/print");
        let mut words = vec![path.as_str()];
        words.extend(more);
        self.ask(&words).await
    }

    /// True when the router closes without another sentence.
    pub async fn is_closed(&mut self) -> bool {
        self.next().await.is_none()
    }
}
