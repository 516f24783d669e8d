//! Libraries that are replaced under running programs: those that start from then on are seen at once, those that
//! run on with the old file go on to be seen, and `status` names them, until they end. Needs root.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atalaya_end_to_end::container::{Container, Root};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::own_host::{Daemon, OwnHost};
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::stage::{Stage, is_ready};
use serde_json::Value;

/// Longer than two looks around, and shorter than the minute after which all is looked at anyway.
const PATIENCE: Duration = Duration::from_secs(40);
/// Long enough for a busy machine, and much shorter than that minute.
const SOON: Duration = Duration::from_secs(10);
/// What the start of a process is known to.
const TICK: Duration = Duration::from_millis(10);
const AUDIT: &str = "logins: audit";
const LOGINS: &str = "ignoreself = false\n[jail.all]\nsource = \"logins\"\nmaxretry = 100\n";

/// A host with its sensor.
struct Scene {
    host: OwnHost,
    sensor: Process,
    /// How many addresses were used.
    addresses: u8,
    _stage: Stage,
}

impl Scene {
    fn new(more: &str) -> Result<Self> {
        Self::after(more, |_| Ok(())).map(|(scene, ())| scene)
    }

    /// As [`Self::new`], with something that is done before the sensor starts.
    fn after<T>(more: &str, first: impl FnOnce(&OwnHost) -> Result<T>) -> Result<(Self, T)> {
        let stage = Stage::of_this_test()?;
        let host = OwnHost::new(&stage)?;
        let done = first(&host)?;
        let sensor = host.start_sensor(&format!("{LOGINS}{more}"))?;
        Ok((Self { host, sensor, addresses: 0, _stage: stage }, done))
    }

    /// Whether a failed login of a daemon is seen.
    fn expect_seen(&mut self, daemon: &mut Daemon) -> Result<()> {
        let address = self.next_address();
        daemon.fail_login(address)?;
        self.expect_failure(address, SOON)
    }

    /// Whether the failed logins of a daemon are seen from some time on: attaching takes a moment.
    fn expect_seen_in_the_end(&mut self, daemon: &mut Daemon) -> Result<()> {
        let until = Instant::now() + SOON;
        loop {
            let address = self.next_address();
            daemon.fail_login(address)?;
            let seen = self.expect_failure(address, Duration::from_millis(200));
            if seen.is_ok() || Instant::now() > until {
                return seen;
            }
        }
    }

    fn next_address(&mut self) -> IpAddr {
        self.addresses += 1;
        [10, 81, 0, self.addresses].into()
    }

    fn expect_failure(&mut self, address: IpAddr, within: Duration) -> Result<()> {
        let line = self.sensor.wait_for("see the failure", within, |line| {
            line.contains("\"message\":\"failure\"") && line.contains(&format!("\"address\":\"{address}\""))
        })?;
        ensure!(line.text.contains("\"failures\":1,"), "not once: {}", line.text);
        Ok(())
    }

    fn status(&self) -> Result<String> {
        output(self.host.sensor().arg("status"))
    }

    /// What is shown of a program, once that is as wanted.
    fn wait_for(&self, program: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(|| output(self.host.sensor().args(["status", "--json"])), program, what, wanted)
    }

    /// Waits until status says that so many processes run on old files, and no more than these.
    fn wait_for_outdated(&self, program: &str, processes: u64) -> Result<Value> {
        let sum = |shown: &Value| -> u64 {
            let outdated = shown["outdated"].as_array();
            outdated.into_iter().flatten().filter_map(|old| old["processes"].as_u64()).sum()
        };
        self.wait_for(program, "that many outdated", |shown| sum(shown) == processes)
    }

    /// Looks at all files at once, as the sensor does every minute.
    fn look_everywhere(&self) -> Result<()> {
        output(self.host.sensor().arg("reload")).map(drop)
    }
}

/// Whether a line says that a new file of a library is attached to.
fn is_replaced(line: &str) -> bool {
    line.contains("a library was replaced: the new file is probed")
}

