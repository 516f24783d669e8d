//! What Prometheus is told: a real Prometheus scrapes real programs, and what is written for it (the dashboard, the alerts, the
//! documentation) is held to that. Prometheus and promtool are Debian's, which `cargo xtask setup` unpacks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::{Process, output};
use atalaya_end_to_end::stage::{ROUTER_PASSWORD, ROUTER_USER, RULES, Stage, free_port};
use routeros_sim::Router;
use serde_json::Value;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);

/// A file of the source.
fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(source(path)).with_context(|| path.to_owned())
}

/// One of the programs of Debian's package.
fn prometheus(stage: &Stage, program: &str) -> Result<Command> {
    let programs = PathBuf::from(stage.program("atalaya-sensor").get_program());
    let unpacked =
        programs.ancestors().nth(2).context("a target folder")?.join("prometheus/usr/bin").join(program);
    ensure!(unpacked.exists(), "{} is not there: run `cargo xtask setup`", unpacked.display());
    Ok(Command::new(unpacked))
}

/// Programs that have something to tell: two bans, one by a log and one by hand.
struct Told {
    stage: Stage,
    router: Router,
    _enforcer: Process,
    _sensor: Process,
    /// Where the enforcer and the sensor tell.
    ports: [u16; 2],
}

// === impl Told ===

impl Told {
    async fn new() -> Result<Self> {
        let stage = Stage::of_this_test()?;
        let router = Router::builder()
            .user(ROUTER_USER)
            .password(ROUTER_PASSWORD)
            .terminal(RULES[0])
            .terminal(RULES[1])
            .start()
            .await?;
        let ports = [free_port()?, free_port()?];
        let metrics = |port: u16| format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
        stage.write_enforcer_config(&[("edge", router.address())], &metrics(ports[0]))?;
        let log = stage.folder().join("log");
        std::fs::write(&log, "")?;
        stage.write_sensor_config(&format!(
            "{}[jail.app]\nsource = \"files\"\npaths = \"{}\"\nfailregex = '^ bad login from <ADDR>$'\nmaxretry = 3\n",
            metrics(ports[1]),
            log.display()
        ))?;
        let enforcer = stage.start_enforcer()?;
        stage.join(&stage.enrol("web-1")?)?;
        let sensor = stage.start_sensor()?;
        let line = format!("{} bad login from 198.51.100.7\n", jiff::Timestamp::now());
        std::fs::write(&log, line.repeat(3))?;
        output(stage.enforcer().args(["ban", "198.51.100.8", "--for", "1h", "--reason", "by hand"]))?;
        let told = Self { stage, router, _enforcer: enforcer, _sensor: sensor, ports };
        let both = |all: &[routeros_sim::Entry]| {
            ["198.51.100.7", "198.51.100.8"]
                .iter()
                .all(|address| all.iter().any(|entry| entry.address == *address))
        };
        told.router.wait_for(both, PATIENCE).await.context("the bans are not on the router")?;
        Ok(told)
    }

    /// Both programs' texts.
    fn texts(&self) -> Result<[String; 2]> {
        Ok([scrape(self.ports[0])?, scrape(self.ports[1])?])
    }
}

/// What curl gets: the body, and a last line with the status and the kind of the content.
fn curl(arguments: &[&str]) -> Result<(String, String)> {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--write-out",
        "\n%{http_code} %{content_type}",
    ]);
    let answer = output(curl.args(arguments))?;
    let (body, last) = answer.rsplit_once('\n').context("no last line")?;
    Ok((body.to_owned(), last.to_owned()))
}

fn scrape(port: u16) -> Result<String> {
    let (text, kind) = curl(&[&format!("http://127.0.0.1:{port}/metrics")])?;
    ensure!(kind.starts_with("200 application/openmetrics-text; version=1.0.0"), "{kind}: {text}");
    Ok(text)
}

/// What a text tells of each family: its kind and its help.
fn families(text: &str) -> BTreeMap<String, (String, String)> {
    let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        if let (Some("#"), Some(what), Some(name), Some(rest)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            let family = families.entry(name.to_owned()).or_default();
            match what {
                "TYPE" => rest.clone_into(&mut family.0),
                "HELP" => rest.trim_end_matches('.').clone_into(&mut family.1),
                _ => {}
            }
        }
    }
    families
}

