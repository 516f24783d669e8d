//! Carries out remedies over the API, logged in as the router's administrator. Each is looked for before it is done, so
//! that doing it twice changes nothing the second time.

use std::net::{IpAddr, SocketAddr};

use atalaya_wire::Fingerprint;
use ipnet::IpNet;
use mikrotik_rs::CommandBuilder;
use mikrotik_rs::proto::command::Cmd;
use tokio::time::timeout;

use super::command::{ItemName, Remedy, TypedValue};
use super::facts::{Certificate, IpService};
use crate::prefixes::Family;
use crate::router::RouterConfig;
use crate::router::endpoint::{API_PORT, API_TLS_PORT};
use crate::router::sentence::{Row, Trap, TrapMeaning};
use crate::router::session::{CommandAnswer, Session, SessionError};

/// The most rows of one print that are kept.
const MOST_ROWS: usize = 2000;

/// A session with the rights to change the router's setup.
pub struct Administrator {
    session: Session<()>,
    user: String,
}

/// What became of a remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was done.
    Done,
    /// It was so already.
    WasThere,
}

/// Why a remedy was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The user's group lacks a policy.
    #[error(
        "`{user}` may not do that ({trap}): log in as somebody with the policies write and policy, as group full has them"
    )]
    Permission {
        /// Who was logged in.
        user: String,
        /// What the router said.
        trap: Trap,
    },
    /// The router refused it for another reason.
    #[error("the router refused it: {0}")]
    Refused(Trap),
    /// What is to be changed is gone.
    #[error("what it changes is not on the router any more; look again with `atalaya-enforcer router check`")]
    Missing,
    /// The session ended.
    #[error(transparent)]
    Session(#[from] SessionError),
}

// === impl Administrator ===

impl Administrator {
    /// Logs in, with the administrator's name and password in the configuration's place.
    pub async fn log_in(login: &RouterConfig) -> Result<Self, SessionError> {
        let connect = login.deadlines.connect;
        let port = if login.tls.is_some() { API_TLS_PORT } else { API_PORT };
        let resolved = timeout(connect, login.address.resolve(port)).await;
        let addresses: Vec<SocketAddr> = resolved
            .map_err(|_| SessionError::ConnectDeadline(connect))?
            .map_err(|source| SessionError::Resolve { host: login.address.host.clone(), source })?;
        let mut session = Session::open(login, &addresses).await?;
        // A small board takes its time for a key, and for a long list.
        session.set_idle(login.deadlines.scan);
        Ok(Self { session, user: login.user.clone() })
    }

    /// Does it, unless it was done already.
    pub async fn apply(&mut self, remedy: &Remedy) -> Result<Applied, ApplyError> {
        let Some(ids) = self.concerned(remedy).await? else { return Ok(Applied::WasThere) };
        let path = format!("{}/{}", remedy.directory, remedy.verb);
        let mut command = self.session.command(&path);
        if !ids.is_empty() {
            // The terminal's `move` names its rules `numbers`.
            let name = if remedy.verb == "move" { "numbers" } else { ".id" };
            command = command.attribute(name, Some(&ids.join(",")));
        }
        for (name, value) in &remedy.properties {
            command = command.attribute(name, Some(value.text()));
        }
        self.carry_out(command).await?;
        Ok(Applied::Done)
    }

    /// The port of api-ssl, and the SHA-256 of its certificate as the router itself says it; `None` where it is off or has
    /// none.
    pub async fn api_ssl(&mut self) -> Result<Option<(u16, Fingerprint)>, ApplyError> {
        let services = self.print("/ip/service", &[("name", "api-ssl")]).await?;
        let Some(service) = services.iter().filter_map(IpService::read).find(|service| !service.disabled)
        else {
            return Ok(None);
        };
        let (Some(port), Some(name)) = (service.port, service.certificate) else { return Ok(None) };
        let certificates = self.print("/certificate", &[("name", &name)]).await?;
        let known = certificates.first().and_then(|row| Certificate::read(row).fingerprint);
        Ok(known.map(|known| (port, known)))
    }

    /// The first enabled entry of a list that one of the addresses is in.
    pub async fn entry_over(
        &mut self,
        family: Family,
        list: &str,
        addresses: &[IpAddr],
    ) -> Result<Option<(IpNet, IpAddr)>, ApplyError> {
        let print = self.session.command(family.print());
        let print = print.attribute(".proplist", Some("address,disabled")).query_equal("list", list);
        self.session.send(print, ());
        let mut over = None;
        loop {
            match self.session.answer().await? {
                CommandAnswer::Row((), row) if over.is_none() && !is_yes(&row, "disabled") => {
                    over = network(&row).and_then(|network| {
                        addresses.iter().find(|address| network.contains(*address)).map(|at| (network, *at))
                    });
                }
                CommandAnswer::Row(..) => {}
                CommandAnswer::Done(..) => return Ok(over),
                CommandAnswer::Trap((), trap) => return Err(self.refused(trap)),
            }
        }
    }