/// What a status shows of a program, once that is as wanted.
fn wait_for(
    status: impl Fn() -> Result<String>,
    program: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let status: Value = serde_json::from_str(&status()?)?;
        let programs = status["programs"].as_array().context("no programs")?;
        let shown = programs.iter().find(|shown| shown["name"] == program).context("no such program")?;
        if wanted(shown) {
            return Ok(shown.clone());
        }
        if Instant::now() > until {
            bail!("{program}: not {what}: {shown:#}");
        }
    }
}

/// A root other than the host's, whose sshd has a connection open while libaudit is replaced in it.
fn upgrade_in_a_root(root: &Root, address: &str) -> Result<()> {
    let (stage, network) = (Stage::of_this_test()?, Namespace::new(&[address])?);
    let address: IpAddr = address.parse()?;
    stage.write_sensor_config(LOGINS)?;
    // What happens to libraries of containers is told in detail only.
    let log = "info,atalaya_sensor::loader::logins=debug";
    let mut command = stage.sensor();
    let mut sensor =
        Process::start("the sensor", command.args(["--log", log, "--log-format", "json", "run"]))?;
    sensor.wait_for("become ready", PATIENCE, is_ready)?;
    let expect = |sensor: &mut Process, failures: u32| {
        let what = format!("\"failures\":{failures},");
        sensor.wait_for("see the failure", SOON, |line| {
            line.contains(&format!("\"address\":\"{}\"", network.hosts()[0])) && line.contains(&what)
        })
    };
    let wait_for = |what: &str, wanted: &dyn Fn(&Value) -> bool| -> Result<Value> {
        wait_for(|| output(stage.sensor().args(["status", "--json"])), AUDIT, what, wanted)
    };
    let of_root = |shown: &Value| -> Option<Value> {
        let place = format!("root {}", root.path().display());
        shown["outdated"].as_array()?.iter().find(|old| old["place"] == place).cloned()
    };
    let old = Container::start_in_root_and_network(root, &network, 2222)?;
    wait_for("in a container", &|shown| {
        shown["reason"].as_str().is_some_and(|text| text.contains("container"))
    })?;
    // The numbers of processes begin anew, as they do on a busy host: the session's is lower than its daemon's.
    std::fs::write("/proc/sys/kernel/ns_last_pid", "400")?;
    let client = old.start_slow_client(address)?;
    expect(&mut sensor, 1)?;
    OwnHost::upgrade(&root.library("libaudit.so.1")?)?;
    sensor.wait_for("notice the upgrade", SOON, is_replaced)?;
    let new = Container::start_in_root_and_network(root, &network, 2223)?;
    new.fail_logins(address, 1)?;
    expect(&mut sensor, 2)?;
    let shown = wait_for("on an old file", &|shown| of_root(shown).is_some())?;
    let told = of_root(&shown).context("not told")?;
    let program = &told["programs"][0];
    ensure!(program["program"] == "sshd" && program["process"] == old.id() && told["seen"] == true, "{told}");
    output(stage.sensor().arg("reload"))?;
    client.fail_again()?;
    expect(&mut sensor, 3)?;
    old.stop()?;
    wait_for("on the new file alone", &|shown| of_root(shown).is_none())?;
    new.fail_logins(address, 1)?;
    expect(&mut sensor, 4)?;
    new.stop()?;
    wait_for("on this host alone", &|shown| {
        shown["reason"].as_str().is_some_and(|text| !text.contains("container"))
    })?;
    Ok(())
}

#[test]
fn a_container_with_an_open_connection_is_seen_through_an_upgrade_and_its_files_are_let_go_of() -> Result<()>
{
    let root = Root::new()?;
    upgrade_in_a_root(&root, "10.214.95.2")?;
    root.unmount()
}

#[test]
fn a_container_on_an_overlay_is_seen_through_an_upgrade_and_its_files_are_let_go_of() -> Result<()> {
    let image = Root::in_folder()?;
    let root = Root::of_image(&image)?;
    upgrade_in_a_root(&root, "10.214.97.2")?;
    root.unmount()
}

