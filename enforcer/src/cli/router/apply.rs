//! `router add --apply`: what would be pasted into the router's terminal is done over the API, once it was shown and
//! confirmed. The administrator's password is used for this once and kept nowhere.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::router::check::apply::{Administrator, Applied};
use atalaya_enforcer::router::check::facts::Page;
use atalaya_enforcer::router::check::{Facts, Finding, Grade, Remedy, command, examine, visit_as};
use atalaya_enforcer::router::{Password, RouterConfig};
use atalaya_wire::Fingerprint;

use super::add::{NewRouter, new_password, read_password};
use super::own;
use super::prompt::Prompt;
use super::section::PasswordPlace;
use crate::cli::paint::{Paint, Tone};

/// How the router is to be changed.
#[derive(clap::Args)]
pub struct Application {
    /// Do on the router what is printed, once it is confirmed: make the user, the certificate and the rules. It needs
    /// an administrator's name and password for this once; they are not kept
    #[arg(long, conflicts_with = "read_only")]
    apply: bool,
    /// Do it without asking
    #[arg(long, requires = "apply")]
    yes: bool,
    /// The administrator of the router that --apply logs in as, of group full or the like
    #[arg(long, value_name = "NAME", requires = "apply")]
    admin: Option<String>,
    /// A file with the administrator's password; - for a line of standard input, after that of --password-file
    #[arg(long, value_name = "FILE", requires = "apply")]
    admin_password_file: Option<PathBuf>,
}

/// How a router is changed that is on its way into the configuration.
pub struct Undertaking<'a> {
    walk: &'a mut NewRouter,
    /// As the router's section will be, but for the administrator's name and password.
    login: RouterConfig,
    yes: bool,
}

// === impl Application ===

impl Application {
    /// Whether it was asked for.
    pub fn is_wanted(&self) -> bool {
        self.apply
    }

    /// Does on the router what is missing. `given` is the password of its user for bans, where it has one already or
    /// shall have this one.
    pub fn run(
        self,
        walk: &mut NewRouter,
        given: Option<String>,
        config: &Path,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let prompt = walk.prompt;
        let admin: String = prompt.value(
            self.admin,
            "Administrator of the router, for this once",
            Some("admin"),
            "--admin",
        )?;
        if admin == walk.router.user {
            bail!(
                "`{admin}` cannot be the administrator and the user for bans at once, who may do less: give --user or --admin another name"
            );
        }
        let mut login = walk.router.clone();
        login.user.clone_from(&admin);
        if login.tls.is_none() {
            eprintln!("No TLS yet: the administrator's password crosses the network unencrypted.");
            if !self.yes && prompt.is_somebody() && !prompt.agrees("Go on?", false)? {
                bail!("nothing was changed");
            }
        }
        let mut password = match self.admin_password_file {
            Some(file) => Some(read_password(&file)?),
            None if prompt.is_somebody() => None,
            None => bail!("--admin-password-file is missing, and there is no terminal to ask at"),
        };
        let facts = loop {
            let typed = match password.take() {
                Some(password) => password,
                None => prompt.secret(&format!("Password of `{admin}`: "))?.unwrap_or_default(),
            };
            login.password = Password::new(typed);
            let clock = Clock::system();
            let facts = walk.runtime.block_on(visit_as(&walk.router, &login, &clock, false));
            match &facts.entry {
                None => break facts,
                Some(error) if prompt.is_somebody() => eprintln!("{error}"),
                Some(error) => bail!("{error}; nothing was changed"),
            }
        };
        let user = walk.choose_password(given, &facts)?;
        let mut undertaking = Undertaking { walk, login, yes: self.yes };
        undertaking.finish(user, &facts, config, out)
    }
}

// === impl Undertaking ===

