//! `router add`: from an address to a router that is ready for bans, step by step at a terminal, or from the
//! command line alone.

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::config::Config;
use atalaya_enforcer::desired::ListConfig;
use atalaya_enforcer::router::check::{self, Grade, Readiness, command};
use atalaya_enforcer::router::endpoint::{API_PORT, API_TLS_PORT};
use atalaya_enforcer::router::{Endpoint, Password, RouterConfig};
use atalaya_program::config_file::ConfigError;
use atalaya_wire::{Fingerprint, Name};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::apply::Application;
use super::check::{commands, show};
use super::own;
use super::prompt::Prompt;
use super::section::{PasswordPlace, Section};
use super::unfinished::{Answers, Unfinished};
use crate::cli::paint::Paint;
use crate::cli::reload;

/// How long a port may take to present a certificate before it is taken for one without.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// What is known of the router already; what is missing is asked for.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    atalaya-enforcer router add\n      \
    asks for everything\n  \
    atalaya-enforcer router add edge --address 192.0.2.1 --password-file /etc/atalaya/edge.password --write\n      \
    a router whose user is there, without a question\n  \
    atalaya-enforcer router add edge --address 192.0.2.1 --new-user --write\n      \
    prints the commands that make the user, with a password of its own, for the router's terminal")]
pub struct Arguments {
    /// The router's name, in the configuration, in logs and in status
    name: Option<Name>,
    /// Where it is, with a port where its API has another than the usual one
    #[arg(long, value_name = "HOST[:PORT]")]
    address: Option<Endpoint>,
    /// RouterOS's user for the API
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A file with the user's password; - for a line of standard input
    #[arg(long, value_name = "FILE", conflicts_with = "new_user")]
    password_file: Option<PathBuf>,
    /// The user is not on the router yet: make a password, and print the commands that make the user
    #[arg(long)]
    new_user: bool,
    /// The SHA-256 of the router's certificate; without it, what api-ssl presents now is asked about, and
    /// pinned where nobody can be asked
    #[arg(long, value_name = "SHA256")]
    fingerprint: Option<Fingerprint>,
    /// Change nothing on the router: do not try to add an entry to a scratch list and remove it again
    #[arg(long)]
    read_only: bool,
    /// A network, an address or a DNS name of your own, which is never banned; once for each. Only where the
    /// configuration has no `allow` yet
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<String>,
    /// Append the section to the configuration file without asking
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    apply: Application,
}

/// A router on its way into the configuration.
pub struct NewRouter {
    pub router: RouterConfig,
    pub place: PasswordPlace,
    pub unfinished: Unfinished,
    pub prompt: Prompt,
    pub runtime: Runtime,
    writes: bool,
}

// === impl Arguments ===

impl Arguments {
    /// Asks for what was not given, checks the router, and prints or writes its section.
    pub fn run(self, config: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let (lists, taken, has_allow) = match Config::read(config) {
            Ok(config) => {
                let has_allow = !config.allow.networks.is_empty() || !config.allow.names.is_empty();
                let taken = config.routers.into_iter().map(|router| router.name).collect::<Vec<_>>();
                (config.list, taken, has_allow)
            }
            // The first router may be the beginning of the configuration.
            Err(ConfigError::Read { path, source })
                if path == config && source.kind() == io::ErrorKind::NotFound =>
            {
                (ListConfig::default(), Vec::new(), false)
            }
            Err(error) => return Err(error.into()),
        };
        if has_allow && !self.allow.is_empty() {
            bail!("{} has `allow` already: add to it there", config.display());
        }
        own::parse(&self.allow)?;
        let result = self.walk(config, &lists, &taken, has_allow, out);
        if result.is_err() && Prompt::new().is_somebody() && Unfinished::beside(config).earlier().is_some() {
            eprintln!("Your answers are kept: `atalaya-enforcer router add` goes on with them.");
        }
        result
    }

