//! Measures the ledger at the size of years: `cargo run --release --example ledger_scale -- STANDING OVER
//! [FOLDER]`; a folder that is named stays, and an enforcer can be started on it.
//! Prints how fast offences are written, how long a start takes, what it needs of memory, and how long the
//! looks take that a decision and a command wait for.

use std::time::{Duration, Instant};

use atalaya_enforcer::clock::Clock;
use atalaya_enforcer::desired::{Labels, Origin};
use atalaya_enforcer::ledger::HistoryConfig;
use atalaya_enforcer::ledger::{Ban, Change, Ledger, Selection, Sort, Terms, Which};
use atalaya_wire::{Evidence, Name, Seconds};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

type Failure = Box<dyn std::error::Error>;

/// How many offences come in one batch.
const BATCH: u32 = 1000;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |standard: u32| arguments.next().map_or(Ok(standard), |text| text.parse());
    let (standing, over) = (number(1_000_000)?, number(1_000_000)?);
    let named = std::env::args().nth(3).map(std::path::PathBuf::from);
    let folder = named
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("atalaya-ledger-scale-{}", std::process::id())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(measure(&folder, standing, over));
    if named.is_none() {
        std::fs::remove_dir_all(&folder)?;
    }
    result
}

async fn measure(folder: &std::path::Path, standing: u32, over: u32) -> Result<(), Failure> {
    let clock = Clock::system();
    let now = clock.now();
    let year = SignedDuration::from_hours(365 * 24);
    let terms = Terms {
        history: HistoryConfig { keep: Seconds(10 * 365 * 86_400), max_size: u64::MAX },
        logins: None,
        clock,
    };

    let (ledger, _, writer) = Ledger::open(folder, &terms, &mut Labels::default())?;
    let begun = Instant::now();
    for first in (0..over).step_by(BATCH as usize) {
        let mut changes = Vec::with_capacity(2 * BATCH as usize);
        for number in first..(first + BATCH).min(over) {
            // In the order of time, over a year; every address comes back a few times.
            let ended =
                now - year + year.checked_mul(number.cast_signed()).ok_or("too many")? / over.cast_signed();
            let ban = ban(number % (over / 4).max(1), ended - SignedDuration::from_secs(600), Some(ended))?;
            let prefix = ban.prefix;
            changes.push(Change::Ban(Box::new(ban)));
            changes.push(Change::End { prefix, at: ended, by: "expired".to_owned() });
        }
        ledger.write(changes).committed().await?;
    }
    told("bans that are over, each with its end", over, begun.elapsed());

    let mut slowest = Duration::ZERO;
    let begun = Instant::now();
    for first in (0..standing).step_by(BATCH as usize) {
        let mut changes = Vec::with_capacity(BATCH as usize + 1);
        for number in first..(first + BATCH).min(standing) {
            let until = Some(now + SignedDuration::from_hours(24)).filter(|_| number % 10 > 0);
            changes.push(Change::Ban(Box::new(ban(number, now, until)?)));
        }
        changes.push(Change::Through {
            sensor: "web-1".parse()?,
            outbox: "o".parse()?,
            sequence: u64::from(first + BATCH),
        });
        let one = Instant::now();
        ledger.write(changes).committed().await?;
        slowest = slowest.max(one.elapsed());
    }
    told("offences in batches of 1,000, one after the other", standing, begun.elapsed());
    println!("  the slowest batch: {:.1} ms", slowest.as_secs_f64() * 1e3);
    drop(ledger);
    writer.join();
    let size = std::fs::metadata(folder.join("ledger.sqlite3"))?.len();
    println!("the file: {:.0} MB", size as f64 / 1e6);

    let before = resident()?;
    let begun = Instant::now();
    let (ledger, saved, writer) = Ledger::open(folder, &terms, &mut Labels::default())?;
    let opened = begun.elapsed();
    println!(
        "start with {} bans: {:.2} s to open and read; {:.0} MB of memory more, {:.0} MB in total",
        saved.bans.len(),
        opened.as_secs_f64(),
        (resident()? - before) as f64 / 1e6,
        resident()? as f64 / 1e6
    );
    drop(saved);

    let looks = 20_000;
    let jail: Name = "ssh".parse()?;
    let mut took = Vec::with_capacity(looks as usize);
    let mut earlier = 0;
    for look in 0..looks {
        let prefix = prefix(fastrand::u32(0..over.max(1)));
        let begun = Instant::now();
        let found = ledger.earlier_bans(prefix, Some(&jail).filter(|_| look % 2 == 0), now - year)?;
        took.push(begun.elapsed());
        earlier += found.len();
    }
    took.sort();
    println!(
        "earlier bans of an address: p50 {:.1} µs, p99 {:.1} µs ({earlier} found in {looks} looks)",
        took[took.len() / 2].as_secs_f64() * 1e6,
        took[took.len() * 99 / 100].as_secs_f64() * 1e6
    );
    let all = Selection { which: Which::All, ..Selection::default() };
    for (what, selection) in [
        ("the latest 50 that stand", Selection { limit: Some(50), ..Selection::default() }),
        ("the latest 50 of all", Selection { limit: Some(50), ..all.clone() }),
        ("all of one address and around it", Selection { address: Some(prefix(7)), ..all.clone() }),
        (
            "the latest 50 of one jail",
            Selection { jail: Some("ssh".parse()?), limit: Some(50), ..all.clone() },
        ),
        (
            "the 50 with the most strikes that stand",
            Selection { sort: Sort::Strikes, limit: Some(50), ..Selection::default() },
        ),
        ("the 50 that end first", Selection { sort: Sort::Ending, limit: Some(50), ..Selection::default() }),
        ("all that stand", Selection::default()),
        ("all of the past", Selection { which: Which::Over, ..all }),
    ] {
        let begun = Instant::now();
        let (mut count, mut first) = (0, None);
        ledger.each_ban(&selection, now, &mut |_| {
            first.get_or_insert_with(|| begun.elapsed());
            count += 1;
            true
        })?;
        println!(
            "{what}: {count} in {:.1} ms, the first after {:.1} ms",
            begun.elapsed().as_secs_f64() * 1e3,
            first.unwrap_or_default().as_secs_f64() * 1e3
        );
    }
    drop(ledger);
    writer.join();

    if folder_stays() {
        return Ok(());
    }
    // Half of the past goes while a ban comes every few milliseconds.
    let terms = Terms { history: HistoryConfig { keep: Seconds(182 * 86_400), ..terms.history }, ..terms };
    let (ledger, saved, writer) = Ledger::open(folder, &terms, &mut Labels::default())?;
    drop(saved);
    let mut took = Vec::new();
    let begun = Instant::now();
    let mut number = 3_000_000_000_u32;
    while begun.elapsed() < Duration::from_secs(30) {
        number += 1;
        let one = Instant::now();
        ledger.write(vec![Change::Ban(Box::new(ban(number, now, None)?))]).committed().await?;
        took.push(one.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took.sort();
    let mut left = 0_u32;
    ledger.each_ban(&Selection { which: Which::Over, ..Selection::default() }, now, &mut |_| {
        left += 1;
        true
    })?;
    println!(
        "a ban's commit while the past is cleared ({left} of {over} are left after 30 s): p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        took[took.len() / 2].as_secs_f64() * 1e3,
        took[took.len() * 99 / 100].as_secs_f64() * 1e3,
        took[took.len() - 1].as_secs_f64() * 1e3
    );
    drop(ledger);
    writer.join();
    Ok(())
}

fn folder_stays() -> bool {
    std::env::args().len() > 3
}

/// An address of its own for each of the first 16 million numbers, in no order; none that nobody may have.
fn prefix(number: u32) -> IpNet {
    let scattered = number.wrapping_mul(2_654_435_761) & 0x00FF_FFFF;
    IpNet::from(std::net::IpAddr::from((0x0B00_0000 | scattered).to_be_bytes()))
}

fn ban(number: u32, since: Timestamp, until: Option<Timestamp>) -> Result<Ban, Failure> {
    let line = format!("sshd[{number}]: Failed password for invalid user admin from somewhere port 22 ssh2");
    Ok(Ban {
        prefix: prefix(number),
        since,
        until,
        origin: Origin::Sensor {
            jail: ["ssh", "smtp", "web"][number as usize % 3].parse()?,
            sensor: format!("web-{}", number % 50).parse()?,
        },
        evidence: (0..3).map(|_| Evidence::new(since, "/var/log/auth.log", &line)).collect(),
        strikes: 0,
        ended: None,
        ended_by: None,
    })
}

fn told(what: &str, count: u32, took: Duration) {
    let rate = f64::from(count) / took.as_secs_f64();
    println!("{count} {what}: {:.1} s, {rate:.0}/s", took.as_secs_f64());
}

/// The memory of this process, in bytes.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
