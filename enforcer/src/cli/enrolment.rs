//! `enrol`, `jails` and `revoke`: who may send, and what.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use atalaya_enforcer::config::Config;
use atalaya_enforcer::control::sensors::RefreshAnswer;
use atalaya_enforcer::enrolment::{self, EnrolmentError};
use atalaya_enforcer::tls::Identity;
use atalaya_wire::{AnyToken, JoinToken, Name, PACKAGE_PATH, reserved};

use super::socket::Socket;
use super::words;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer enrol web-1 | ssh web-1 atalaya-sensor join https://enforcer.example:8443 -\n  \
    atalaya-enforcer enrol web-1 --command --url https://enforcer.example:8443\n      \
    prints one line to paste on web-1: it installs the sensor and joins\n  \
    atalaya-enforcer enrol --from hosts.txt --command --url https://enforcer.example:8443")]
pub struct Enrol {
    /// What the sensor is to be called: a letter or digit, then letters, digits, `.`, `_` and `-`
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    name: Option<Name>,
    /// Many at once: a file with a name a line, - for standard input; blank lines and what follows # are left out
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Give a sensor that is enrolled a new secret; the old one stops working
    #[arg(long)]
    replace: bool,
    /// The jails that it may name, such as ssh,smtp; any without it. `jails` changes them later
    #[arg(long, value_name = "JAIL,…", value_delimiter = ',')]
    jails: Vec<Name>,
    /// A token that is good for one join within an hour: the sensor then makes a secret of its own
    #[arg(long)]
    once: bool,
    /// Print a line for the host's shell, as root, that fetches the sensor's package from here, installs it and joins, with a
    /// token that is good for that once
    #[arg(long)]
    command: bool,
    /// Where hosts reach this enforcer, for --command; this host's name without it
    #[arg(long, value_name = "URL", requires = "command")]
    url: Option<String>,
    /// Print JSON: {sensor, token}, and with --command its line; an object a line with --from
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
    /// Enrols, and prints the tokens: of many hosts all, or none where a line of theirs is wrong.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let config = Config::read(config)?;
        let names = match (&self.name, &self.from) {
            (Some(name), _) => vec![name.clone()],
            (None, Some(file)) => self.listed(file, &config)?,
            (None, None) => bail!("it needs a name, or --from with a file of names"),
        };
        let identity = Identity::load_or_make(&config.state, || enrolment::is_any(&config.state))?;
        let url = self.command.then(|| self.url(&config)).transpose()?;
        let jails: BTreeSet<Name> = self.jails.iter().cloned().collect();
        for name in names {
            let (state, fingerprint) = (&config.state, identity.fingerprint());
            let token = if self.once || self.command {
                enrolment::invite(state, name.clone(), fingerprint, self.replace)?
            } else {
                AnyToken::Lasting(enrolment::enrol(state, name.clone(), fingerprint, self.replace)?)
            };
            if !jails.is_empty() {
                enrolment::restrict(state, &name, &jails)?;
            }
            let line = match &url {
                Some(url) => Some(command(url, &token, &identity.public_key_pin()?)),
                None => None,
            };
            self.print(&token, line.as_deref(), out)?;
        }
        if self.replace {
            refresh(&config);
        }
        if !self.json && self.from.is_none() && !self.command {
            let port = config.listen.port();
            eprintln!("On the sensor's host: atalaya-sensor join https://HOST:{port} TOKEN");
        }
        Ok(())
    }

    fn print(&self, token: &AnyToken, line: Option<&str>, out: &mut impl Write) -> anyhow::Result<()> {
        let sensor = &token.parts().sensor;
        if self.json {
            let mut answer = serde_json::json!({"sensor": sensor, "token": token.expose()});
            if let Some(line) = line {
                answer["command"] = line.into();
            }
            return Ok(writeln!(out, "{answer}")?);
        }
        let shown = line.map_or_else(|| token.expose(), ToOwned::to_owned);
        if self.from.is_some() {
            return Ok(writeln!(out, "{sensor}\t{shown}")?);
        }
        Ok(writeln!(out, "{shown}")?)
    }

    /// The names in a file. Nobody is enrolled where one of them cannot be.
    fn listed(&self, file: &Path, config: &Config) -> anyhow::Result<Vec<Name>> {
        let text = if file == Path::new("-") {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        };
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        let enrolled: BTreeSet<Name> =
            enrolment::sensors(&config.state)?.into_iter().map(|sensor| sensor.name).collect();
        let (mut names, mut wrong) = (Vec::new(), Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let mut tell = |why: String| wrong.push(format!("{}:{number}: {why}", file.display()));
            match line.parse::<Name>() {
                Err(error) => tell(error.to_string()),
                Ok(name) if names.contains(&name) => tell(format!("{name} is there twice")),
                Ok(name) if enrolled.contains(&name) && !self.replace => {
                    tell(format!("a sensor named {name} is enrolled: take the line out, or use --replace"));
                }
                Ok(name) => match reserved::meaning(&name) {
                    Some(meaning) => tell(format!("{name} is reserved: {meaning}")),
                    None => names.push(name),
                },
            }
        }
        if !wrong.is_empty() {
            bail!("nobody was enrolled:\n{}", wrong.join("\n"));
        }
        if names.is_empty() {
            bail!("{} has no name in it", file.display());
        }
        Ok(names)
    }

    /// Where hosts reach this enforcer.
    fn url(&self, config: &Config) -> anyhow::Result<String> {
        if let Some(url) = &self.url {
            let plain = |c: char| c.is_ascii_alphanumeric() || ".:-_[]/".contains(c);
            let fits =
                url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && rest.chars().all(plain));
            if !fits {
                bail!(
                    "`{url}` is not where hosts reach this enforcer: expected such as https://enforcer.example:8443"
                );
            }
            return Ok(url.trim_end_matches('/').to_owned());
        }
        let host =
            std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read this host's name")?;
        let url = format!("https://{}:{}", host.trim(), config.listen.port());
        eprintln!("hosts are told to reach this enforcer at {url}; --url says otherwise");
        Ok(url)
    }
}

/// A line for a shell. curl knows the enforcer by its public key, the sensor by its certificate; nothing is run before it is
/// whole. What it holds is good for this once.
fn command(url: &str, token: &AnyToken, pin: &str) -> String {
    let JoinToken { sensor, secret, .. } = token.parts();
    let secret = secret.expose();
    format!(
        "(d=$(mktemp -d) && trap 'rm -rf \"$d\"' EXIT && \
         curl -fsSk --pinnedpubkey 'sha256//{pin}' -u '{sensor}:{secret}' -o \"$d/atalaya-sensor.deb\" \
         \"{url}{PACKAGE_PATH}/$(dpkg --print-architecture)\" && apt-get install -y \"$d/atalaya-sensor.deb\" && \
         atalaya-sensor join {url} '{}' && systemctl restart atalaya-sensor)",
        token.expose()
    )
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
