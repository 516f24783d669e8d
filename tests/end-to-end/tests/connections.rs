//! Floods, short sessions and scans, with real connections and packets from a network namespace, counted by the
//! real programs in this kernel. Needs root, and fails where it is missing.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atalaya_end_to_end::namespace::Namespace;
use atalaya_end_to_end::packets;
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::sshd::Sshd;
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, Stage};
use routeros_sim::{Family, Router};

const PATIENCE: Duration = Duration::from_secs(60);
/// Ports on which nothing listens: outside of what hosts use, and of what connections take for themselves.
const CLOSED: u16 = 20_100;

/// The enforcer, the sensor with these jails, and a router.
struct Cast {
    stage: Stage,
    router: Router,
    sensor: Process,
    _enforcer: Process,
}

// === impl Cast ===

impl Cast {
    async fn new(jails: &str) -> Result<Self> {
        let stage = Stage::of_this_test()?;
        let router = Router::builder()
            .user(ROUTER_USER)
            .password(ROUTER_PASSWORD)
            .terminal(RULES[0])
            .terminal(RULES[1])
            .start()
            .await?;
        stage.write_enforcer_config(&[("edge", router.address())], "")?;
        stage.write_sensor_config(jails)?;
        let enforcer = stage.start_enforcer()?;
        stage.join(&stage.enrol("web-1")?)?;
        let sensor = stage.start_sensor()?;
        Ok(Self { stage, router, sensor, _enforcer: enforcer })
    }

    async fn wait_for_ban(&self, address: &str) -> Result<()> {
        let holds =
            |entries: &[routeros_sim::Entry]| entries.iter().any(|entry| is_of(&entry.address, address));
        if let Err(error) = self.router.wait_for(holds, PATIENCE).await {
            let status = output(self.stage.sensor().arg("status"))?;
            bail!("{address} is not on the router: {error}\n{status}");
        }
        Ok(())
    }

    fn is_banned(&self, address: &str) -> bool {
        [Family::V4, Family::V6]
            .into_iter()
            .any(|family| self.router.entries(family).iter().any(|entry| is_of(&entry.address, address)))
    }

    /// What the enforcer shows of a banned address. The router has the ban at once, the ledger a moment later.
    fn shown(&self, address: &str) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let shown = output(self.stage.enforcer().args(["show", address, "--json"]))?;
            if !shown.contains("\"ban\":null") {
                return Ok(shown);
            }
            ensure!(Instant::now() < until, "the enforcer never had the ban of {address}: {shown}");
        }
    }
}

/// Whether an entry of a router is of an address; IPv6 ones are written as networks there.
fn is_of(entry: &str, address: &str) -> bool {
    entry.strip_suffix("/128").unwrap_or(entry) == address
}

