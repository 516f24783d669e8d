//! What is wrong with sensors, and with who is connected: read off a status as the other [faults](super::fault) are.

use atalaya_wire::Name;
use jiff::{SignedDuration, Timestamp};

use super::answers::{Fault, FaultKind, SensorAnswer, Status};
use crate::intake::Oddities;
use crate::intake::entrance::ConnectionsStatus;
use crate::intake::skew::TOLERATED;
use atalaya_program::count::{agreeing, count, counted};

/// After how long without a word a sensor counts as silent. Ours are heard every minute, however quiet
/// their hosts are.
const SILENCE: SignedDuration = SignedDuration::from_mins(10);
/// How many sensors that have not joined are named.
const NAMED: usize = 3;

/// What is wrong, those of one kind since the longest first.
pub(super) fn sensor_faults(status: &Status) -> Vec<Fault> {
    let sensors = || status.sensors.iter();
    let mut faults = connections(&status.connections);
    faults.extend(sensors().filter_map(|(name, sensor)| odd(name, &sensor.seen.oddities)));
    let mut silent: Vec<Fault> =
        sensors().filter_map(|(name, sensor)| silent(name, sensor, status)).collect();
    silent.extend(not_joined(status));
    silent.sort_by_key(|fault| fault.since);
    faults.extend(silent);
    faults.extend(sensors().filter_map(|(name, sensor)| clock(name, sensor)));
    faults
}

fn fault(kind: FaultKind, name: Option<&Name>, since: Option<Timestamp>, text: String) -> Fault {
    Fault { kind, name: name.cloned(), since, text, commands: Vec::new() }
}

fn connections(connections: &ConnectionsStatus) -> Vec<Fault> {
    let ConnectionsStatus {
        most_sensors, refused, strangers, most_strangers, displaced, most_of_one, ..
    } = connections;
    let mut faults = Vec::new();
    if *refused > 0 {
        let text = format!(
            "{} of sensors had no place in the last 15 minutes, for there are {} at most: raise `LimitNOFILE=` of its unit, or `ulimit -Hn`, and start it again",
            counted(*refused, "connection"),
            count(*most_sensors)
        );
        faults.push(fault(FaultKind::Connections, None, None, text));
    }
    if *most_strangers > 0 && strangers >= most_strangers {
        let most = most_of_one.map_or_else(String::new, |(address, of_one)| {
            format!("; the most, {}, are from {address}", count(of_one))
        });
        let text = format!(
            "all {} places are taken by connections on which nobody has authenticated, and {} ended for others in the last 15 minutes{most}: let only your sensors' networks reach the port. Sensors from addresses that are known come in all the same",
            count(*most_strangers),
            count(*displaced)
        );
        faults.push(fault(FaultKind::Strangers, None, None, text));
    }
    faults
}

/// What a sensor does that an honest one does not.
fn odd(name: &Name, oddities: &Oddities) -> Option<Fault> {
    let Oddities { over_rate, jails_refused, rejected, over_share, logins_displaced } = *oddities;
    let what: Vec<String> = [
        (over_rate, format!("{} had to wait, because it sends too much", counted(over_rate, "request"))),
        (
            over_share,
            format!("{} led to no ban, because so many of its bans stand", counted(over_share, "offence")),
        ),
        (
            jails_refused,
            format!(
                "it named a jail that it may not name {}, which led to no ban",
                counted(jails_refused, "time")
            ),
        ),
        (
            logins_displaced,
            format!(
                "{} {} no more, because it reports so many logins (`logins` in [sensors])",
                counted(logins_displaced, "address"),
                agreeing(logins_displaced, "is protected", "are protected")
            ),
        ),
        (rejected, format!("{} could not be understood", counted(rejected, "request"))),
    ]
    .into_iter()
    .filter_map(|(count, text)| (count > 0).then_some(text))
    .collect();
    if what.is_empty() {
        return None;
    }
    let text = format!(
        "odd in the last 15 minutes: {}. If that is no attack on its host: atalaya-enforcer revoke {name}, and unban --sensor {name} lifts its bans",
        what.join("; ")
    );
    Some(fault(FaultKind::SensorOdd, Some(name), None, text))
}

/// Since when an enrolled sensor that is silent has been so; it may never have been heard.
fn silent_since(sensor: &SensorAnswer, status: &Status) -> Option<Timestamp> {
    // One that is enrolled no more may be silent.
    let enrolled = sensor.enrolled?;
    let since = sensor.seen.last.unwrap_or(status.started.max(enrolled));
    (status.now.duration_since(since) >= SILENCE).then_some(since)
}

fn silent(name: &Name, sensor: &SensorAnswer, status: &Status) -> Option<Fault> {
    sensor.seen.last?;
    let since = silent_since(sensor, status)?;
    let text = format!("silent: is its host up? If it is gone for good: atalaya-enforcer revoke {name}");
    Some(fault(FaultKind::SensorSilent, Some(name), Some(since), text))
}

