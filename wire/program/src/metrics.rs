//! What a program tells Prometheus: figures of one moment, in `OpenMetrics`' text, at `/metrics` of a port of its own. A scrape is
//! answered from what the program counts anyway.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// The form of `OpenMetrics`, as it is asked for and told.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How many may ask at once; more wait.
const MOST_CONNECTIONS: usize = 8;
/// How long a connection may last, however slowly it is read.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a request may take to come.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// The bounds of what is measured, in seconds: from a tenth of a millisecond to a minute.
const BOUNDS: [f64; 17] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0,
    60.0,
];

/// The `[metrics]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// The address and port on which figures are told; the program's own port of loopback without it.
    listen: Option<SocketAddr>,
}

/// How long something took, each time; counted into buckets. Clones count together.
#[derive(Clone, Debug)]
pub struct Durations(Histogram);

/// The labels of a row: names and values.
pub type Labels = Vec<(&'static str, String)>;

/// The figures of one moment, as families of rows.
#[derive(Debug, Default)]
pub struct Figures {
    families: Vec<FigureFamily>,
}

#[derive(Debug)]
struct FigureFamily {
    name: &'static str,
    help: &'static str,
    rows: FigureRows,
}

#[derive(Debug)]
enum FigureRows {
    Gauges(Vec<(Labels, f64)>),
    Counters(Vec<(Labels, f64)>),
    Durations(Vec<(Labels, Durations)>),
}

// === impl MetricsConfig ===

impl MetricsConfig {
    /// Where to listen, on a port of loopback where nothing is said.
    pub fn listen(&self, port: u16) -> SocketAddr {
        self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

// === impl Durations ===

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(BOUNDS))
    }
}

impl Durations {
    /// Counts one.
    pub fn took(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

// === impl Figures ===

impl Figures {
    /// With what every program has: its release, its start, and what the process takes of the host. Figures that the system
    /// does not tell are left out.
    pub fn of_process(prefix: &'static str, release: &str, started: f64) -> Self {
        let mut figures = Self::default();
        let (build, start) = match prefix {
            "atalaya_enforcer" => ("atalaya_enforcer_build_info", "atalaya_enforcer_start_time_seconds"),
            _ => ("atalaya_sensor_build_info", "atalaya_sensor_start_time_seconds"),
        };
        figures.gauge(
            build,
            "The release that runs; always 1",
            [(vec![("version", release.to_owned())], 1.0)],
        );
        figures.value(start, "When it began to work, in seconds since 1970", started);
        if let Some(open) = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
            figures.value("process_open_fds", "How many descriptors are open", open as f64);
        }
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            figures.value("process_max_fds", "How many descriptors may be open", most as f64);
        }
        let resident = std::fs::read_to_string("/proc/self/statm").ok();
        let pages = resident.as_deref().and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
        if let Some(pages) = pages {
            let bytes = pages * rustix::param::page_size() as f64;
            figures.value("process_resident_memory_bytes", "Memory that is resident", bytes);
        }
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        figures.total("process_cpu_seconds", "Time that processors spent on it", seconds);
        figures
    }

    /// A figure that goes up and down, with labels.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        rows: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(name, help, FigureRows::Gauges(rows.into_iter().collect()));
    }

    /// One without labels.
    pub fn value(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.gauge(name, help, [(Vec::new(), value)]);
    }

    /// A figure that only grows, with labels; its name without `_total`.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        rows: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(name, help, FigureRows::Counters(rows.into_iter().collect()));
    }

    /// One without labels.
    pub fn total(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.counter(name, help, [(Vec::new(), value)]);
    }

    /// How long something took, in seconds, with labels.
    pub fn durations(
        &mut self,
        name: &'static str,
        help: &'static str,
        rows: impl IntoIterator<Item = (Labels, Durations)>,
    ) {
        self.add(name, help, FigureRows::Durations(rows.into_iter().collect()));
    }

    fn add(&mut self, name: &'static str, help: &'static str, rows: FigureRows) {
        self.families.push(FigureFamily { name, help, rows });
    }

    /// In `OpenMetrics`' text.
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Into a text, only a label that cannot be written would fail, and all of ours can.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        for FigureFamily { name, help, rows } in &self.families {
            let kind = match rows {
                FigureRows::Gauges(_) => MetricType::Gauge,
                FigureRows::Counters(_) => MetricType::Counter,
                FigureRows::Durations(_) => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            match rows {
                FigureRows::Gauges(rows) => {
                    rows.iter().try_for_each(|(labels, value)| {
                        row(&mut family, labels, |mut at| at.encode_gauge(value))
                    })?;
                }
                FigureRows::Counters(rows) => rows.iter().try_for_each(|(labels, value)| {
                    row(&mut family, labels, |mut at| {
                        at.encode_counter(value, None::<&Exemplar<Labels, f64>>)
                    })
                })?,
                FigureRows::Durations(rows) => rows.iter().try_for_each(|(labels, durations)| {
                    row(&mut family, labels, |at| durations.0.encode(at))
                })?,
            }
        }
        Ok(())
    }
}

fn row(
    family: &mut MetricEncoder<'_>,
    labels: &Labels,
    value: impl FnOnce(MetricEncoder<'_>) -> std::fmt::Result,
) -> std::fmt::Result {
    value(family.encode_family(labels)?)
}

/// Listens for scrapes; an error says on what, and what to do.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bind().map_err(|error| {
        let told = format!("[metrics]: cannot listen on {address} ({error}); is another program there? `listen` names another port");
        std::io::Error::new(error.kind(), told)
    })
}

/// Answers scrapes until its task ends. What one connection does concerns no other.
pub async fn serve<Told: Future<Output = String> + Send>(
    listener: TcpListener,
    figures: impl Fn() -> Told + Clone + Send + Sync + 'static,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::debug!(%error, "a scrape cannot be accepted");
                // Out of descriptors: until some are closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let figures = figures.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(move |request| answer(request, figures.clone()));
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(REQUEST_DEADLINE).max_buf_size(16 * 1024);
            let served = server.serve_connection(TokioIo::new(connection), service);
            let _ = tokio::time::timeout(LONGEST, served).await;
        });
    }
}

async fn answer<Told: Future<Output = String>>(
    request: Request<Incoming>,
    figures: impl Fn() -> Told,
) -> Result<Response<String>, Infallible> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, HeaderValue::from_static(OPEN_METRICS), figures().await)
        }
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, plain, "ask with GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, plain, "the figures are at /metrics\n".to_owned()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_label_stays_within_its_quotes() {
        let mut figures = Figures::default();
        figures.gauge("x", "Help", [(vec![("name", "a\"} 1\nb\\".to_owned())], 2.5)]);
        let durations = Durations::default();
        durations.took(Duration::from_millis(3));
        figures.durations("took_seconds", "Help", [(Vec::new(), durations)]);
        figures.total("done", "Help", 3.0);
        let text = figures.text();
        assert!(text.contains("x{name=\"a\\\"} 1\\nb\\\\\"} 2.5\n"), "{text}");
        assert!(text.contains("took_seconds_bucket{le=\"0.005\"} 1\n"), "{text}");
        assert!(text.contains("done_total 3.0\n") && text.ends_with("# EOF\n"), "{text}");
    }
}