    /// The ids of what the remedy changes, none for something new; `None` where all is as it makes it.
    async fn concerned(&mut self, remedy: &Remedy) -> Result<Option<Vec<String>>, ApplyError> {
        let rows = match &remedy.item {
            None if remedy.verb == "add" => {
                // A rule is known by what it does, all else by its name.
                let asked: Vec<(&str, &str)> = ["name", "chain", "action", "src-address-list", "comment"]
                    .into_iter()
                    .filter_map(|name| Some((name, remedy.value(name)?)))
                    .collect();
                let rows = self.print(remedy.directory, &asked).await?;
                let there = rows.iter().any(|row| !is_yes(row, "disabled") && !is_yes(row, "invalid"));
                return Ok((!there).then(Vec::new));
            }
            None => {
                let rows = self.print(remedy.directory, &[]).await?;
                let so = rows.first().is_some_and(|row| is_so(row, remedy));
                return Ok((!so).then(Vec::new));
            }
            Some(ItemName::Id(id)) => return Ok(Some(vec![id.to_string()])),
            Some(ItemName::Named(name)) => self.print(remedy.directory, &[("name", name)]).await?,
            Some(ItemName::Found(properties)) => {
                let asked: Vec<_> = properties.iter().map(|(name, value)| (*name, value.as_str())).collect();
                self.print(remedy.directory, &asked).await?
            }
        };
        if rows.is_empty() {
            return Err(ApplyError::Missing);
        }
        let done = |row: &&Row| match remedy.verb {
            "enable" => !is_yes(row, "disabled"),
            "sign" => row.text("fingerprint").is_some_and(|text| !text.is_empty()),
            _ => is_so(row, remedy),
        };
        let left: Vec<String> =
            rows.iter().filter(|row| !done(row)).filter_map(|row| row.shown(".id")).collect();
        Ok(Some(left).filter(|left| !left.is_empty()))
    }

    async fn print(&mut self, directory: &str, asked: &[(&str, &str)]) -> Result<Vec<Row>, ApplyError> {
        let mut command = self.session.command(&format!("{directory}/print"));
        for (name, value) in asked {
            command = command.query_equal(name, value);
        }
        self.carry_out(command).await
    }

    async fn carry_out(&mut self, command: CommandBuilder<Cmd>) -> Result<Vec<Row>, ApplyError> {
        self.session.send(command, ());
        let mut rows = Vec::new();
        loop {
            match self.session.answer().await? {
                CommandAnswer::Row((), row) if rows.len() < MOST_ROWS => rows.push(row),
                CommandAnswer::Row(..) => {}
                CommandAnswer::Done(..) => return Ok(rows),
                CommandAnswer::Trap((), trap) => return Err(self.refused(trap)),
            }
        }
    }

    fn refused(&self, trap: Trap) -> ApplyError {
        match trap.meaning {
            TrapMeaning::Permission => ApplyError::Permission { user: self.user.clone(), trap },
            _ => ApplyError::Refused(trap),
        }
    }
}

/// Whether a row has all that the remedy sets. What a password is, no router says.
fn is_so(row: &Row, remedy: &Remedy) -> bool {
    remedy.properties.iter().all(|(name, value)| match (value, row.text(name)) {
        (TypedValue::Secret(_), _) | (_, None) => false,
        (value, Some(shown)) if *name == "policy" => granted(shown) == granted(value.text()),
        (value, Some(shown)) => shown == value.text() || truth(shown) == Some(value.text()),
    })
}

/// What of a group's policies is not denied, in order.
fn granted(policies: &str) -> Vec<&str> {
    let mut granted: Vec<&str> = policies.split(',').filter(|policy| !policy.starts_with('!')).collect();
    granted.sort_unstable();
    granted
}

/// The API's form of a flag in the terminal's.
fn truth(shown: &str) -> Option<&'static str> {
    match shown {
        "true" => Some("yes"),
        "false" => Some("no"),
        _ => None,
    }
}

fn is_yes(row: &Row, name: &str) -> bool {
    matches!(row.text(name), Some("true" | "yes"))
}

fn network(row: &Row) -> Option<IpNet> {
    let text = row.text("address")?;
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
