//! Whether anything is dropped by the lists that the enforcer fills: what `status`, `status --check` and
//! `watch` say of routers whose rules do and do not, over real processes.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, START, Stage};
use routeros_sim::{Fault, Router};
use serde_json::Value;

/// How long a change on the router may take until it is seen, with the settings of [`OFTEN`].
const PATIENCE: Duration = Duration::from_secs(25);

/// Every router is read and reconciled as often as the configuration allows.
const OFTEN: &str = "reconcile = \"10s\"\n";

/// A simulated router as a process, at whose terminal a test can type.
struct Simulated {
    process: Process,
    address: SocketAddr,
}

/// An enforcer and its routers, and what `watch --json` says of them.
struct Site {
    stage: Stage,
    _enforcer: Process,
    watch: Process,
}

// === impl Simulated ===

impl Simulated {
    fn start(stage: &Stage, typed: &[&str], more: &[&str]) -> Result<Self> {
        let mut command = stage.router(typed);
        command.args(["--events", "none", "--control"]).args(more);
        let mut process = Process::start("a router", &mut command)?;
        let first = process.wait_for("listen", START, |line| line.starts_with("listening on "))?;
        let address = first.text.rsplit(' ').next().context("no address")?.parse()?;
        Ok(Self { process, address })
    }

    /// Types a command at the router's terminal.
    fn type_in(&mut self, line: &str) -> Result<()> {
        self.process.tell(line)?;
        self.process.wait_for(&format!("obey {line}"), START, |said| said == "done").map(drop)
    }
}

// === impl Site ===

impl Site {
    fn new(stage: Stage, routers: &[(&str, SocketAddr)], each: &str) -> Result<Self> {
        stage.write_enforcer_config(routers, "")?;
        let path = stage.folder().join("enforcer.toml");
        let text = std::fs::read_to_string(&path)?.replace("user = ", &format!("{each}user = "));
        std::fs::write(path, text)?;
        let enforcer = stage.start_enforcer()?;
        let watch = Process::start("watch", stage.enforcer().args(["watch", "--json"]))?;
        Ok(Self { stage, _enforcer: enforcer, watch })
    }

    /// Waits until `watch` shows a status such as this, and returns it.
    fn shows(&mut self, what: &str, mut is: impl FnMut(&Value) -> bool) -> Result<Value> {
        let status = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["status"].take());
        let line =
            self.watch.wait_for(what, PATIENCE, |line| status(line).is_some_and(|status| is(&status)))?;
        status(&line.text).context("no status")
    }

    /// Waits for a fault of this kind, and returns it.
    fn faulty(&mut self, kind: &str) -> Result<Value> {
        let find = |status: &Value| {
            status["faults"].as_array().into_iter().flatten().find(|fault| fault["kind"] == kind).cloned()
        };
        let status = self.shows(&format!("show a fault of kind {kind}"), |status| find(status).is_some())?;
        find(&status).context("no fault")
    }

    /// Waits until all is known and well, and sees that each command says so.
    fn is_well(&mut self) -> Result<()> {
        self.shows("be well", |status| status["faults"] == none() && status["looking"] == none())?;
        let (status, check) = (self.status()?, self.check()?);
        ensure!(status.contains("all is well") && check.status.success(), "{check:?}\n{status}");
        Ok(())
    }

    /// Sees that no command says that all is well; what `status` prints.
    fn is_not_well(&self) -> Result<String> {
        let (status, check) = (self.status()?, self.check()?);
        ensure!(check.status.code() == Some(1), "{check:?}");
        ensure!(!status.contains("all is well"), "{status}");
        Ok(status)
    }

    fn status(&self) -> Result<String> {
        output(self.stage.enforcer().arg("status"))
    }

    fn check(&self) -> Result<Output> {
        Ok(self.stage.enforcer().args(["status", "--check"]).output()?)
    }
}

fn none() -> Value {
    Value::Array(Vec::new())
}

/// The RouterOS commands among the lines of a screen.
fn commands(screen: &str) -> Vec<String> {
    screen.lines().map(str::trim).filter(|line| line.starts_with('/')).map(str::to_owned).collect()
}

#[test]
fn a_router_without_a_rule_is_a_fault_with_its_name_and_commands_and_well_once_they_are_typed() -> Result<()>
{
    let stage = Stage::of_this_test()?;
    let mut router = Simulated::start(&stage, &[], &[])?;
    let mut site = Site::new(stage, &[("edge", router.address)], OFTEN)?;
    output(site.stage.enforcer().args(["ban", "198.51.100.9"]))?;
    // Whenever it is asked, nothing says that all is well.
    site.is_not_well()?;
    let fault = site.faulty("not-dropped")?;
    ensure!(fault["name"] == "edge" && fault["since"].is_string(), "{fault}");
    let screen = site.is_not_well()?;
    ensure!(screen.contains("router edge for ") && screen.contains("no enabled rule"), "{screen}");
    let commands = commands(&screen);
    ensure!(commands.len() == 2 && fault["commands"] == Value::from(commands.clone()), "{screen}\n{fault}");
    let shown = output(site.stage.enforcer().args(["show", "198.51.100.9"]))?;
    ensure!(shown.contains("but drops nothing: no enabled rule"), "{shown}");
    for command in commands {
        router.type_in(&command)?;
    }
    site.is_well()
}