    fn walk(
        self,
        config: &Path,
        lists: &ListConfig,
        taken: &[Name],
        has_allow: bool,
        out: &mut impl Write,
    ) -> anyhow::Result<ExitCode> {
        let prompt = Prompt::new();
        let mut unfinished = Unfinished::beside(config);
        let before = earlier(&unfinished, prompt, taken)?;
        let name: Name =
            prompt.value(self.name.or(before.name), "Name of the router, such as edge", None, "NAME")?;
        if taken.contains(&name) {
            bail!(
                "{} has a router {name} already; `atalaya-enforcer router check {name}` looks at it",
                config.display()
            );
        }
        unfinished.answers = Answers { name: Some(name.clone()), ..Answers::default() };
        unfinished.keep_of(prompt);
        let known = self.address.or(before.address.and_then(|address| address.parse().ok()));
        let address: Endpoint = prompt.value(
            known,
            "Its address, with a port where it is not the usual one",
            None,
            "--address",
        )?;
        unfinished.answers.address = Some(address.to_string());
        unfinished.keep_of(prompt);
        let user: String = prompt.value(self.user.or(before.user), "API user", Some("atalaya"), "--user")?;
        if user.is_empty() {
            bail!("the user's name is empty");
        }
        unfinished.answers.user = Some(user.clone());
        unfinished.answers.allow = before.allow.filter(|_| !has_allow);
        unfinished.keep_of(prompt);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut router = RouterConfig::new(name, address, user, Password::new(""));
        router.lists.clone_from(&lists.names);
        router.mark.clone_from(&lists.mark);
        router.tls = self.fingerprint.or(before.fingerprint);
        let place = PasswordPlace::New(Password::new(""));
        let mut walk = NewRouter { router, place, unfinished, prompt, runtime, writes: !self.read_only };
        if walk.router.tls.is_none() {
            walk.find_certificate()?;
        }
        let kept = before.password.filter(|_| self.password_file.is_none() && !self.new_user);
        let applies = self.apply.is_wanted();
        let is_new = if applies {
            let given = match &self.password_file {
                Some(file) => Some(walk.password_of(file)?),
                // Its user may be on the router already.
                None => kept,
            };
            self.apply.run(&mut walk, given, config, out)?;
            false
        } else {
            match kept {
                Some(password) => {
                    walk.set_password(&password);
                    before.is_new
                }
                None => walk.take_password(self.password_file, self.new_user)?,
            }
        };
        if !applies {
            walk.keep(is_new);
        }
        if is_new {
            let user = command::add_user(&walk.router.user, walk.router.password.expose());
            commands(out, &walk.router.name, &[command::add_group().typed(), user.typed()])?;
            writeln!(out)?;
            out.flush()?;
            walk.prompt.wait("Press Enter when that is done.")?;
        }
        let report = if is_new && !prompt.is_somebody() { None } else { Some(walk.check_until_good(out)?) };
        let allow = match (has_allow, self.allow.is_empty()) {
            (true, _) => Vec::new(),
            (false, false) => own::parse(&self.allow)?,
            (false, true) => walk.own_networks(report.as_ref())?,
        };
        walk.finish(config, allow, report.as_ref(), self.write || applies, out)
    }
}

// === impl NewRouter ===

impl NewRouter {
    /// Keeps what was answered, for another walk. Of passwords only one that was made here, for nobody else knows it.
    pub fn keep(&mut self, is_new: bool) {
        let answers = &mut self.unfinished.answers;
        answers.fingerprint = self.router.tls;
        answers.address = Some(self.router.address.to_string());
        answers.is_new = is_new;
        answers.password = match &self.place {
            PasswordPlace::New(password) if is_new => Some(password.expose().to_owned()),
            PasswordPlace::New(_) | PasswordPlace::Kept(_) => None,
        };
        self.unfinished.keep_of(self.prompt);
    }

    /// Pins what api-ssl presents, where somebody agrees or nobody is there to ask.
    fn find_certificate(&mut self) -> anyhow::Result<()> {
        let port = match self.router.address.port {
            None | Some(API_PORT) => API_TLS_PORT,
            Some(port) => port,
        };
        match self.presented(port) {
            Ok(fingerprint) => self.offer(fingerprint, port)?,
            Err(why) => eprintln!("No api-ssl with a certificate ({why}): the plain API is tried."),
        }
        Ok(())
    }