/// A server that accepts and closes, on all of this host's addresses towards a namespace.
fn serve(namespace: &Namespace) -> Result<u16> {
    let mut port = 0;
    for host in namespace.hosts() {
        let listener = TcpListener::bind((*host, port))?;
        port = listener.local_addr()?.port();
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    Ok(port)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_too_often_is_banned_and_whoever_stays_below_is_not() -> Result<()> {
    let (polite, flooder) = ("10.214.90.2", "10.214.90.3");
    let (first, second) = ("fd00:d690:90::2", "fd00:d690:90::3");
    let namespace = Namespace::new(&[polite, flooder, first, second])?;
    let port = serve(&namespace)?;
    let other = serve(&namespace)?;
    let jail =
        format!("[jail.flood]\nsource = \"connections\"\nports = [{port}]\nmaxretry = 12\nfindtime = 60\n");
    let cast = Cast::new(&jail).await?;

    ensure!(packets::connect(&namespace, polite, port..=port, 11)? == 11);
    // What is not guarded is not counted.
    ensure!(packets::connect(&namespace, polite, other..=other, 30)? == 30);
    ensure!(packets::connect(&namespace, flooder, port..=port, 12)? == 12);
    cast.wait_for_ban(flooder).await?;
    // Two addresses of one IPv6 network count together.
    ensure!(packets::connect(&namespace, first, port..=port, 6)? == 6);
    ensure!(packets::connect(&namespace, second, port..=port, 6)? == 6);
    cast.wait_for_ban(second).await?;
    ensure!(!cast.is_banned(polite), "11 connections of 12 made a ban");

    let shown = cast.shown(flooder)?;
    ensure!(shown.contains(&format!("12 connections to port {port} (connections-")), "{shown}");
    ensure!(shown.contains("in 60 s"), "{shown}");
    let status = output(cast.stage.sensor().args(["status", "--json"]))?;
    ensure!(status.contains("connections: state"), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_that_never_logs_in_is_banned_and_a_person_who_logs_in_and_out_is_not() -> Result<()> {
    let (person, scanner) = ("10.214.91.2", "10.214.91.3");
    let namespace = Namespace::new(&[person, scanner])?;
    let sshd = Sshd::start(&namespace)?;
    let port = sshd.port();
    let jail = format!(
        "[jail.short]\nsource = \"connections\"\nports = [{port}]\nshort = \"10s\"\nmaxretry = 5\nfindtime = \"10m\"\n"
    );
    let mut cast = Cast::new(&jail).await?;
    for _ in 0..10 {
        sshd.log_in(&namespace, person.parse()?, 0)?;
    }
    // Ten short sessions are twice the limit: who logged in is told, and spared.
    cast.sensor.wait_for("spare the person", PATIENCE, |line| {
        line.contains("protected: ") && line.contains(person)
    })?;
    ensure!(packets::connect(&namespace, scanner, port..=port, 5)? == 5);
    cast.wait_for_ban(scanner).await?;
    ensure!(!cast.is_banned(person), "a person was banned");
    let shown = cast.shown(scanner)?;
    ensure!(
        shown.contains(&format!("5 connections to port {port} (sshd) that ended within 10 s")),
        "{shown}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_in_a_container_is_named_by_it() -> Result<()> {
    let (inside, peer) = ("10.214.92.2", "10.214.92.3");
    let namespace = Namespace::new(&[inside, peer])?;
    let group = ControlGroup::new()?;
    let script = "import socket\nserver = socket.create_server(('0.0.0.0', 8022))\nprint('ready', flush=True)\n\
                  while True: server.accept()[0].close()\n";
    let mut server = Process::start("the server", namespace.command("python3").args(["-c", script]))?;
    server.wait_for("listen", PATIENCE, |line| line == "ready")?;
    group.take(server.id())?;
    let cast =
        Cast::new("[jail.flood]\nsource = \"connections\"\nports = 8022\nmaxretry = 12\nfindtime = 60\n")
            .await?;
    // Both ends are in the namespace: this host's own has no part in it.
    ensure!(packets::connect_to(&namespace, peer, inside.parse()?, 8022..=8022, 12)? == 12);
    cast.wait_for_ban(peer).await?;
    let shown = cast.shown(peer)?;
    let expected = format!("12 connections to port 8022 (python3 in container {}) in 60 s", group.name());
    ensure!(shown.contains(&expected), "no {expected:?} in {shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_count_of_those_alone_who_connected_and_a_forged_flood_changes_nothing() -> Result<()> {
    /// Many more than there is room for.
    const FORGED: u32 = 1_000_000;
    let (early, late, stranger) = ("10.214.93.2", "10.214.93.3", "10.214.93.4");
    let namespace = Namespace::new(&[early, late, stranger, "fd00:d690:93::2"])?;
    let six = "fd00:d690:93::2";
    namespace.route("11.0.0.0/8", early)?;
    let port = serve(&namespace)?;
    // The second jail counts forged names too, and so has to keep them.
    let cast = Cast::new(
        "[jail.scan]\nsource = \"scan\"\nmaxretry = 10\n\
         [jail.loose]\nsource = \"scan\"\nmaxretry = 20\nunverified = true\n",
    )
    .await?;
    let closed = |count: u16| CLOSED..=CLOSED + count - 1;

    // Whoever never connected is not counted, for the name may be forged.
    ensure!(packets::connect(&namespace, stranger, closed(16), 1)? == 0);
    for address in [early, late, six] {
        ensure!(packets::connect(&namespace, address, port..=port, 1)? == 1);
    }
    ensure!(packets::connect(&namespace, early, closed(24), 1)? == 0);
    cast.wait_for_ban(early).await?;
    let shown = cast.shown(early)?;
    ensure!(shown.contains("10 closed ports touched in 60 s, the last one 201"), "{shown}");
    ensure!(packets::connect(&namespace, six, closed(24), 1)? == 0);
    cast.wait_for_ban(six).await?;

    // Twenty touches of one port are one port; then a flood of forged names. Who was known before is still.
    ensure!(packets::connect(&namespace, late, CLOSED..=CLOSED, 20)? == 0);
    let before = resets_sent()?;
    packets::forge(&namespace, namespace.host_for(late.parse()?)?, CLOSED, 40, FORGED)?;
    let answered = resets_sent()? - before;
    ensure!(answered >= u64::from(FORGED), "this host answered only {answered} of {FORGED} forged packets");
    ensure!(!cast.is_banned(late), "one port was a scan");
    ensure!(packets::connect(&namespace, late, closed(24), 1)? == 0);
    cast.wait_for_ban(late).await?;
    ensure!(!cast.is_banned(stranger), "a stranger was banned");
    let forged = cast.router.entries(Family::V4).into_iter().filter(|entry| entry.address.starts_with("11."));
    ensure!(forged.count() == 0, "forged addresses were banned");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn at_an_interface_packets_to_closed_ports_count_before_a_firewall_sees_them() -> Result<()> {
    let (scanner, visitor, six) = ("10.214.94.2", "10.214.94.3", "fd00:d690:94::2");
    let namespace = Namespace::new(&[scanner, visitor, six])?;
    let port = serve(&namespace)?;
    let jail = format!(
        "[jail.scan]\nsource = \"scan\"\nmaxretry = 10\nunverified = true\ninterfaces = \"{}\"\n",
        namespace.interface()
    );
    let cast = Cast::new(&jail).await?;
    // Open ports are none of a scan's, however often somebody comes.
    ensure!(packets::connect(&namespace, visitor, port..=port, 40)? == 40);
    for address in [scanner, six] {
        ensure!(packets::connect(&namespace, address, CLOSED..=CLOSED + 23, 1)? == 0);
        cast.wait_for_ban(address).await?;
    }
    ensure!(!cast.is_banned(visitor), "a visitor was banned");
    let shown = cast.shown(scanner)?;
    ensure!(shown.contains("may be forged"), "{shown}");
    let status = output(cast.stage.sensor().arg("status"))?;
    ensure!(status.contains(&format!("XDP on {}", namespace.interface())), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_behind_a_nat64_are_counted_one_by_one_and_banned_as_the_ipv4_addresses_that_they_are()
-> Result<()> {
    let (one, other) = ("64:ff9b::c000:2c8", "64:ff9b::c000:2c9");
    let namespace = Namespace::new(&[one, other])?;
    let port = serve(&namespace)?;
    let jail =
        format!("[jail.flood]\nsource = \"connections\"\nports = [{port}]\nmaxretry = 12\nfindtime = 60\n");
    let cast = Cast::new(&jail).await?;
    // Twenty-two of one /64.
    for address in [one, other] {
        ensure!(packets::connect(&namespace, address, port..=port, 11)? == 11);
    }
    ensure!(packets::connect(&namespace, other, port..=port, 1)? == 1);
    cast.wait_for_ban("192.0.2.201").await?;
    ensure!(!cast.is_banned("192.0.2.200"), "the other host was banned");
    ensure!(cast.router.entries(Family::V6).is_empty(), "everyone behind the translator was banned");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_router_dropped_counts_of_those_alone_who_connected_to_this_host() -> Result<()> {
    let (known, stranger) = ("10.214.96.2", "10.214.96.3");
    let namespace = Namespace::new(&[known, stranger])?;
    let port = serve(&namespace)?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("router.log");
    let cast = Cast::new(&format!(
        "[jail.routeros-drop]\nsource = \"files\"\npaths = \"{}\"\nmaxretry = 5\n",
        log.display()
    ))
    .await?;
    ensure!(packets::connect(&namespace, known, port..=port, 1)? == 1);
    let mut lines = String::new();
    for (from, port) in [stranger, known].into_iter().flat_map(|from| (1..=9).map(move |port| (from, port))) {
        lines.push_str(&format!(
            "firewall,info drop input: in:ether1 out:(unknown 0), proto TCP (SYN), {from}:59388->198.51.100.1:{port}, len 40\n"
        ));
    }
    std::fs::write(&log, lines)?;
    cast.wait_for_ban(known).await?;
    ensure!(!cast.is_banned(stranger), "a stranger was banned");
    let shown = cast.shown(known)?;
    ensure!(shown.contains("\"source\":\"scan\""), "{shown}");
    Ok(())
}

/// How many resets this host has sent (`OutRsts` of `/proc/net/snmp`).
fn resets_sent() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "OutRsts");
    Ok(found.context("no OutRsts")?.1.parse()?)
}

/// A control group of a container's name, removed when dropped.
struct ControlGroup {
    folder: PathBuf,
    name: String,
}

// === impl ControlGroup ===

impl ControlGroup {
    fn new() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(at))
        });
        let name = format!("web-{}", std::process::id());
        let folder = mount.context("no cgroup2 is mounted")?.join(format!("lxc.payload.{name}"));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder, name })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn take(&self, process: u32) -> Result<()> {
        let processes = self.folder.join("cgroup.procs");
        // In one piece, as the kernel wants it.
        Ok(std::fs::write(processes, process.to_string())?)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(5);
        // The group is in use until the server, which was dropped before, is gone.
        while std::fs::remove_dir(&self.folder).is_err() {
            if Instant::now() > until {
                eprintln!("the control group {} is left over", self.folder.display());
                return;
            }
            std::thread::yield_now();
        }
    }
}
