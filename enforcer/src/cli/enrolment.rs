//! `enrol`, `jails` and `revoke`: who may send, and what.

use std::io::Write;
use std::path::Path;

use atalaya_enforcer::config::Config;
use atalaya_enforcer::control::sensors::RefreshAnswer;
use atalaya_enforcer::enrolment::{self, EnrolmentError};
use atalaya_enforcer::tls::Identity;
use atalaya_wire::Name;

use super::socket::Socket;
use super::words;

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  atalaya-enforcer enrol web-1 | ssh web-1 atalaya-sensor join https://enforcer.example:8443 -"
)]
pub struct Enrol {
    /// What the sensor is to be called: a letter or digit, then letters, digits, `.`, `_` and `-`
    name: Name,
    /// Give a sensor that is enrolled a new secret; the old one stops working
    #[arg(long)]
    replace: bool,
    /// The jails that it may name, such as ssh,smtp; any without it. `jails` changes them later
    #[arg(long, value_name = "JAIL,…", value_delimiter = ',')]
    jails: Vec<Name>,
    /// Print JSON: {sensor, token}
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  atalaya-enforcer revoke web-1")]
pub struct Revoke {
    /// The name under which the sensor was enrolled
    name: Name,
    /// Print JSON: {revoked, ended}
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer jails web-1            # which it may name\n  \
    atalaya-enforcer jails web-1 ssh,smtp   # these from now on; bans that stand stay\n  \
    atalaya-enforcer jails web-1 --any")]
pub struct Jails {
    /// The name under which the sensor was enrolled
    name: Name,
    /// The jails that it may name from now on; offences of others lead to no ban
    #[arg(value_name = "JAIL,…", value_delimiter = ',')]
    allowed: Vec<Name>,
    /// Let it name any jail
    #[arg(long, conflicts_with = "allowed")]
    any: bool,
    /// Print JSON: {sensor, jails}, without jails where it may name any
    #[arg(long)]
    json: bool,
}

// === impl Enrol ===

impl Enrol {
    /// Enrols, and prints the token.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let config = Config::read(config)?;
        let fingerprint =
            Identity::load_or_make(&config.state, || enrolment::is_any(&config.state))?.fingerprint();
        let token = enrolment::enrol(&config.state, self.name.clone(), fingerprint, self.replace)?;
        if !self.jails.is_empty() {
            enrolment::restrict(&config.state, &self.name, &self.jails.into_iter().collect())?;
        }
        if self.replace {
            refresh(&config);
        }
        if self.json {
            writeln!(out, "{}", serde_json::json!({"sensor": token.sensor, "token": token.expose()}))?;
        } else {
            writeln!(out, "{}", token.expose())?;
            let port = config.listen.port();
            eprintln!("On the sensor's host: atalaya-sensor join https://HOST:{port} TOKEN");
        }
        Ok(())
    }
}

// === impl Jails ===

impl Jails {
    /// Shows or changes which jails a sensor may name.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let config = Config::read(config)?;
        if self.any || !self.allowed.is_empty() {
            enrolment::restrict(&config.state, &self.name, &self.allowed.into_iter().collect())?;
            refresh(&config);
        }
        let sensors = enrolment::sensors(&config.state)?;
        let sensor = sensors.into_iter().find(|sensor| sensor.name == self.name);
        let sensor = sensor.ok_or(EnrolmentError::Unknown(self.name))?;
        let (name, jails) = (sensor.name, sensor.jails);
        if self.json {
            let mut answer = serde_json::json!({"sensor": name});
            if let Some(jails) = jails {
                answer["jails"] = serde_json::to_value(jails)?;
            }
            return Ok(writeln!(out, "{answer}")?);
        }
        match jails {
            Some(jails) => {
                let jails: Vec<&str> = jails.iter().map(Name::as_str).collect();
                writeln!(out, "{name} may name {}", jails.join(", "))?;
            }
            None => writeln!(out, "{name} may name any jail")?,
        }
        Ok(())
    }
}

/// Tells a running enforcer that something changed; how many connections it ended for that. One that does not run
/// need not know.
fn refresh(config: &Config) -> Option<usize> {
    let socket = Socket::at(&config.socket).ok()?;
    let answer: RefreshAnswer = socket.post("enrolled/refresh", &()).ok()?;
    Some(answer.ended)
}

// === impl Revoke ===

impl Revoke {
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let (name, config) = (&self.name, Config::read(config)?);
        enrolment::revoke(&config.state, name)?;
        let ended = refresh(&config).unwrap_or(0);
        if self.json {
            return Ok(writeln!(out, "{}", serde_json::json!({"revoked": name, "ended": ended}))?);
        }
        let ended = match ended {
            0 => String::new(),
            ended => format!(", and {} ended", words::counted(ended, "connection")),
        };
        writeln!(
            out,
            "{name} can send no more{ended}; what it reported stays banned: atalaya-enforcer unban --sensor {name} lifts it"
        )?;
        Ok(())
    }
}
