//! What the enforcer's user may do, by what the router says of it and by what it could do.

use super::facts::{Facts, WriteTest};
use super::{Finding, Grade, command, entry};
use crate::router::RouterConfig;
use crate::router::sentence::TrapMeaning;
use atalaya_program::count::counted;

pub(super) fn examine(config: &RouterConfig, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![policies(config, facts), write(config, facts)];
    findings.extend(access(config, facts));
    findings.extend(sessions(config, facts));
    findings
}

fn policies(config: &RouterConfig, facts: &Facts) -> Finding {
    const CHECK: &str = "policies";
    let unclear = |why: String| {
        let says = format!(
            "what `{}` may do cannot be told ({why}): look with `/user print` and `/user/group print`; it needs {} and no more",
            config.user,
            command::POLICIES.join(",")
        );
        Finding::new(CHECK, Grade::Unclear, says)
    };
    let user = match facts.user.shown() {
        Some(Some(user)) => user,
        Some(None) => return unclear("it is no user of the router's own, but of RADIUS perhaps".to_owned()),
        None => return unclear(format!("/user: {}", facts.user.silence())),
    };
    let Some(groups) = facts.groups.shown() else {
        return unclear(format!("/user/group: {}", facts.groups.silence()));
    };
    let Some(group) = groups.iter().find(|group| group.name == user.group) else {
        return unclear(format!("its group {} is not shown", user.group));
    };
    let has = |policy: &str| group.policies.iter().any(|granted| granted == policy);
    let missing: Vec<&str> = command::POLICIES.into_iter().filter(|policy| !has(policy)).collect();
    let more: Vec<&str> = group
        .policies
        .iter()
        .map(String::as_str)
        .filter(|policy| !command::POLICIES.contains(policy))
        .collect();
    if !missing.is_empty() {
        let says =
            format!("`{}` is of group {}, which lacks {}", config.user, group.name, missing.join(", "));
        return Finding::new(CHECK, Grade::Fault, says).mended_by(entry::grant(config, facts));
    }
    if !more.is_empty() {
        let says = format!(
            "`{}` is of group {} and may do more than it needs ({}): whoever learns its password may too",
            config.user,
            group.name,
            more.join(", ")
        );
        return Finding::new(CHECK, Grade::Warning, says).mended_by(entry::grant(config, facts));
    }
    Finding::good(
        CHECK,
        format!("`{}` has the policies {} and no more", config.user, command::POLICIES.join(", ")),
    )
}

fn write(config: &RouterConfig, facts: &Facts) -> Finding {
    const CHECK: &str = "write";
    match &facts.write {
        WriteTest::Passed => Finding::good(
            CHECK,
            "an entry could be added, was held, and could be changed and removed (list atalaya-check)",
        ),
        WriteTest::Vanished => Finding::new(
            CHECK,
            Grade::Fault,
            "an entry was added to list atalaya-check and was not there a moment later: something on the router removes entries, a script or another enforcer",
        ),
        WriteTest::Skipped => {
            Finding::new(CHECK, Grade::Unclear, "whether lists can be changed was not tried (--read-only)")
        }
        WriteTest::Unfinished => Finding::new(
            CHECK,
            Grade::Unclear,
            "whether lists can be changed was not seen: the session ended before",
        ),
        WriteTest::Failed { step, trap } if trap.meaning == TrapMeaning::Permission => Finding::new(
            CHECK,
            Grade::Fault,
            format!("`{}` may not change the address lists: {step} was refused ({trap})", config.user),
        )
        .mended_by(entry::grant(config, facts)),
        WriteTest::Failed { step, trap } => Finding::new(
            CHECK,
            Grade::Fault,
            format!(
                "the address list cannot be changed: {step} was refused ({trap}); its memory or its disk may be full"
            ),
        ),
    }
}

/// From where the user and the service may be used. Nothing is offered for pasting: behind an address
/// translation the router sees another address of ours, and a wrong one locks the enforcer out.
fn access(config: &RouterConfig, facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "access";
    let name = if config.tls.is_some() { "api-ssl" } else { "api" };
    let user = facts.user.shown().and_then(|user| user.as_ref()).map(|user| user.address.as_str());
    let service = facts.service(name).and_then(|service| service.access.as_ref());
    let limits: Vec<String> =
        [("the user", user), ("the service", service.map(|access| access.from.as_str()))]
            .into_iter()
            .filter_map(|(what, limit)| {
                limit.filter(|limit| !limit.is_empty()).map(|limit| format!("{what} to {limit}"))
            })
            .collect();
    if !limits.is_empty() {
        return Some(Finding::good(CHECK, format!("limited: {}", limits.join(", "))));
    }
    let (Some(_), Some(access)) = (user, service) else { return None };
    let ours = facts.local.map_or_else(|| "ADDRESS".to_owned(), |local| local.to_string());
    Some(Finding::new(
        CHECK,
        Grade::Warning,
        format!(
            "the service {name} takes logins from anywhere that its firewall lets in: limit it to this host, `/ip/service set {name} {}={ours}`, where {ours} is the address that the router sees (`/user/active print`)",
            access.property
        ),
    ))
}

fn sessions(config: &RouterConfig, facts: &Facts) -> Option<Finding> {
    let name = if config.tls.is_some() { "api-ssl" } else { "api" };
    let most = facts.service(name)?.max_sessions?;
    // The enforcer's, this command's, and one that the router has not found dead yet.
    (most < 3).then(|| {
        Finding::new(
            "sessions",
            Grade::Warning,
            format!("the service {name} takes {} at once: after a broken connection the enforcer may find no place", counted(most, "session")),
        )
        .mended_by([command::set_max_sessions(name)])
    })
}
