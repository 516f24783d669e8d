//! What is found at the door: whether the router can be reached, who it is, and whether it lets us in.

use std::net::SocketAddr;

use super::command::Remedy;
use super::facts::{Facts, Page};
use super::{Finding, Grade, command};
use crate::router::RouterConfig;
use crate::router::session::SessionError;

pub(super) fn examine(config: &RouterConfig, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![reach(config, facts)];
    for (address, tried) in &facts.addresses {
        if let Err(why) = tried
            && facts.addresses.iter().any(|(_, tried)| tried.is_ok())
        {
            findings.push(unreachable_one(*address, why));
        }
    }
    findings.extend(certificate(config, facts));
    findings.extend(login(config, facts));
    findings
}

fn reach(config: &RouterConfig, facts: &Facts) -> Finding {
    match &facts.entry {
        Some(error) if is_unreached(error) => {
            Finding::new("reach", Grade::Fault, format!("{}: {error}", config.address))
        }
        _ => {
            let trip = facts.round_trip.map_or_else(String::new, |trip| {
                format!(" and answers in {:.1} ms", trip.as_secs_f64() * 1e3)
            });
            Finding::good("reach", format!("{} takes connections{trip}", config.address))
        }
    }
}

fn unreachable_one(address: SocketAddr, why: &str) -> Finding {
    let says = format!(
        "the name stands for {address} too, which does not answer ({why}): the enforcer goes by the others, but loses time"
    );
    Finding::new("reach", Grade::Warning, says)
}

fn certificate(config: &RouterConfig, facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "certificate";
    match &facts.entry {
        Some(SessionError::WrongCertificate { presented, .. }) => {
            let error = facts.entry.as_ref().map(ToString::to_string).unwrap_or_default();
            let says = format!(
                "{error}. Compare it with `/certificate print detail` at the router itself; to pin it: fingerprint = \"{presented}\""
            );
            return Some(Finding::new(CHECK, Grade::Fault, says));
        }
        Some(error @ (SessionError::Tls(_) | SessionError::TlsClosed(_) | SessionError::TlsDeadline(_))) => {
            let fault = Finding::new(CHECK, Grade::Fault, error.to_string());
            return Some(fault.mended_by(make_certificate(config, facts)));
        }
        Some(error @ SessionError::SpeaksPlain(_)) => {
            return Some(Finding::new(CHECK, Grade::Fault, error.to_string()));
        }
        Some(error) if is_unreached(error) => return None,
        _ => {}
    }
    if config.tls.is_some() {
        let plain = facts.service("api").is_some_and(|api| !api.disabled);
        let more = if plain {
            "; the plain API is on too: where nothing else uses it, turn it off (/ip/service set api disabled=yes)"
        } else {
            ""
        };
        return Some(Finding::good(CHECK, format!("the router presents the pinned certificate{more}")));
    }
    let unencrypted = "the password crosses the network unencrypted";
    let warning = |says: String| Finding::new(CHECK, Grade::Warning, format!("{unencrypted}: {says}"));
    let Some((port, presented)) = &facts.presented else {
        if facts.entry.is_some() {
            // Nothing could be read that would tell.
            return None;
        }
        return Some(match facts.service("api-ssl") {
            Some(_) => warning(format!("api-ssl is off; {THEN}")).mended_by(make_certificate(config, facts)),
            None => Finding::new(
                CHECK,
                Grade::Unclear,
                format!(
                    "{unencrypted}, and whether api-ssl is on cannot be told (/ip/service: {}): look with `/ip/service print`",
                    facts.services.silence()
                ),
            ),
        });
    };
    Some(match presented {
        Ok(presented) => {
            let shown = facts.certificates.shown().map_or(&[][..], Vec::as_slice);
            let name = facts.service("api-ssl").and_then(|service| service.certificate.as_ref());
            let known = shown.iter().find(|one| Some(&one.name) == name).and_then(|one| one.fingerprint);
            match known {
                Some(known) if known != *presented => Finding::new(
                    CHECK,
                    Grade::Fault,
                    format!(
                        "api-ssl presented the certificate {presented}, but the router says that its own is {known}: someone stands between, or the port leads to another router; pin neither before that is clear"
                    ),
                ),
                Some(_) => warning(format!(
                    "api-ssl presents the certificate that /certificate shows too; pin it with port = {port}, fingerprint = \"{presented}\", {DISABLE}"
                )),
                None => warning(format!(
                    "api-ssl presents a certificate; if `/certificate print detail` at the router shows the same, pin it with port = {port}, fingerprint = \"{presented}\", {DISABLE}"
                )),
            }
        }
        Err(why) => {
            let known = facts.service("api-ssl");
            let says = match known {
                Some(service) if service.certificate.is_none() => {
                    format!("api-ssl is on, but has no certificate; {THEN}")
                }
                Some(_) => format!("api-ssl presents no certificate ({why}); {THEN}"),
                None => format!("api-ssl does not answer ({why}); {THEN}"),
            };
            warning(says).mended_by(make_certificate(config, facts))
        }
    })
}