impl Undertaking<'_> {
    /// Shows what is missing, and does it.
    fn finish(
        &mut self,
        user: Option<Remedy>,
        facts: &Facts,
        config: &Path,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let remedies = remedies(&examine(&self.walk.router, facts), user, facts);
        self.confirm(&remedies, config, out)?;
        let (of_tls, others): (Vec<Remedy>, Vec<Remedy>) = remedies.into_iter().partition(Remedy::is_of_tls);
        self.carry_out(&of_tls, facts, out)?;
        if self.login.tls.is_none() {
            self.pin()?;
        }
        self.carry_out(&others, facts, out)?;
        writeln!(out)?;
        out.flush()?;
        if self.yes {
            self.walk.prompt = Prompt::nobody();
        }
        Ok(())
    }

    fn confirm(&self, remedies: &[Remedy], config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let (name, admin) = (&self.walk.router.name, &self.login.user);
        if remedies.is_empty() {
            return Ok(writeln!(out, "\nNothing is to be changed on {name}.")?);
        }
        writeln!(out, "\nTo be done on {name} ({}) as {admin}, in this order:\n", self.login.address)?;
        for remedy in remedies {
            writeln!(out, "{remedy}")?;
        }
        writeln!(out, "\nThen the router is written to {}.", config.display())?;
        out.flush()?;
        if self.yes {
            return Ok(());
        }
        if !self.walk.prompt.is_somebody() {
            bail!("nothing was changed: there is no terminal to ask at; --yes does it without asking");
        }
        if !self.walk.prompt.agrees("Do it?", false)? {
            bail!("nothing was changed");
        }
        Ok(())
    }

    /// Does them one after the other, and tells what became of each.
    fn carry_out(&self, remedies: &[Remedy], facts: &Facts, out: &mut impl Write) -> anyhow::Result<()> {
        if remedies.is_empty() {
            return Ok(());
        }
        let paint = Paint::of_stdout();
        let NewRouter { runtime, router, .. } = &*self.walk;
        let mut session = runtime.block_on(Administrator::log_in(&self.login))?;
        let ours: Vec<IpAddr> = facts.local.into_iter().chain(own::logged_in_from()).collect();
        for remedy in remedies {
            let done = runtime.block_on(async {
                // A list of before may hold more than strangers.
                if let Some(family) = remedy.dropping() {
                    let over = session.entry_over(family, router.list(family), &ours).await?;
                    if let Some((network, address)) = over {
                        bail!(
                            "list {} holds {network}, and {address} is yours: the rule would cut you off. Remove that entry, or give the enforcer another list (`name` in [list])",
                            router.list(family)
                        );
                    }
                }
                Ok(session.apply(remedy).await?)
            });
            let (word, tone) = match &done {
                Ok(Applied::Done) => ("done", Tone::Good),
                Ok(Applied::WasThere) => ("was so", Tone::Good),
                Err(_) => ("FAILED", Tone::Bad),
            };
            writeln!(out, "  {}  {remedy}", paint.paint(tone, &format!("{word:<7}")))?;
            out.flush()?;
            done.with_context(|| {
                format!(
                    "{} {} was not done on {}. What was done before it stays, and bars and drops nothing by itself; mend this and run the command again: what is there is left as it is",
                    remedy.directory(),
                    remedy.verb(),
                    router.name
                )
            })?;
        }
        Ok(())
    }

    /// Goes on by TLS, so that the new password crosses the network encrypted, where api-ssl presents the certificate that
    /// the router itself says is its own.
    fn pin(&mut self) -> anyhow::Result<()> {
        let login = &self.login;
        let own = self.walk.runtime.block_on(async {
            let mut session = Administrator::log_in(login).await?;
            anyhow::Ok(session.api_ssl().await?)
        })?;
        let Some((port, own)) = own else { return Ok(()) };
        match self.walk.presented(port) {
            Ok(presented) if presented == own => {
                eprintln!(
                    "api-ssl presents the certificate that the router says is its own; it is pinned:\n  {own}"
                );
                self.walk.pin(own, port);
            }
            Ok(presented) => bail!(
                "api-ssl presents the certificate {presented}, but the router says that its own is {own}: someone stands between, or port {port} leads to another router"
            ),
            Err(why) => eprintln!("api-ssl presents no certificate yet ({why}): the plain API is used."),
        }
        (self.login.tls, self.login.address) = (self.walk.router.tls, self.walk.router.address.clone());
        Ok(())
    }
}

// === impl NewRouter ===

impl NewRouter {
    /// Settles the password of the user for bans: what is to be done for it on the router, which may have the user already.
    fn choose_password(&mut self, given: Option<String>, facts: &Facts) -> anyhow::Result<Option<Remedy>> {
        let user = self.router.user.clone();
        let is_there = matches!(&facts.user, Page::Shown(Some(_)));
        let typed = match given {
            None if is_there && self.prompt.is_somebody() => self.prompt.secret(&format!(
                "`{user}` is on the router already. Its password (Enter alone: give it a new one, which bars whoever uses it now): "
            ))?,
            None if is_there => bail!(
                "`{user}` is on the router already, and its password is not known: give it with --password-file, or another user with --user; nothing was changed"
            ),
            given => given,
        };
        let is_new = typed.is_none();
        let password = match typed {
            Some(password) => password,
            None => new_password()?,
        };
        self.set_password(&password);
        self.keep(is_new || !is_there);
        Ok(match (is_there, is_new) {
            (false, _) => Some(command::add_user(&user, &password)),
            (true, true) => Some(command::set_password(&user, &password)),
            (true, false) => None,
        })
    }

    /// From here on by TLS, with this certificate.
    pub fn pin(&mut self, fingerprint: Fingerprint, port: u16) {
        use atalaya_enforcer::router::endpoint::API_TLS_PORT;
        self.router.tls = Some(fingerprint);
        self.router.address.port = Some(port).filter(|port| *port != API_TLS_PORT);
        if let PasswordPlace::New(_) = &self.place {
            self.keep(self.unfinished.answers.is_new);
        }
    }
}

/// What mends the findings, each once: what makes TLS first, and the rules, which alone touch packets, last. `user` makes the
/// user, or changes its password.
fn remedies(findings: &[Finding], user: Option<Remedy>, facts: &Facts) -> Vec<Remedy> {
    let mut all: Vec<Remedy> = Vec::new();
    let mut users: Vec<Remedy> = Vec::new();
    if matches!(&facts.user, Page::Shown(None)) {
        let is_there = facts
            .groups
            .shown()
            .is_some_and(|groups| groups.iter().any(|group| group.name == command::GROUP));
        users.push(if is_there { command::set_group() } else { command::add_group() });
    }
    users.extend(user);
    for finding in findings {
        // Who may do more than it needs may be a person, whom that would lock out: `router check` tells of it.
        if finding.check == "policies" && finding.grade == Grade::Warning {
            continue;
        }
        if finding.check.ends_with("-rule") {
            all.append(&mut users);
        }
        all.extend(finding.commands.iter().cloned());
    }
    all.append(&mut users);
    let mut seen: Vec<String> = Vec::new();
    all.retain(|remedy| {
        let typed = remedy.typed();
        !seen.contains(&typed) && {
            seen.push(typed);
            true
        }
    });
    all
}
