//! How fast the filters are, in this process alone: `cargo xtask bench filters` runs it beside the other
//! programs. The arguments are a log with failures of the one-regex jail, one of sshd, and the folder of
//! fail2ban's filters.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set its scene fails")]

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use atalaya_sensor::fail2ban::Fail2ban;
use atalaya_sensor::filter::{Filter, Host, LineOutcome, Match, Scanner};
use jiff::Timestamp;
use jiff::tz::TimeZone;

const SEED: &str = r"^.*\[\s*<HOST>\s*\].*Error: authentication failed";
const BLOCK: usize = 1 << 20;
/// How often each is measured; the fastest counts.
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [mail, auth, fail2ban] = &arguments[..] else {
        // Plain `cargo bench` gives no logs.
        println!("run `cargo xtask bench filters`");
        return;
    };
    let read = Fail2ban::read(Path::new(fail2ban)).unwrap();
    let stock = |name: &str| read.filter(name).ok().and_then(|definition| definition.compile().ok());
    let one = Filter::new(&[SEED.to_owned()], &[]).unwrap();
    report("the one-regex jail", mail, &mut [one.clone()]);
    let sshd = stock("sshd").unwrap();
    report("sshd of fail2ban", auth, &mut [sshd.clone()]);
    let calm = Path::new(mail).with_file_name("calm.log");
    let calm = calm.to_str().unwrap();
    let one_calm = report("the one-regex jail, nothing matches", calm, &mut [one]);
    let sshd_calm = report("sshd of fail2ban, nothing matches", calm, &mut [sshd]);
    let mut names: Vec<String> = std::fs::read_dir(Path::new(fail2ban).join("filter.d"))
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".conf")?.to_owned()))
        .collect();
    names.sort_unstable();
    let mut many: Vec<Filter> =
        names.iter().filter_map(|name| stock(name)).filter(Filter::is_gated).take(50).collect();
    let fifty = report(&format!("{} filters of fail2ban, nothing matches", many.len()), calm, &mut many);
    println!("50 filters to one regex: {:.2}", fifty.as_secs_f64() / one_calm.as_secs_f64());
    println!("50 filters to one sshd: {:.2}", fifty.as_secs_f64() / sshd_calm.as_secs_f64());
}

/// Reads a log through filters, with addresses and dates extracted, and prints lines a second.
fn report(what: &str, path: &str, filters: &mut [Filter]) -> Duration {
    let (mut best, mut lines, mut matched) = (Duration::MAX, 0, 0);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        (lines, matched) = pass(path, filters);
        best = best.min(start.elapsed());
    }
    let rate = lines as f64 / best.as_secs_f64() / 1e6;
    println!(
        "{what}: {rate:.2} M lines/s; {lines} lines, {matched} matched, {:.1} ms",
        best.as_secs_f64() * 1e3
    );
    best
}

fn pass(path: &str, filters: &mut [Filter]) -> (usize, usize) {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; BLOCK];
    let (mut filled, mut lines, mut matched) = (0, 0, 0);
    let (now, zone) = (Timestamp::now(), TimeZone::UTC);
    let scanner = (filters.len() > 1).then(|| Scanner::new(filters.iter().enumerate()));
    loop {
        let read = file.read(&mut buffer[filled..]).unwrap();
        if read == 0 {
            return (lines, matched);
        }
        filled += read;
        let end = buffer[..filled].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let block = &buffer[..end];
        lines += memchr::memchr_iter(b'\n', block).count();
        let mut count = |filter: &Filter, line: &[u8], verdict: LineOutcome| {
            if let LineOutcome::Matched(Match { host: Host::Address(_), .. }) = verdict {
                matched += usize::from(filter.dates().find(line, now, &zone).is_some());
            }
        };
        match &scanner {
            Some(scanner) => scanner.scan(block, |number, line| {
                let verdict = filters[number].find(line);
                count(&filters[number], line, verdict);
            }),
            None => {
                let filter = &mut filters[0];
                let dates = filter.clone();
                filter.find_in_block(block, |line, verdict| count(&dates, line, verdict));
            }
        }
        buffer.copy_within(end..filled, 0);
        filled -= end;
    }
}