/// What is to be done once api-ssl has its certificate.
const THEN: &str = "give it a certificate, check again, and pin what it presents";

/// And once that is pinned. No command to be pasted: done too early it would lock the enforcer out.
const DISABLE: &str = "and only then turn the plain API off (/ip/service set api disabled=yes)";

/// The commands for a certificate, without those for what is there already.
fn make_certificate(config: &RouterConfig, facts: &Facts) -> Vec<Remedy> {
    let certificates = facts.certificates.shown().map_or(&[][..], Vec::as_slice);
    let in_use = facts.service("api-ssl").and_then(|service| service.certificate.as_deref());
    if let Some(name) = in_use {
        return vec![command::enable_api_ssl(name)];
    }
    let enable = command::enable_api_ssl("api");
    match certificates.iter().find(|certificate| certificate.name == "api") {
        Some(certificate) if certificate.fingerprint.is_some() => vec![enable],
        Some(_) => vec![command::sign_certificate(), enable],
        None => {
            vec![command::add_certificate(&config.address.host), command::sign_certificate(), enable]
        }
    }
}

fn login(config: &RouterConfig, facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "login";
    let Some(error) = &facts.entry else {
        return Some(Finding::good(CHECK, format!("`{}` may log in", config.user)));
    };
    let fault = |says: String| Finding::new(CHECK, Grade::Fault, says);
    Some(match error {
        SessionError::ChallengeLogin => Finding::new("version", Grade::Fault, error.to_string()),
        SessionError::Login { reason, .. } if reason.starts_with("not enough permissions") => {
            fault(format!("`{}` may not use the API: its group lacks the policy api", config.user))
                .mended_by(grant(config, facts))
        }
        SessionError::Login { user, reason } => fault(format!(
            "the router refused the login of `{user}`: {reason}. `/user print` at the router shows whether the user is there; if it is, give it the configured password (/user set {} password=…), and if not, `atalaya-enforcer router add` prints the commands that make it",
            command::word(user)
        )),
        SessionError::Closed | SessionError::Io(_) => fault(format!(
            "{error} before the login: `/ip/service print detail` at the router shows from which addresses the service may be used, and how many sessions it takes"
        )),
        error if is_unreached(error) => return None,
        SessionError::WrongCertificate { .. }
        | SessionError::Tls(_)
        | SessionError::TlsClosed(_)
        | SessionError::TlsDeadline(_)
        | SessionError::SpeaksPlain(_) => return None,
        error => fault(error.to_string()),
    })
}

/// The commands that give the user what it needs.
pub(super) fn grant(config: &RouterConfig, facts: &Facts) -> Vec<Remedy> {
    let here = matches!(&facts.groups, Page::Shown(groups) if groups.iter().any(|group| group.name == command::GROUP));
    let group = if here { command::set_group() } else { command::add_group() };
    let moved = !matches!(&facts.user, Page::Shown(Some(user)) if user.group == command::GROUP);
    std::iter::once(group).chain(moved.then(|| command::move_user(&config.user))).collect()
}

/// Whether nobody was met at all.
pub(super) fn is_unreached(error: &SessionError) -> bool {
    use SessionError::{Connect, ConnectDeadline, Resolve};
    matches!(error, Resolve { .. } | Connect { .. } | ConnectDeadline(_))
}
