//! What the enforcer makes of this host's own bans, and what is dropped for it: over restarts, `kill -9`, times
//! without an enforcer, and `unban`.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::sshd::Sshd;
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER};
use atalaya_enforcer::router::pin::Pin;
use atalaya_wire::{JoinToken, REPORTS_PATH};
use routeros_sim::{Family, Router};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{PATIENCE, SILENCE, Scene, Stream};

const LOGINS: &str = "[jail.ssh]\nsource = \"logins\"\nservices = [\"sshd\"]\n";

// === impl Scene ===

impl Scene {
    /// With an enforcer that runs and that the sensor has joined; `more` stands in the enforcer's configuration.
    fn joined(addresses: &[&str], router: Option<&Router>, more: &str) -> Result<(Self, Process)> {
        let scene = Self::new(addresses)?;
        let router = router.map(|router| ("edge", router.address()));
        scene.stage.write_enforcer_config(router.as_slice(), more)?;
        let enforcer = scene.stage.start_enforcer()?;
        scene.configure("", "")?;
        scene.stage.join(&scene.stage.enrol("web-1")?)?;
        Ok((scene, enforcer))
    }

    fn enforce(&self, arguments: &[&str]) -> Result<String> {
        output(self.stage.enforcer().args(arguments))
    }

    /// The jail on the log, as the sensor shows it.
    fn jail(&self) -> Result<Value> {
        let status = self.status()?;
        let jails = status["jails"].as_array().context("no jails")?;
        jails.iter().find(|jail| jail["name"] == "web").cloned().context("no jail")
    }

    /// Waits until the sensor knows that the enforcer bans an address for it.
    fn wait_for_ruling(&self, address: &str) -> Result<()> {
        self.wait_for(&format!("{address} is never said to be banned"), || {
            let jail = self.jail()?;
            let banned = jail["banned"].as_array().context("no bans")?;
            Ok(banned.iter().any(|ban| ban["address"] == address && ban["net"].is_string()))
        })
    }

    /// Waits until the sensor has all of the fleet's bans.
    fn wait_for_fleet(&self) -> Result<()> {
        self.wait_for("the fleet's bans never came", || {
            Ok(self.status()?["local_drop"]["fleet"]["whole"] == true)
        })
    }

    fn wait_for(&self, otherwise: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !is_so()? {
            ensure!(Instant::now() < until, "{otherwise}: {:#}", self.status()?);
        }
        Ok(())
    }

