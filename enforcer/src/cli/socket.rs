//! The running enforcer, as the commands reach it: over its Unix socket.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use atalaya_enforcer::config::Config;
use atalaya_enforcer::ledger::{Ban, Selection};
use atalaya_program::causes::Causes;
use atalaya_wire::Problem;
use reqwest::{Client, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::words;

/// The socket of the enforcer of one configuration.
pub struct Socket {
    path: PathBuf,
    client: Client,
    runtime: Runtime,
}

/// Lines of an answer, as they arrive.
pub struct Lines {
    response: Response,
    runtime: Runtime,
    rest: Vec<u8>,
}

// === impl Socket ===

impl Socket {
    /// The socket that a configuration file names.
    pub fn of(config: &Path) -> anyhow::Result<Self> {
        Self::at(&Config::read(config)?.socket)
    }

    /// For tests and for what knows the path: nothing is connected before the first request.
    pub fn at(path: &Path) -> anyhow::Result<Self> {
        // Nothing is encrypted here, but the client wants to know how it would.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = Client::builder().unix_socket(path).tls_backend_preconfigured(tls).build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { path: path.to_owned(), client, runtime })
    }

    /// Whether an enforcer answers there; an error where that cannot be told, because this user may not ask it.
    pub fn answers(&self) -> io::Result<bool> {
        match std::os::unix::net::UnixStream::connect(&self.path) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The answer to `GET /PATH`, from JSON.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.answer(self.client.get(url(path)))
    }

    /// Reads a path with a query.
    pub fn ask<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> anyhow::Result<T> {
        self.answer(self.client.get(url(&format!("{path}?{}", query(request)?))))
    }

    /// Posts to a path.
    pub fn post<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> anyhow::Result<T> {
        self.answer(self.client.post(url(path)).json(request))
    }

    /// Deletes what a query says.
    pub fn delete<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> anyhow::Result<T> {
        self.answer(self.client.delete(url(&format!("{path}?{}", query(request)?))))
    }

    /// The selected bans, one JSON object a line.
    pub fn bans(self, selection: &Selection) -> anyhow::Result<Lines> {
        let request = self.client.get(url(&format!("bans?{}", query(selection)?)));
        let response = self.block_on(self.send(request))?;
        Ok(Lines { response, runtime: self.runtime, rest: Vec::new() })
    }

    /// Reads a path, within [`Self::block_on`].
    pub async fn fetch<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        understood(&self.send(self.client.get(url(path))).await?.bytes().await?)
    }

    /// The selected bans, within [`Self::block_on`]; for a few.
    pub async fn fetch_bans(&self, selection: &Selection) -> anyhow::Result<Vec<Ban>> {
        let request = self.client.get(url(&format!("bans?{}", query(selection)?)));
        let lines = self.send(request).await?.bytes().await?;
        lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(understood).collect()
    }

    /// Runs on this thread.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        self.block_on(async { understood(&self.send(request).await?.bytes().await?) })
    }

    /// Sends; an answer that is not a success is an error in the enforcer's words.
    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|error| {
            let why = root_cause(&error);
            anyhow::anyhow!(
                "no enforcer answers at {} ({why}): start it with `atalaya-enforcer run` or `systemctl start atalaya-enforcer`, or name its configuration with --config",
                self.path.display()
            )
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await?;
        match serde_json::from_slice::<Problem>(&body) {
            // Kept as it is, for those who go on from its code.
            Ok(problem) => {
                bail!(Problem { message: words::harmless(&problem.message).into_owned(), ..problem })
            }
            Err(_) => {
                bail!("the enforcer refused ({status}): {}", words::harmless(&String::from_utf8_lossy(&body)))
            }
        }
    }
}

// === impl Lines ===

impl Lines {
    /// The next line without its end; `None` where the answer is over.
    pub fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.rest, rest);
                line.pop();
                return Ok(Some(line));
            }
            let piece = self.runtime.block_on(self.response.chunk());
            match piece.context("the enforcer broke off while it listed the bans")? {
                Some(piece) => self.rest.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }
}

/// Prints an answer as JSON, on one line that no terminal obeys.
pub fn print_json(out: &mut impl Write, answer: &impl Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_string(answer)?;
    Ok(writeln!(out, "{}", words::harmless_json(&json))?)
}

fn understood<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body).context(
        "the enforcer's answer is not understood: is it of another release than this command? Restart it",
    )
}

fn url(path: &str) -> String {
    format!("http://enforcer/{path}")
}

/// The request as a query; its values need no escape but the slash of a network, which may stand.
fn query(request: &impl Serialize) -> anyhow::Result<String> {
    let mut url = reqwest::Url::parse("http://enforcer/")?;
    if let Value::Object(fields) = serde_json::to_value(request)? {
        for (name, value) in fields {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text,
                other => other.to_string(),
            };
            url.query_pairs_mut().append_pair(&name, &text);
        }
    }
    Ok(url.query().unwrap_or_default().to_owned())
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Does something for each of several; where one fails the others are done all the same.
pub fn each<T>(all: &[T], mut one: impl FnMut(&T) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    if let [single] = all {
        return one(single).map(|()| ExitCode::SUCCESS);
    }
    let mut code = ExitCode::SUCCESS;
    for single in all {
        if let Err(error) = one(single) {
            // Nobody reads on.
            if error.is::<io::Error>() {
                return Err(error);
            }
            eprintln!("atalaya-enforcer: {}", Causes(error.as_ref()));
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