    /// What is presented at this port.
    pub fn presented(&self, port: u16) -> Result<Fingerprint, String> {
        let router = &self.router;
        let deadline = router.deadlines.connect;
        self.runtime.block_on(async {
            let resolved = timeout(deadline, router.address.resolve(port)).await;
            let addresses = resolved.map_err(|_| "its name is not resolved".to_owned())?;
            let addresses: Vec<SocketAddr> = addresses
                .map_err(|error| format!("its name is not resolved: {error}"))?
                .into_iter()
                .map(|address| SocketAddr::new(address.ip(), port))
                .collect();
            check::presented_certificate(&addresses, deadline.min(HANDSHAKE)).await
        })
    }

    /// The administrators' own networks: those of an earlier walk, or what is answered.
    fn own_networks(&mut self, report: Option<&Readiness>) -> anyhow::Result<Vec<String>> {
        if let Some(allow) = self.unfinished.answers.allow.clone() {
            return Ok(allow);
        }
        if !self.prompt.is_somebody() {
            return Ok(Vec::new());
        }
        let suggestion = own::suggestion(report.map(|report| &report.networks), own::logged_in_from());
        let allow = own::ask(self.prompt, &suggestion)?;
        self.unfinished.answers.allow = Some(allow.clone());
        self.unfinished.keep_of(self.prompt);
        Ok(allow)
    }

    fn offer(&mut self, fingerprint: Fingerprint, port: u16) -> anyhow::Result<()> {
        let host = &self.router.address.host;
        eprintln!("api-ssl of {host}, port {port}, presents the certificate with SHA-256\n  {fingerprint}");
        eprintln!("Compare it with `/certificate print detail` at the router itself.");
        if self.prompt.agrees("Pin it?", true)? {
            if !self.prompt.is_somebody() {
                eprintln!("It is pinned as it is.");
            }
            self.pin(fingerprint, port);
        }
        Ok(())
    }

    /// Sets the password; true where it is a new one that the router does not know yet.
    fn take_password(&mut self, file: Option<PathBuf>, new_user: bool) -> anyhow::Result<bool> {
        let mut is_new = false;
        let text = match file {
            Some(file) => self.password_of(&file)?,
            None => {
                let question = format!(
                    "Password of `{}` on the router (Enter alone: the user is not there yet): ",
                    self.router.user
                );
                let typed = if new_user { None } else { self.prompt.secret(&question)? };
                is_new = typed.is_none();
                match typed {
                    Some(typed) => typed,
                    None => new_password()?,
                }
            }
        };
        self.set_password(&text);
        Ok(is_new)
    }

    /// The password in a file that stays where it is, or from standard input.
    fn password_of(&mut self, file: &Path) -> anyhow::Result<String> {
        let text = read_password(file)?;
        if file.as_os_str() != "-" {
            self.place = PasswordPlace::Kept(std::path::absolute(file)?);
        }
        Ok(text)
    }

    pub fn set_password(&mut self, text: &str) {
        self.router.password = Password::new(text);
        if let PasswordPlace::New(_) = self.place {
            self.place = PasswordPlace::New(self.router.password.clone());
        }
    }

    /// Looks at the router, and again while somebody mends it.
    fn check_until_good(&mut self, out: &mut impl Write) -> anyhow::Result<Readiness> {
        loop {
            let clock = Clock::system();
            let report = self.runtime.block_on(check::check(&self.router, &clock, self.writes));
            if self.router.tls.is_none()
                && let Some((fingerprint, port)) = report.certificate
                && report.admitted()
                && !report.findings.iter().any(|one| one.check == "certificate" && one.grade == Grade::Fault)
            {
                // It has one now, or told where it is: from here on by TLS.
                self.offer(fingerprint, port)?;
                if self.router.tls.is_some() {
                    continue;
                }
            }
            show(out, &report, Paint::of_stdout())?;
            out.flush()?;
            let mendable = report.worst() == Grade::Fault || !report.commands().is_empty();
            if !mendable || !self.prompt.is_somebody() {
                return Ok(report);
            }
            let refused = |one: &check::Finding| one.check == "login" && one.grade == Grade::Fault;
            if report.findings.iter().any(refused)
                && let Some(password) = self.prompt.secret("Another password (Enter alone: the same): ")?
            {
                self.place = PasswordPlace::New(Password::new(""));
                self.set_password(&password);
                self.keep(false);
                continue;
            }
            if !self.prompt.agrees("Check again?", report.worst() == Grade::Fault)? {
                return Ok(report);
            }
        }
    }

