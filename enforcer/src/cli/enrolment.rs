//! `enrol` and `revoke`: who may send.

use std::io::Write;
use std::path::Path;

use atalaya_enforcer::config::Config;
use atalaya_enforcer::enrolment;
use atalaya_enforcer::tls::Identity;
use atalaya_wire::Name;

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
    /// Print JSON: {sensor, token}
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  atalaya-enforcer revoke web-1")]
pub struct Revoke {
    /// The name under which the sensor was enrolled
    name: Name,
    /// Print JSON: {revoked}
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
        let token = enrolment::enrol(&config.state, self.name, fingerprint, self.replace)?;
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

// === impl Revoke ===

impl Revoke {
    pub fn run(&self, config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let name = &self.name;
        enrolment::revoke(&Config::read(config)?.state, name)?;
        if self.json {
            writeln!(out, "{}", serde_json::json!({"revoked": name}))?;
        } else {
            writeln!(out, "{name} can send no more; what it reported stays banned")?;
        }
        Ok(())
    }
}
