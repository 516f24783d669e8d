//! The folders of both programs import downward alone, and a name of a type means one thing. The tables are the rule; `structure.rs` of this crate reads the
//! sources, and proves on planted ones that it finds what breaks it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::path::{Path, PathBuf};

use atalaya_end_to_end::structure::{Table, defined_twice, too_long};

const ENFORCER: Table = Table {
    tiers: "cli > service > config, control > intake > bans, router > ledger > desired > enrolment, tls > prefixes, clock, count, database, state",
    sideways: &[],
    apart: &[],
};

const SENSOR: Table = Table {
    // `rfc5424` is a form of line that dates, filters, the detector and the syslog listener all have to take apart;
    // `carrier` one of files, which `test`, the follower and the detector have to.
    tiers: "cli, service > control > uplink > detector, config > fail2ban, store, local_drop > source, jail > kernel > channel > pinned, filter > confine, date > rfc5424, carrier, json",
    sideways: &[
        // A jail is set to a source: what it reads of the journal, and what the kernel is to count, are the source's.
        ("jail", "source"),
        // `run` starts the service.
        ("cli", "service"),
    ],
    // What runs in the privileged process, and what it shares with the worker: what the two say to each other, what is
    // pinned in the kernel for both to open, and how a process gives up its rights.
    apart: &[("loader", &["channel", "pinned", "confine"])],
};

/// Names that a crate may define more than once, and why.
const DEFINED_TWICE: [(&str, &[(&str, &str)]); 9] = [
    ("enforcer", &[("Arguments", COMMANDS)]),
    ("sensor", &[("Arguments", COMMANDS)]),
    ("wire", &[]),
    ("wire/program", &[]),
    ("xtask", &[("Arguments", COMMANDS)]),
    ("sensor-ebpf", &[]),
    ("tests/routeros-sim", &[]),
    ("tests/end-to-end", &[]),
    ("tests/faults", &[]),
];
const COMMANDS: &str = "what a command takes is spoken of with the command's module: `lint::Arguments`";

#[test]
fn the_enforcers_rooms_import_downward_alone() {
    test_of(&ENFORCER, "enforcer");
}

#[test]
fn no_file_and_no_function_of_the_enforcer_is_too_long_to_be_kept_in_mind() {
    let long = too_long(&source("enforcer")).unwrap();
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

#[test]
fn the_sensors_rooms_import_downward_alone() {
    test_of(&SENSOR, "sensor");
}

#[test]
fn no_file_and_no_function_of_the_sensor_is_too_long_to_be_kept_in_mind() {
    let long = too_long(&source("sensor")).unwrap();
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

#[test]
fn no_crate_gives_two_types_one_name() {
    let twice: Vec<String> = DEFINED_TWICE
        .iter()
        .flat_map(|(member, allowed)| defined_twice(&source(member), allowed).unwrap())
        .collect();
    assert!(twice.is_empty(), "names with more than one meaning:\n{}", twice.join("\n"));
}

fn test_of(table: &Table, program: &str) {
    let broken = table.broken(&source(program)).unwrap();
    assert!(broken.is_empty(), "lines that break the rule of the rooms:\n{}", broken.join("\n"));
}

fn source(program: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    workspace.join(program).join("src")
}