#[test]
fn of_two_containers_of_one_image_the_other_is_seen_on_when_one_is_upgraded_and_ends() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let networks = [Namespace::new(&["10.214.100.2"])?, Namespace::new(&["10.214.101.2"])?];
    let image = Root::in_folder()?;
    let roots = [Root::of_image(&image)?, Root::of_image(&image)?];
    stage.write_sensor_config(LOGINS)?;
    let mut sensor = Process::start("the sensor", stage.sensor().args(["--log-format", "json", "run"]))?;
    sensor.wait_for("become ready", PATIENCE, is_ready)?;
    let wait_for_places = |places: &str| {
        let has = |shown: &Value| shown["reason"].as_str().is_some_and(|reason| reason.ends_with(places));
        wait_for(|| output(stage.sensor().args(["status", "--json"])), AUDIT, places, has)
    };
    // The first is the one through which the file that both have is held.
    let first = Container::start_in_root_and_network(&roots[0], &networks[0], 2222)?;
    wait_for_places(", 1 container")?;
    let second = Container::start_in_root_and_network(&roots[1], &networks[1], 2222)?;
    wait_for_places(", 2 containers")?;
    OwnHost::upgrade(&roots[0].library("libaudit.so.1")?)?;
    first.stop()?;
    wait_for_places(", 1 container")?;
    roots[0].unmount()?;
    second.fail_logins("10.214.101.2".parse()?, 1)?;
    sensor.wait_for("see the failure", SOON, |line| line.contains("\"address\":\"10.214.101.1\""))?;
    second.stop()?;
    wait_for_places("libaudit.so.1")?;
    roots[1].unmount()
}

#[test]
fn of_more_old_files_than_are_kept_the_oldest_is_let_go_of_and_no_more_are_listed_than_fit() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut daemons = Vec::new();
    for _ in 0..18 {
        daemons.push(scene.host.start_daemon()?);
        OwnHost::upgrade(&scene.host.library())?;
        scene.sensor.wait_for("notice the upgrade", SOON, is_replaced)?;
    }
    let is_told =
        |shown: &Value| shown["outdated"].as_array().map(Vec::len) == Some(8) && shown["more_outdated"] == 8;
    scene.wait_for(AUDIT, "told of as far as it fits", is_told)?;
    let status = scene.status()?;
    ensure!(status.contains("and processes on 8 more such files"), "{status}");
    for daemon in &mut daemons[2..] {
        scene.expect_seen(daemon)?;
    }
    Ok(())
}

#[test]
fn who_runs_on_what_no_sensor_can_reach_any_more_is_told_of_as_unseen() -> Result<()> {
    let (stage, network) = (Stage::of_this_test()?, Namespace::new(&["10.214.98.2"])?);
    let image = Root::in_folder()?;
    let root = Root::of_image(&image)?;
    let old = Container::start_in_root_and_network(&root, &network, 2222)?;
    // When a process was started is known to a hundredth of a second: one that was started in that of the copy may as
    // well run on the copy.
    let listens = Instant::now();
    while listens.elapsed() < 3 * TICK {
        std::thread::yield_now();
    }
    // Its second name makes the overlay copy the file up: old's own lies below since, where no path leads to.
    OwnHost::upgrade(&root.library("libaudit.so.1")?)?;
    stage.write_sensor_config(LOGINS)?;
    let mut sensor = Process::start("the sensor", stage.sensor().args(["--log-format", "json", "run"]))?;
    sensor.wait_for("become ready", PATIENCE, is_ready)?;
    let status = || output(stage.sensor().args(["status", "--json"]));
    let is_told = |shown: &Value| {
        let outdated = shown["outdated"].as_array().into_iter().flatten();
        outdated.filter(|told| told["programs"][0]["process"] == old.id()).any(|told| told["seen"] == false)
    };
    wait_for(status, AUDIT, "told", is_told)?;
    let status = output(stage.sensor().arg("status"))?;
    ensure!(status.contains(&format!("sshd (pid {}); its logins are not seen", old.id())), "{status}");
    Ok(())
}