/// A figure's name as Prometheus keeps it.
fn kept(name: &str, kind: &str) -> String {
    if kind == "counter" { format!("{name}_total") } else { name.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_is_what_happened_and_promtool_and_the_documentation_agree_with_it() -> Result<()> {
    let told = Told::new().await?;
    let texts = told.texts()?;
    for figure in [
        "atalaya_enforcer_bans 2.0",
        "atalaya_enforcer_offences_total{result=\"banned\"} 1.0",
        "atalaya_enforcer_bans_by_hand_total 1.0",
        "atalaya_enforcer_router_held_entries{router=\"edge\"} 2.0",
        "atalaya_enforcer_router_connected{router=\"edge\"} 1.0",
        "atalaya_enforcer_router_answer_seconds_count{router=\"edge\"} 2",
        "atalaya_enforcer_offences_ack_seconds_count 1",
        "atalaya_enforcer_sensors 1.0",
    ] {
        ensure!(texts[0].lines().any(|line| line == figure), "{figure} is not in\n{}", texts[0]);
    }
    for figure in [
        "atalaya_sensor_failures_total{jail=\"app\"} 3.0",
        "atalaya_sensor_offences_total{jail=\"app\"} 1.0",
        "atalaya_sensor_enforcer_connected 1.0",
        "atalaya_sensor_decision_seconds_count 1",
        "atalaya_sensor_answer_seconds_count 1",
    ] {
        ensure!(texts[1].lines().any(|line| line == figure), "{figure} is not in\n{}", texts[1]);
    }
    for text in &texts {
        let mut promtool = prometheus(&told.stage, "promtool")?;
        let mut promtool =
            promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // promtool reads the older form, in which a counter's family has the name of its rows.
        let older: String = text
            .lines()
            .map(|line| match line.strip_suffix(" counter") {
                Some(family) => format!("{family}_total counter\n"),
                None if line.starts_with("# HELP") => {
                    let name = line.split(' ').nth(2).unwrap_or_default();
                    let counts = text.contains(&format!("# TYPE {name} counter"));
                    if counts {
                        format!("{}\n", line.replacen(name, &format!("{name}_total"), 1))
                    } else {
                        format!("{line}\n")
                    }
                }
                None => format!("{line}\n"),
            })
            .collect();
        promtool.stdin.take().context("no input")?.write_all(older.as_bytes())?;
        let done = promtool.wait_with_output()?;
        ensure!(done.status.success(), "promtool: {}", String::from_utf8_lossy(&done.stderr));
    }

    // Each figure has a row in docs/metrics.md, and each row a figure, but for those that this machine has no reason to tell.
    let documented = read("docs/metrics.md")?;
    let rows: BTreeSet<&str> = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name))
        .collect();
    let all: BTreeMap<_, _> = texts.iter().flat_map(|text| families(text)).collect();
    for (name, (kind, help)) in &all {
        let name = kept(name, kind);
        ensure!(rows.contains(name.as_str()), "docs/metrics.md has no row of `{name}` ({kind}): {help}");
        ensure!(documented.contains(help.as_str()), "docs/metrics.md does not say of `{name}`: {help}");
    }
    let told: BTreeSet<String> = all.iter().map(|(name, (kind, _))| kept(name, kind)).collect();
    for row in rows {
        let conditional = documented
            .lines()
            .any(|line| line.starts_with(&format!("| `{row}`")) && line.contains("(where "));
        ensure!(told.contains(row) || conditional, "docs/metrics.md has `{row}`, which is not told");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_answers_every_query_of_the_dashboard_and_of_the_alerts() -> Result<()> {
    let told = Told::new().await?;
    let folder = told.stage.folder();
    let (port, rules) = (free_port()?, source("packaging/prometheus/atalaya-alerts.yml"));
    let configuration = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [\"{}\"]\nscrape_configs:\n\
         - {{job_name: enforcer, static_configs: [{{targets: [\"127.0.0.1:{}\"]}}]}}\n\
         - {{job_name: sensor, static_configs: [{{targets: [\"127.0.0.1:{}\"]}}]}}\n",
        rules.display(),
        told.ports[0],
        told.ports[1]
    );
    std::fs::write(folder.join("prometheus.yml"), configuration)?;
    output(prometheus(&told.stage, "promtool")?.args(["check", "rules"]).arg(&rules))?;
    let mut server = prometheus(&told.stage, "prometheus")?;
    server.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
    server.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
    server.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let mut server = Process::start("Prometheus", &mut server)?;
    server.wait_for("become ready", PATIENCE, |line| line.contains("Server is ready"))?;
    let ask = |query: &str| -> Result<Vec<Value>> {
        let url = format!("http://127.0.0.1:{port}/api/v1/query");
        let (answer, _) = curl(&["--get", "--data-urlencode", &format!("query={query}"), &url])?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["status"] == "success", "{query}: {answer}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    };
    let until = Instant::now() + PATIENCE;
    let enough = "count_over_time(atalaya_enforcer_bans[1m]) > 2 and on () count_over_time(atalaya_sensor_lines_total[1m]) > 2";
    while ask(enough)?.is_empty() {
        ensure!(Instant::now() < until, "Prometheus scraped nothing: {:?}", ask("up")?);
        tokio::task::yield_now().await;
    }

    let dashboard: Value = serde_json::from_str(&read("packaging/grafana/atalaya.json")?)?;
    let mut queries = 0;
    for panel in dashboard["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().context("no targets")? {
            let query = target["expr"].as_str().context("no query")?.replace("$__rate_interval", "1m");
            ensure!(!ask(&query)?.is_empty(), "{}: nothing comes of {query}", panel["title"]);
            queries += 1;
        }
    }
    ensure!(queries > 15, "the dashboard has {queries} queries");

    // Each figure that an alert asks for is one that is told; and each alert has its paragraph.
    let text = std::fs::read_to_string(&rules)?;
    let runbooks = read("docs/alerts.md")?;
    let alerts: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(alerts.len() >= 20, "{alerts:?}");
    for alert in &alerts {
        ensure!(runbooks.contains(&format!("## {alert}\n")), "docs/alerts.md has no paragraph of {alert}");
        ensure!(
            text.contains(&format!("docs/alerts.md#{}\n", alert.to_lowercase())),
            "{alert} leads to no paragraph"
        );
    }
    let paragraphs = runbooks.lines().filter_map(|line| line.strip_prefix("## "));
    for paragraph in paragraphs {
        ensure!(alerts.contains(&paragraph), "docs/alerts.md has {paragraph}, which is no alert");
    }
    let documented = read("docs/metrics.md")?;
    for expression in text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        let names = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for name in names.filter(|name| name.starts_with("atalaya_") || name.starts_with("process_")) {
            let name = name.trim_end_matches("_bucket");
            ensure!(documented.contains(&format!("| `{name}`")), "{expression}: `{name}` is not told");
        }
    }
    // With all well, none is raised but of what this set-up is not.
    let firing = ask("ALERTS{alertstate=\"firing\"}")?;
    ensure!(firing.is_empty(), "{firing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_wrongly_or_reads_slowly_holds_up_nobody_and_a_taken_port_is_told() -> Result<()> {
    let told = Told::new().await?;
    for port in told.ports {
        let base = format!("http://127.0.0.1:{port}");
        assert_eq!(curl(&[&base])?.1, "404 text/plain; charset=utf-8");
        assert_eq!(
            curl(&["--request", "POST", &format!("{base}/metrics")])?.1,
            "405 text/plain; charset=utf-8"
        );
        // Seven that say nothing.
        let silent: Vec<_> =
            (0..7).map(|_| std::net::TcpStream::connect(("127.0.0.1", port))).collect::<Result<_, _>>()?;
        scrape(port)?;
        drop(silent);
    }
    let config = told.stage.folder().join("second.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate = \"{0}/second\"\nsocket = \"{0}/second.sock\"\n[metrics]\nlisten = \"127.0.0.1:{1}\"\n",
        told.stage.folder().display(),
        told.ports[0]
    );
    std::fs::write(&config, text)?;
    let second = told.stage.program("atalaya-enforcer").arg("--config").arg(&config).arg("run").output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(!second.status.success() && said.contains("[metrics]: cannot listen on 127.0.0.1"), "{said}");
    Ok(())
}