    /// Prints the section, and appends it where that is wanted.
    fn finish(
        mut self,
        config: &Path,
        allow: Vec<String>,
        report: Option<&Readiness>,
        write: bool,
        out: &mut impl Write,
    ) -> anyhow::Result<ExitCode> {
        self.router.ipv6 = report.is_none_or(|report| !report.lacks_ipv6);
        self.keep(self.unfinished.answers.is_new);
        let Self { router, place, unfinished, prompt, .. } = self;
        let section = Section { router: &router, password: place, allow };
        let allow = section.allow_line().map(|line| line + "\n").unwrap_or_default();
        writeln!(out, "For {}:\n\n{allow}{}", config.display(), section.text())?;
        out.flush()?;
        let admitted = report.is_none_or(Readiness::admitted);
        let name = &router.name;
        if write && !admitted {
            bail!(
                "the router did not let us in, so nothing is written; mend that, and run the command again"
            );
        }
        if write
            || prompt
                .agrees(&format!("Append it to {}?", config.display()), admitted && prompt.is_somebody())?
        {
            append(&section, config, prompt, &unfinished)?;
            writeln!(out, "Appended to {}.", config.display())?;
            // Whatever comes of that, the walk itself is done.
            unfinished.done();
            reload::after_adding(name, config, prompt, out)?;
        } else if let PasswordPlace::New(_) = &section.password {
            let file = section.password_file();
            writeln!(
                out,
                "Its password belongs into {} beside it, readable for its owner alone.",
                file.display()
            )?;
        }
        // Appended, or deliberately not: there is nothing to go on with.
        unfinished.done();
        if report.is_none() {
            writeln!(
                out,
                "Once the user is there, `atalaya-enforcer router check {name}` tells what else is missing."
            )?;
        }
        let faulty = report.is_some_and(|report| report.worst() == Grade::Fault);
        Ok(if faulty { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Appends the section, and tries again while somebody mends what is in the way. What cannot be written can be pasted.
fn append(
    section: &Section<'_>,
    config: &Path,
    prompt: Prompt,
    unfinished: &Unfinished,
) -> anyhow::Result<()> {
    loop {
        let Err(error) = section.append_to(config) else { return Ok(()) };
        if prompt.is_somebody() {
            eprintln!("{error:#}");
            if prompt.agrees("Try again?", true)? {
                continue;
            }
        }
        let password = match &section.password {
            PasswordPlace::New(password) if unfinished.answers.is_new && !unfinished.is_kept() => format!(
                ", and its password, which is `{}`, into {} beside it, readable for its owner alone",
                password.expose(),
                section.password_file().display()
            ),
            PasswordPlace::New(_) => {
                format!(", and its password into {} beside it", section.password_file().display())
            }
            PasswordPlace::Kept(_) => String::new(),
        };
        return Err(error.context(format!(
            "the section above is not in {}: run the command again once that is mended, or paste it there yourself{password}",
            config.display()
        )));
    }
}

/// What was answered to a walk that was broken off, where somebody wants to go on with it.
fn earlier(unfinished: &Unfinished, prompt: Prompt, taken: &[Name]) -> anyhow::Result<Answers> {
    let unfinished =
        unfinished.earlier().filter(|answers| !answers.name.iter().any(|name| taken.contains(name)));
    let Some(answers) = unfinished.filter(|_| prompt.is_somebody()) else { return Ok(Answers::default()) };
    let name = answers.name.as_ref().map(Name::as_str).unwrap_or_default();
    let address = answers.address.as_deref().unwrap_or("no address yet");
    let question =
        format!("Router {name} ({address}) was begun before and not finished. Go on with those answers?");
    Ok(if prompt.agrees(&question, true)? { answers } else { Answers::default() })
}

/// The first line of a file, or of standard input.
pub fn read_password(file: &Path) -> anyhow::Result<String> {
    let text = if file.as_os_str() == "-" {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
        line
    } else {
        std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the password from {}", file.display()))?
    };
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// A password of 144 random bits, in characters that need no quotes anywhere.
pub fn new_password() -> anyhow::Result<String> {
    let mut bytes = [0; 18];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    Ok(data_encoding::BASE64URL_NOPAD.encode(&bytes))
}