#[test]
fn a_chroot_in_a_folder_of_this_host_is_seen_through_an_upgrade_of_its_own() -> Result<()> {
    upgrade_in_a_root(&Root::in_folder()?, "10.214.96.2")
}

#[test]
fn a_daemon_that_starts_after_an_upgrade_and_one_that_ran_before_are_both_seen() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut old = scene.host.start_daemon()?;
    scene.expect_seen(&mut old)?;
    OwnHost::upgrade(&scene.host.library())?;
    let mut new = scene.host.start_daemon()?;
    scene.expect_seen_in_the_end(&mut new)?;
    scene.look_everywhere()?;
    scene.expect_seen(&mut old)?;
    let shown = scene.wait_for_outdated(AUDIT, 1)?;
    scene.look_everywhere()?;
    scene.expect_seen(&mut old)?;
    scene.expect_seen(&mut new)?;
    let told = &shown["outdated"][0];
    ensure!(
        told["library"] == "libaudit.so.1" && told["place"] == "this host" && told["seen"] == true,
        "{told}"
    );
    ensure!(told["programs"][0]["process"] == old.id(), "{told}");
    let status = scene.status()?;
    let names = format!(
        "1 process still runs on the libaudit.so.1 of before its upgrade: python3 (pid {})",
        old.id()
    );
    ensure!(status.contains(&names), "{status}");
    old.stop()?;
    scene.wait_for_outdated(AUDIT, 0)?;
    let status = scene.status()?;
    ensure!(!status.contains("upgrade"), "{status}");
    scene.expect_seen(&mut new)?;
    scene.sensor.wait_for("let go of the old file", PATIENCE, |line| line.contains("is let go of")).map(drop)
}

#[test]
fn a_sensor_that_starts_after_an_upgrade_sees_who_still_runs_on_the_old_file() -> Result<()> {
    let (mut scene, mut old) = Scene::after("", |host| {
        let old = host.start_daemon()?;
        OwnHost::upgrade(&host.library())?;
        Ok(old)
    })?;
    scene.wait_for_outdated(AUDIT, 1)?;
    scene.expect_seen(&mut old)?;
    let mut new = scene.host.start_daemon()?;
    scene.expect_seen_in_the_end(&mut new)
}

#[test]
fn who_started_between_two_upgrades_in_a_row_is_seen() -> Result<()> {
    let mut scene = Scene::new("")?;
    let library = scene.host.library();
    let next = |name: &str| library.with_file_name(name);
    std::fs::copy(&library, next("libaudit.so.1.0.0.dpkg-new"))?;
    std::fs::copy(&library, next("third"))?;
    // It has the second file loaded before anybody can have attached to that.
    let mut between = scene.host.start_daemon_on("libaudit.so.1.0.0.dpkg-new")?;
    std::fs::rename(next("libaudit.so.1.0.0.dpkg-new"), &library)?;
    std::fs::rename(next("third"), &library)?;
    let mut new = scene.host.start_daemon()?;
    scene.expect_seen_in_the_end(&mut new)?;
    scene.wait_for_outdated(AUDIT, 1)?;
    scene.expect_seen(&mut between)
}

#[test]
fn a_link_that_leads_to_another_release_is_followed_and_the_release_before_is_kept() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut old = scene.host.start_daemon()?;
    let next = |name: &str| scene.host.link().with_file_name(name);
    std::fs::rename(scene.host.build_library()?, next("libaudit.so.1.0.1"))?;
    std::os::unix::fs::symlink("libaudit.so.1.0.1", next("new-link"))?;
    std::fs::rename(next("new-link"), scene.host.link())?;
    let mut new = scene.host.start_daemon()?;
    scene.expect_seen_in_the_end(&mut new)?;
    scene.look_everywhere()?;
    scene.expect_seen(&mut old)?;
    // The new release is now replaced where the link leads to.
    OwnHost::upgrade(&scene.host.link().with_file_name("libaudit.so.1.0.1"))?;
    let mut newest = scene.host.start_daemon()?;
    scene.expect_seen_in_the_end(&mut newest)?;
    scene.wait_for_outdated(AUDIT, 2)?;
    for daemon in [&mut old, &mut new, &mut newest] {
        scene.expect_seen(daemon)?;
    }
    Ok(())
}

