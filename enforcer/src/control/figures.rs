//! What Prometheus is told, at `/metrics` of a port of its own: the figures that `status` shows, and how long each step took.
//! docs/metrics.md has all of them.

use atalaya_program::metrics::{Figures, Labels};
use atalaya_wire::Name;
use jiff::Timestamp;

use super::Control;
use super::answers::{RouterAnswer, SensorAnswer, Status};
use super::status::snapshot;
use crate::router::{Enforcement, State};

/// Of so many sensors and routers each has rows of its own, in the order of their names; sums count all.
const MOST_NAMES: usize = 10_000;

/// The figures of this moment, as `OpenMetrics`' text.
pub fn figures(control: &Control) -> String {
    let status = snapshot(control);
    let mut figures = Figures::of_process("atalaya_enforcer", &status.release, seconds(status.started));
    of_enforcer(&status, &mut figures);
    of_routers(&status, &mut figures);
    of_sensors(&status, &mut figures);
    let routers = control.routers.now();
    figures.durations(
        "atalaya_enforcer_router_answer_seconds",
        "From sending an add, set or remove to the router's answer",
        routers.iter().take(MOST_NAMES).map(|router| (router_label(&router.name()), router.answered())),
    );
    figures.durations(
        "atalaya_enforcer_offences_ack_seconds",
        "From the arrival of a sensor's offences until the ledger has them on disk and they are acked",
        [(Vec::new(), control.intake.acked())],
    );
    figures.text()
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

fn router_label(name: &Name) -> Labels {
    vec![("router", name.to_string())]
}

fn of_enforcer(status: &Status, figures: &mut Figures) {
    figures.value("atalaya_enforcer_bans", "Bans that stand", status.bans as f64);
    figures.value(
        "atalaya_enforcer_widened_networks",
        "Networks that many bans became",
        status.widened as f64,
    );
    figures.value("atalaya_enforcer_allowances", "Allowances made at run time", status.allowances as f64);
    figures.value(
        "atalaya_enforcer_ledger_trouble",
        "1 while the ledger cannot be written",
        f64::from(u8::from(status.ledger_trouble.is_some())),
    );
    let faults = status.faults.iter().take(MOST_NAMES).map(|fault| {
        let kind = serde_json::to_value(fault.kind).ok();
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default().to_owned();
        let name = fault.name.as_ref().map(ToString::to_string).unwrap_or_default();
        (vec![("kind", kind), ("name", name)], 1.0)
    });
    figures.gauge(
        "atalaya_enforcer_fault",
        "1 for each fault that `status` shows: its kind, and the router or sensor that it is of",
        faults,
    );
    let decisions = status.decisions;
    let results = [
        ("banned", decisions.banned),
        ("extended", decisions.extended),
        ("already_banned", decisions.already_banned),
        ("allowed", decisions.allowed),
        ("protected", decisions.protected),
        ("too_late", decisions.too_late),
    ];
    figures.counter(
        "atalaya_enforcer_offences",
        "Offences of sensors, by what became of them",
        results.map(|(result, count)| (vec![("result", result.to_owned())], count as f64)),
    );
    figures.total("atalaya_enforcer_bans_by_hand", "Bans that were made by hand", decisions.by_hand as f64);
    figures.total("atalaya_enforcer_bans_expired", "Bans that ended in time", decisions.expired as f64);
    if let Some(files) = status.open_files {
        figures.value(
            "atalaya_enforcer_open_files",
            "Descriptors in use, as `status` counts them",
            files.used as f64,
        );
    }
}

fn of_routers(status: &Status, figures: &mut Figures) {
    let routers = &status.routers[..status.routers.len().min(MOST_NAMES)];
    of_lists(routers, figures);
    of_rules(routers, figures);
    of_commands(routers, figures);
}

/// What is on routers' lists, and how they are.
fn of_lists(routers: &[RouterAnswer], figures: &mut Figures) {
    let mut gauge = |name, help, value: &dyn Fn(&RouterAnswer) -> Option<f64>| {
        let rows =
            routers.iter().filter_map(|router| Some((router_label(&router.status.name), value(router)?)));
        figures.gauge(name, help, rows);
    };
    gauge(
        "atalaya_enforcer_router_connected",
        "1 while the enforcer is logged in to the router",
        &|router| Some(f64::from(u8::from(matches!(router.status.state, State::Reading | State::Connected)))),
    );
    gauge("atalaya_enforcer_router_wanted_entries", "Bans that are for the router", &|router| {
        Some(router.status.desired as f64)
    });
    gauge("atalaya_enforcer_router_held_entries", "Entries of ours that the router holds", &|router| {
        Some(router.status.ours as f64)
    });
    gauge("atalaya_enforcer_router_foreign_entries", "Entries of others on its lists", &|router| {
        Some(router.status.foreign as f64)
    });
    gauge(
        "atalaya_enforcer_router_missing_entries",
        "Bans that it should hold for over a minute and does not",
        &|router| Some(router.status.missing.as_ref().map_or(0, |missing| missing.count) as f64),
    );
    gauge("atalaya_enforcer_router_left_out_bans", "Bans left out at the router's limit", &|router| {
        Some(router.status.left_out as f64)
    });
    gauge("atalaya_enforcer_router_queued", "Prefixes that wait to be sent", &|router| {
        Some(router.status.queued as f64)
    });
    gauge("atalaya_enforcer_router_in_flight_commands", "Commands sent and not yet answered", &|router| {
        Some(router.status.in_flight as f64)
    });
    gauge("atalaya_enforcer_router_window_commands", "The most commands in flight now", &|router| {
        Some(router.status.window as f64)
    });
    gauge("atalaya_enforcer_router_round_trip_seconds", "What a command takes lately, smoothed", &|router| {
        Some(router.status.round_trip_us? as f64 / 1e6)
    });
    gauge(
        "atalaya_enforcer_router_cpu_load_ratio",
        "The load of the router's processor, 0 to 1",
        &|router| Some(f64::from(router.status.cpu_load?) / 100.0),
    );
}

/// What routers do by their lists.
fn of_rules(routers: &[RouterAnswer], figures: &mut Figures) {
    let families = |router: &RouterAnswer| {
        [("ipv4", router.status.ipv4_rule.clone()), ("ipv6", router.status.ipv6_rule.clone())].map(
            |(family, rule)| {
                (vec![("router", router.status.name.to_string()), ("family", family.to_owned())], rule)
            },
        )
    };
    let rules: Vec<(Labels, Enforcement)> = routers.iter().flat_map(families).collect();
    figures.gauge(
        "atalaya_enforcer_router_dropping",
        "1 where a rule of the router drops what the list holds, 0 where none does; no row where that is not known",
        rules.iter().filter_map(|(labels, rule)| match rule {
            Enforcement::Dropped { .. } => Some((labels.clone(), 1.0)),
            Enforcement::Passed { .. } => Some((labels.clone(), 0.0)),
            Enforcement::Off | Enforcement::Unread | Enforcement::Unclear { .. } => None,
        }),
    );
    figures.counter(
        "atalaya_enforcer_router_dropped_packets",
        "Packets that the router's rules dropped by the list, since their counters began",
        rules.iter().filter_map(|(labels, rule)| match rule {
            Enforcement::Dropped { packets: Some(packets), .. } => Some((labels.clone(), *packets as f64)),
            _ => None,
        }),
    );
}

/// What was asked of routers.
fn of_commands(routers: &[RouterAnswer], figures: &mut Figures) {
    let counts = |router: &RouterAnswer| {
        let counts = router.status.counts;
        [("add", counts.adds), ("set", counts.sets), ("remove", counts.removes), ("print", counts.prints)]
            .map(|(kind, count)| {
                (vec![("router", router.status.name.to_string()), ("command", kind.to_owned())], count as f64)
            })
    };
    figures.counter(
        "atalaya_enforcer_router_commands",
        "Commands that the router carried out",
        routers.iter().flat_map(counts),
    );
    let mut counter = |name, help, value: fn(&RouterAnswer) -> u64| {
        figures.counter(
            name,
            help,
            routers.iter().map(|router| (router_label(&router.status.name), value(router) as f64)),
        );
    };
    counter("atalaya_enforcer_router_refusals", "Commands that the router refused", |router| {
        router.status.counts.traps
    });
    counter("atalaya_enforcer_router_unanswered", "Commands that it never answered", |router| {
        router.status.counts.unanswered
    });
    counter("atalaya_enforcer_router_sessions", "Logins to the router", |router| router.status.sessions);
    counter("atalaya_enforcer_router_reboots", "Reboots of the router that were noticed", |router| {
        router.status.reboots
    });
}

fn of_sensors(status: &Status, figures: &mut Figures) {
    figures.value(
        "atalaya_enforcer_sensors",
        "Sensors that are enrolled or were heard of",
        status.sensors.len() as f64,
    );
    let sensors: Vec<(&Name, &SensorAnswer)> = status.sensors.iter().take(MOST_NAMES).collect();
    let label = |name: &Name| vec![("sensor", name.to_string())];
    figures.gauge(
        "atalaya_enforcer_sensor_last_heard_timestamp_seconds",
        "When the sensor was heard of last, in seconds since 1970",
        sensors.iter().filter_map(|(name, sensor)| Some((label(name), seconds(sensor.seen.last?)))),
    );
    figures.gauge(
        "atalaya_enforcer_sensor_clock_skew_seconds",
        "How far the sensor's clock is behind the enforcer's (below 0: ahead), where it is off",
        sensors.iter().filter_map(|(name, sensor)| Some((label(name), sensor.seen.skew_seconds? as f64))),
    );
    figures.counter(
        "atalaya_enforcer_sensor_offences",
        "Offences that came from the sensor",
        sensors.iter().map(|(name, sensor)| (label(name), sensor.seen.offences as f64)),
    );
    let odd = |(name, sensor): &(&Name, &SensorAnswer)| {
        let odd = &sensor.seen.oddities;
        [
            ("over_rate", odd.over_rate),
            ("jails_refused", odd.jails_refused),
            ("rejected", odd.rejected),
            ("over_share", odd.over_share),
        ]
        .map(|(kind, count)| (vec![("sensor", name.to_string()), ("kind", kind.to_owned())], count as f64))
    };
    figures.gauge(
        "atalaya_enforcer_sensor_oddities",
        "What the sensor did beyond its share within a quarter of an hour",
        sensors.iter().flat_map(odd),
    );
}