    /// Lifts a ban at the sensor; whether it succeeded, and what it said.
    fn unban(&self, address: &str) -> Result<(bool, String)> {
        let done = self.stage.sensor().args(["unban", address]).output()?;
        let said = [done.stdout, done.stderr].concat();
        Ok((done.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// Another sensor tells the enforcer that somebody logged in successfully from there.
    fn report_login(&self, runtime: &Runtime, address: &str) -> Result<()> {
        let token: JoinToken = self.stage.enrol("web-2")?.parse()?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(Pin::new(token.fingerprint).client()?)
            .no_proxy()
            .build()?;
        let now = jiff::Timestamp::now();
        let login = json!({"address": address, "service": "sshd", "account": "ann", "time": now});
        let report = json!({"version": 1, "outbox": "test", "sequence": 1, "sent": now, "logins": [login]});
        let request = client
            .post(format!("{}{REPORTS_PATH}", self.stage.url()))
            .basic_auth(&token.sensor, Some(token.secret.expose()))
            .json(&report);
        runtime.block_on(async { request.send().await?.error_for_status() })?;
        Ok(())
    }
}

fn ruled_out(address: &str) -> impl Fn(&str) -> bool {
    let address = format!("\"address\":\"{address}\"");
    move |line| line.contains("not banned by the enforcer") && line.contains(&address)
}

#[test]
fn who_logged_in_well_passes_after_restarts_with_and_without_an_enforcer_and_attackers_do_not() -> Result<()>
{
    let [colleague, friend, attacker] = ["10.216.20.2", "10.216.20.3", "10.216.20.4"];
    let runtime = Runtime::new()?;
    let router = runtime.block_on(Router::builder().user(ROUTER_USER).password(ROUTER_PASSWORD).start())?;
    let (scene, mut enforcer) = Scene::joined(&[colleague, friend, attacker], Some(&router), "")?;
    let sshd = Sshd::start(&scene.namespace)?;
    let sensor = scene.start("", LOGINS)?;
    // One was seen to log in here, the other at another host.
    sshd.log_in(&scene.namespace, colleague.parse()?, 0)?;
    scene.report_login(&runtime, friend)?;
    for address in [colleague, friend] {
        scene.wait_for("the login is never known", || {
            let known: Value = serde_json::from_str(&scene.enforce(&["show", address, "--json"])?)?;
            Ok(known["protected"].is_object())
        })?;
    }
    let streams: Vec<Stream> =
        [colleague, friend, attacker].iter().map(|from| scene.stream(from)).collect::<Result<_>>()?;
    scene.fail(colleague)?;
    enforcer.wait_for("protect the colleague", PATIENCE, |line| {
        line.contains("\"message\":\"not banned: protected by ")
    })?;
    streams[0].flows()?;
    scene.fail(attacker)?;
    streams[2].ends()?;
    runtime.block_on(router.wait_for(|entries| entries.len() == 1, PATIENCE))?;
    ensure!(router.entries(Family::V4)[0].address == attacker, "{:?}", router.entries(Family::V4));
    streams[2].drain()?;

    sensor.terminate(PATIENCE)?;
    let mut sensor = scene.start("", LOGINS)?;
    streams[0].flows().context("the colleague is cut off by a restart")?;
    // It goes on being so: whatever is loaded is loaded.
    scene.wait_for_fleet()?;
    streams[0].flows().context("the colleague is cut off after a restart")?;

    // This one the sensor does not know: it is dropped, and let through at the enforcer's word. Killed at once, and
    // started where no enforcer answers, the sensor knows that word.
    scene.fail(friend)?;
    sensor.wait_for("hear of the refusal", PATIENCE, ruled_out(friend))?;
    sensor.kill()?;
    enforcer.kill()?;
    streams[1].flows().context("the friend is not let through")?;
    let sensor = scene.start("", LOGINS)?;
    streams[1].flows().context("the friend is cut off by a restart")?;
    streams[0].flows()?;
    let jail = scene.jail()?;
    ensure!(
        jail["banned"].as_array().map(Vec::len) == Some(1) && jail["banned"][0]["address"] == attacker,
        "{jail:#}"
    );
    let refused: Vec<&Value> = jail["refused"].as_array().context("none refused")?.iter().collect();
    ensure!(refused.len() == 2 && refused.iter().all(|one| one["grounds"] == "protected"), "{jail:#}");
    ensure!(scene.command(&["status", "web"])?.contains("someone logged in successfully from there lately"));
    ensure!(streams[2].drain()? == 0, "a packet of the attacker passed");
    ensure!(!streams[2].comes_within(SILENCE)?, "the attacker passes");

    let _enforcer = scene.stage.start_enforcer()?;
    scene.wait_for_fleet()?;
    let (done, said) = scene.unban(friend)?;
    ensure!(
        !done && said.contains("is not banned by any jail here, and it is not dropped on this host"),
        "{said}"
    );
    ensure!(said.contains("for jail web: someone logged in successfully from there lately"), "{said}");
    ensure!(!streams[2].comes_within(SILENCE)?, "the attacker passes");
    let (done, said) = scene.unban(attacker)?;
    ensure!(done && said.contains(&format!("{attacker} is unbanned (jail web)")), "{said}");
    streams[2].flows()?;
    runtime.block_on(router.wait_for(<[_]>::is_empty, PATIENCE))?;
    sensor.terminate(PATIENCE)?;
    Ok(())
}

#[test]
fn what_the_enforcer_lifted_while_the_sensor_was_down_or_out_of_a_network_is_not_dropped_any_more()
-> Result<()> {
    let [lifted, kept] = ["10.216.21.2", "10.216.21.3"];
    // In a network that this host has no address of, which would keep it from being banned as a whole.
    let [one, other, last] = ["10.218.21.2", "10.218.21.3", "10.218.21.4"];
    let (scene, _enforcer) =
        Scene::joined(&[lifted, kept], None, "[protect]\nwithin = 0\n[widen]\nipv4 = 3\n")?;
    scene.namespace.route("10.218.21.0/24", lifted)?;
    for address in [one, other, last] {
        let mut ip = scene.namespace.command("ip");
        output(ip.args(["address", "add", &format!("{address}/32"), "dev", "lo"]))?;
    }
    let sensor = scene.start("", "")?;
    let streams: Vec<Stream> =
        [lifted, kept, one, other, last].iter().map(|from| scene.stream(from)).collect::<Result<_>>()?;
    let offend = |address: &str, stream: &Stream| {
        scene.fail(address)?;
        stream.ends()?;
        scene.wait_for_ruling(address)
    };
    offend(lifted, &streams[0])?;
    offend(kept, &streams[1])?;
    sensor.terminate(PATIENCE)?;
    scene.enforce(&["unban", lifted])?;
    let sensor = scene.start("", "")?;
    streams[0].flows().context("what was lifted meanwhile is dropped")?;
    ensure!(!streams[1].comes_within(SILENCE)?, "what stands passes");
    let banned = &scene.jail()?["banned"];
    ensure!(banned.as_array().map(Vec::len) == Some(1) && banned[0]["address"] == kept, "{banned}");

    // Three of a network become one ban of all of it; one of them is let out of it.
    offend(one, &streams[2])?;
    offend(other, &streams[3])?;
    offend(last, &streams[4])?;
    scene.wait_for("the network is not widened", || {
        Ok(serde_json::from_str::<Value>(&scene.enforce(&["status", "--json"])?)?["widened"] == 1)
    })?;
    scene.enforce(&["unban", other])?;
    streams[3].flows().context("what was let out of a network is dropped")?;
    let banned: Vec<Value> = scene.jail()?["banned"].as_array().context("no bans")?.clone();
    let banned: Vec<&str> = banned.iter().filter_map(|ban| ban["address"].as_str()).collect();
    ensure!(banned == [kept, one, last], "{banned:?} are shown");
    for stream in [&streams[2], &streams[4]] {
        ensure!(!stream.comes_within(SILENCE)?, "{} passes", stream.source);
    }
    sensor.terminate(PATIENCE)?;
    Ok(())
}

#[test]
fn an_enforcer_that_lost_its_ledger_lifts_nothing_here_and_gets_the_bans_again() -> Result<()> {
    let attacker = "10.216.22.2";
    let (scene, enforcer) = Scene::joined(&[attacker], None, "[protect]\nwithin = 0\n")?;
    let sensor = scene.start("", "")?;
    let from_attacker = scene.stream(attacker)?;
    scene.fail(attacker)?;
    from_attacker.ends()?;
    scene.wait_for_ruling(attacker)?;
    from_attacker.drain()?;
    sensor.terminate(PATIENCE)?;
    enforcer.terminate(PATIENCE)?;
    for file in std::fs::read_dir(scene.stage.folder().join("enforcer"))? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("ledger.sqlite3") {
            std::fs::remove_file(file.path())?;
        }
    }
    let _enforcer = scene.stage.start_enforcer()?;
    let mut sensor = scene.start("", "")?;
    let sent_again = |line: &str| line.contains("new ledger has the bans that stand here");
    if !sensor.said().lines().any(sent_again) {
        sensor.wait_for("send the bans again", PATIENCE, sent_again)?;
    }
    scene.wait_for_fleet()?;
    scene.wait_for_ruling(attacker)?;
    ensure!(scene.enforce(&["show", attacker])?.contains("web-1"), "the enforcer does not have it");
    ensure!(from_attacker.drain()? == 0, "a packet passed");
    ensure!(!from_attacker.comes_within(SILENCE)?, "it passes");
    Ok(())
}

#[test]
fn unban_lifts_what_the_kernel_drops_for_whomever_and_says_what_was_there() -> Result<()> {
    let [of_fleet, own] = ["10.216.23.2", "10.216.23.3"];
    let (scene, enforcer) = Scene::joined(&[of_fleet, own], None, "[protect]\nwithin = 0\n")?;
    let sensor = scene.start("", "")?;
    let streams = [scene.stream(of_fleet)?, scene.stream(own)?];
    scene.enforce(&["ban", of_fleet, "--for", "1h", "--force"])?;
    streams[0].ends()?;
    let (done, said) = scene.unban(of_fleet)?;
    ensure!(done && said.contains("is no longer dropped on this host; no jail here had banned it"), "{said}");
    ensure!(said.contains("`atalaya-enforcer unban` lifts others"), "{said}");
    streams[0].flows()?;
    let (done, said) = scene.unban(of_fleet)?;
    ensure!(!done && said.contains("and it is not dropped on this host"), "{said}");

    // Without the enforcer it is let through here alone, over a restart too; asked again there is nothing more.
    scene.fail(own)?;
    streams[1].ends()?;
    scene.wait_for_ruling(own)?;
    enforcer.kill()?;
    let (done, said) = scene.unban(own)?;
    ensure!(!done && said.contains("passes on this host alone until then: ask again"), "{said}");
    streams[1].flows()?;
    sensor.terminate(PATIENCE)?;
    let sensor = scene.start("", "")?;
    streams[1].flows().context("what was let through is dropped after a restart")?;
    let _enforcer = scene.stage.start_enforcer()?;
    // Where the ban stands.
    streams[1].ends()?;
    let (done, said) = scene.unban(own)?;
    ensure!(done && said.contains(&format!("{own} is unbanned (jail web)")), "{said}");
    streams[1].flows()?;
    sensor.terminate(PATIENCE)?;
    Ok(())
}