#[test]
fn a_disabled_rule_is_enabled_by_the_command_that_is_printed() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let disabled = RULES.map(|rule| format!("{rule} disabled=yes"));
    let mut router = Simulated::start(&stage, &[&disabled[0], RULES[1]], &[])?;
    let mut site = Site::new(stage, &[("edge", router.address)], OFTEN)?;
    let fault = site.faulty("not-dropped")?;
    let text = fault["text"].as_str().context("no text")?;
    ensure!(text.contains("IPv4") && text.contains("disabled") && !text.contains("IPv6"), "{text}");
    let screen = site.is_not_well()?;
    let [enable] = &commands(&screen)[..] else { anyhow::bail!("{screen}") };
    ensure!(enable.starts_with("/ip/firewall/raw enable "), "{enable}");
    router.type_in(enable)?;
    site.is_well()
}

#[test]
fn a_rule_for_ipv4_alone_leaves_ipv6_a_fault_unless_the_router_holds_no_ipv6() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let router = Simulated::start(&stage, &RULES[..1], &[])?;
    let other = Simulated::start(&stage, &RULES[..1], &[])?;
    let mut site = Site::new(stage, &[("both", router.address), ("four", other.address)], OFTEN)?;
    let status = site.shows("look at both", |status| status["looking"] == none())?;
    ensure!(status["faults"].as_array().is_some_and(|faults| faults.len() == 2), "{status:#}");
    let screen = site.is_not_well()?;
    ensure!(screen.contains("over IPv6: no enabled rule"), "{screen}");
    ensure!(commands(&screen).iter().all(|command| command.starts_with("/ipv6/")), "{screen}");

    let mut site = Site::new(Stage::of_this_test()?, &[("four", router.address)], "ipv6 = false\n")?;
    site.is_well()
}

#[test]
fn a_rule_that_is_removed_while_the_enforcer_runs_is_missed() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let mut router = Simulated::start(&stage, &RULES, &[])?;
    let mut site = Site::new(stage, &[("edge", router.address)], OFTEN)?;
    site.is_well()?;
    router.type_in("/ip/firewall/raw remove [find src-address-list=spammer]")?;
    let fault = site.faulty("not-dropped")?;
    ensure!(fault["text"].as_str().is_some_and(|text| text.contains("over IPv4")), "{fault}");
    site.is_not_well().map(drop)
}

#[test]
fn of_two_routers_the_one_without_a_rule_is_named() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let good = Simulated::start(&stage, &RULES, &[])?;
    let bare = Simulated::start(&stage, &[], &[])?;
    let mut site = Site::new(stage, &[("good", good.address), ("bare", bare.address)], OFTEN)?;
    site.shows("look at both", |status| status["looking"] == none())?;
    let screen = site.is_not_well()?;
    ensure!(screen.contains("1 fault\n") && screen.contains("router bare for"), "{screen}");
    ensure!(!screen.contains("router good"), "{screen}");
    Ok(())
}

#[test]
fn rules_that_may_not_be_read_are_a_fault_of_a_lower_kind() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let refused = ["/ip/firewall/raw", "/ip/firewall/filter", "/ipv6/firewall/raw", "/ipv6/firewall/filter"];
    let refused: Vec<&str> = refused.iter().flat_map(|path| ["--refuse", path]).collect();
    let router = Simulated::start(&stage, &RULES, &refused)?;
    let mut site = Site::new(stage, &[("edge", router.address)], OFTEN)?;
    let fault = site.faulty("rules-unclear")?;
    ensure!(fault["name"] == "edge", "{fault}");
    ensure!(fault["text"].as_str().is_some_and(|text| text.contains("the user may not read")), "{fault}");
    // Bans go on.
    let banned = output(site.stage.enforcer().args(["ban", "198.51.100.9"]))?;
    ensure!(banned.contains("on router edge"), "{banned}");
    site.is_not_well().map(drop)
}

#[test]
fn a_router_that_is_only_read_is_looked_at_too() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let router = Simulated::start(&stage, &[], &[])?;
    let mut site = Site::new(stage, &[("edge", router.address)], "read_only = true\n")?;
    let fault = site.faulty("not-dropped")?;
    ensure!(fault["name"] == "edge", "{fault}");
    site.is_not_well().map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_rules_were_read_nobody_says_that_all_is_well() -> Result<()> {
    let [raw, ipv6] = RULES;
    let router = Router::builder().user(ROUTER_USER).password(ROUTER_PASSWORD).terminal(raw).terminal(ipv6);
    let router = router.start().await?;
    router.inject(Fault::Stall, "/ip/firewall/raw/print", 0);
    let mut site = Site::new(Stage::of_this_test()?, &[("edge", router.address())], OFTEN)?;
    let status = site.shows("look at it", |status| status["routers"][0]["state"]["is"] == "connected")?;
    ensure!(status["looking"] == Value::from(["edge"]) && status["faults"] == none(), "{status:#}");
    let screen = site.status()?;
    ensure!(screen.contains("looking at router edge") && !screen.contains("all is well"), "{screen}");
    router.reboot().await;
    site.is_well()
}