/// Those that were never heard, in one.
fn not_joined(status: &Status) -> Option<Fault> {
    let sensors = status.sensors.iter().filter(|(_, sensor)| sensor.seen.last.is_none());
    let silent: Vec<(&Name, Timestamp)> =
        sensors.filter_map(|(name, sensor)| Some((name, silent_since(sensor, status)?))).collect();
    let since = silent.iter().map(|(_, since)| *since).min();
    let (name, text) = match &silent[..] {
        [] => return None,
        [(name, _)] => (
            Some(*name),
            format!("not heard yet: has it joined? If it is gone for good: atalaya-enforcer revoke {name}"),
        ),
        several => {
            let named: Vec<&str> = several.iter().take(NAMED).map(|(name, _)| name.as_str()).collect();
            let others = match several.len() - named.len() {
                0 => String::new(),
                others => format!(" and {}", counted(others, "other")),
            };
            let text = format!(
                "{} are enrolled and not heard yet: {}{others}. Have they joined? `atalaya-enforcer sensors` shows all; if one is gone for good: atalaya-enforcer revoke NAME",
                count(several.len()),
                named.join(", ")
            );
            (None, text)
        }
    };
    Some(fault(FaultKind::SensorSilent, name, since, text))
}

fn clock(name: &Name, sensor: &SensorAnswer) -> Option<Fault> {
    let skew =
        sensor.seen.skew_seconds.filter(|skew| skew.unsigned_abs() > TOLERATED.as_secs().unsigned_abs())?;
    let way = if skew > 0 { "behind" } else { "ahead" };
    let text = format!(
        "its clock is {} s {way}, so that what it reports is dated by when it arrives: is NTP on there (`timedatectl`)?",
        skew.unsigned_abs()
    );
    Some(fault(FaultKind::SensorClock, Some(name), None, text))
}

#[cfg(test)]
mod tests {
    use super::super::fault::tests::{at, status};
    use super::*;
    use crate::intake::Seen;

    fn sensor(enrolled: i64, last: Option<i64>, oddities: Oddities) -> SensorAnswer {
        let seen = Seen { last: last.map(at), oddities, ..Seen::default() };
        SensorAnswer { enrolled: Some(at(enrolled)), jails: None, seen }
    }

    #[test]
    fn hundreds_of_sensors_that_never_joined_are_one_fault_and_one_that_fell_silent_is_its_own() {
        let mut status = status(10_000);
        for number in 0..298 {
            let name = format!("new-{number:03}").parse().unwrap();
            status.sensors.insert(name, sensor(100, None, Oddities::default()));
        }
        status.sensors.insert("web-1".parse().unwrap(), sensor(0, Some(50), Oddities::default()));
        let faults = sensor_faults(&status);
        let [silent, joined] = &faults[..] else { panic!("{faults:?}") };
        assert_eq!((silent.name.as_ref().unwrap().as_str(), silent.since), ("web-1", Some(at(50))));
        assert!(
            joined
                .text
                .starts_with("298 are enrolled and not heard yet: new-000, new-001, new-002 and 295 others."),
            "{}",
            joined.text
        );
        assert_eq!((joined.name.as_ref(), joined.since), (None, Some(at(100))));
    }

    #[test]
    fn a_sensor_that_behaves_oddly_is_named_with_what_it_did() {
        let mut status = status(100);
        let oddities =
            Oddities { over_rate: 1, jails_refused: 2, rejected: 3, over_share: 4, logins_displaced: 5 };
        status.sensors.insert("evil".parse().unwrap(), sensor(0, Some(90), oddities));
        status.sensors.insert("good".parse().unwrap(), sensor(0, Some(90), Oddities::default()));
        let [fault] = &sensor_faults(&status)[..] else { panic!("one fault") };
        assert_eq!((fault.kind, fault.name.as_ref().unwrap().as_str()), (FaultKind::SensorOdd, "evil"));
        for says in [
            "1 request had to wait",
            "4 offences led to no ban, because so many of its bans stand",
            "it named a jail that it may not name 2 times",
            "5 addresses are protected no more, because it reports so many logins",
            "3 requests could not be understood",
            "unban --sensor evil",
        ] {
            assert!(fault.text.contains(says), "{says}: {}", fault.text);
        }
    }

    #[test]
    fn strangers_that_hold_all_places_and_sensors_without_one_are_faults() {
        let mut status = status(100);
        status.connections =
            ConnectionsStatus { strangers: 511, most_strangers: 512, ..ConnectionsStatus::default() };
        assert!(sensor_faults(&status).is_empty());
        status.connections = ConnectionsStatus {
            strangers: 512,
            displaced: 7000,
            most_of_one: Some(("192.0.2.66".parse().unwrap(), 32)),
            refused: 2,
            most_sensors: 400,
            ..status.connections
        };
        let faults = sensor_faults(&status);
        assert_eq!(
            faults.iter().map(|fault| fault.kind).collect::<Vec<_>>(),
            [FaultKind::Connections, FaultKind::Strangers]
        );
        assert!(faults[0].text.starts_with(
            "2 connections of sensors had no place in the last 15 minutes, for there are 400 at most"
        ));
        assert!(faults[1].text.contains("all 512 places"), "{}", faults[1].text);
        assert!(
            faults[1].text.contains("7,000 ended for others")
                && faults[1].text.contains("the most, 32, are from 192.0.2.66")
        );
    }
}