#[test]
fn a_library_that_is_away_for_a_while_is_found_again_and_who_runs_on_it_is_seen_meanwhile() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut old = scene.host.start_daemon()?;
    let (library, built) = (scene.host.library(), scene.host.build_library()?);
    std::fs::remove_file(&library)?;
    scene.look_everywhere()?;
    scene.expect_seen(&mut old)?;
    scene.wait_for_outdated(AUDIT, 1)?;
    scene.expect_seen(&mut old)?;
    // Written where it is to be, not beside it.
    std::fs::copy(built, &library)?;
    let mut new = scene.host.start_daemon()?;
    scene.expect_seen_in_the_end(&mut new)?;
    scene.expect_seen(&mut old)
}

#[test]
fn a_file_that_cannot_be_probed_is_told_of_and_the_next_one_is_probed() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut old = scene.host.start_daemon()?;
    let library = scene.host.library();
    std::fs::write(
        library.with_file_name("broken"),
        "no library at all, and long enough for a header of one: ...........",
    )?;
    std::fs::rename(library.with_file_name("broken"), &library)?;
    let shown = scene.wait_for(AUDIT, "refused", |shown| shown["state"] == "refused")?;
    let reason = shown["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("libaudit.so.1: it is no library; tried again"), "{shown}");
    scene.expect_seen(&mut old)?;
    std::fs::rename(scene.host.build_library()?, &library)?;
    let mut new = scene.host.start_daemon()?;
    scene.expect_seen_in_the_end(&mut new)?;
    let shown = scene.wait_for_outdated(AUDIT, 1)?;
    ensure!(shown["state"] == "on", "{shown}");
    scene.expect_seen(&mut old)
}

#[test]
fn a_library_that_is_written_anew_in_its_place_is_probed_where_its_function_is_now() -> Result<()> {
    let mut scene = Scene::new("")?;
    let mut first = scene.host.start_daemon()?;
    scene.expect_seen(&mut first)?;
    first.stop()?;
    std::fs::copy(scene.host.build_library()?, scene.host.library())?;
    // The kernel takes a tenth of a second to detach from where the function was.
    let mut second = scene.host.start_daemon()?;
    scene.expect_seen_in_the_end(&mut second)?;
    scene.look_everywhere()?;
    scene.expect_seen(&mut second)
}

#[test]
fn what_programs_say_to_syslog_is_heard_through_the_libc_of_before_its_upgrade_too() -> Result<()> {
    let jail = "[jail.calls]\nsource = \"syslog-calls\"\nservices = \"python3\"\nmaxretry = 100\n\
        failregex = ': Failed password for .* from <HOST> port \\d+ ssh2$'\n";
    let mut scene = Scene::new(jail)?;
    let mut old = scene.host.start_daemon()?;
    OwnHost::upgrade(&scene.host.libc())?;
    scene.sensor.wait_for("notice the upgrade", SOON, is_replaced)?;
    let mut new = scene.host.start_daemon()?;
    scene.look_everywhere()?;
    for daemon in [&mut new, &mut old] {
        let address = scene.next_address();
        daemon.log_failure(address)?;
        scene.expect_failure(address, SOON)?;
    }
    // The daemon, the first process, the sensor and its loader: all were started before.
    let shown = scene.wait_for_outdated("logins: syslog", 4)?;
    ensure!(shown["outdated"][0]["library"] == "libc.so.6", "{shown}");
    let address = scene.next_address();
    old.log_failure(address)?;
    scene.expect_failure(address, SOON)
}
