//! Files that are rotated while nobody looks: each line that was written arrives once, wherever it stands by then.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod following;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use following::{Log, Watch, append_to, archive};

/// How a log is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// logrotate's `create`.
    Create,
    /// logrotate's `nocreate`: the daemon makes the file with its next line.
    Later,
    /// Renamed, while the daemon writes on until it reopens.
    WrittenOn,
    /// logrotate's `copytruncate`.
    Copy,
}

const ALL: [How; 4] = [How::Create, How::Later, How::WrittenOn, How::Copy];

/// A log whose archives are all kept, named by number or by date.
struct Rotated {
    log: Log,
    is_dated: bool,
    archives: usize,
}

// === impl Rotated ===

impl Rotated {
    fn new(folder: &Path, is_dated: bool) -> Self {
        let log = Log { width: 24, ..Log::create(&folder.join("x.log")) };
        Self { log, is_dated, archives: 0 }
    }

    fn rotate(&mut self, how: How) {
        let path = self.log.path.clone();
        await_clock_step(path.parent().unwrap());
        let target = if self.is_dated {
            PathBuf::from(format!("{}-20261130-{}", path.display(), 1_790_000_000 + self.archives))
        } else {
            for number in (1..=self.archives).rev() {
                fs::rename(archive(&path, number), archive(&path, number + 1)).unwrap();
            }
            archive(&path, 1)
        };
        self.archives += 1;
        if how == How::Copy {
            fs::copy(&path, target).unwrap();
            self.log.file.set_len(0).unwrap();
            return;
        }
        fs::rename(&path, target).unwrap();
        match how {
            How::Create => drop(append_to(&path)),
            How::WrittenOn => {
                drop(append_to(&path));
                self.log.write(3);
            }
            How::Later | How::Copy => {}
        }
        self.log.reopen();
    }
}

/// Returns once files get another time than those that were written before: the kernel gives times in steps of some
/// milliseconds, in which nobody rotates twice.
fn await_clock_step(folder: &Path) {
    let time = || {
        let file = tempfile::NamedTempFile::new_in(folder).unwrap();
        file.as_file().metadata().unwrap().modified().unwrap()
    };
    let now = time();
    while time() == now {
        std::thread::yield_now();
    }
}

/// Numbers that look random, the same ones for a seed.
struct Dice(u64);

// === impl Dice ===

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // Knuth's MMIX generator; its low bits are poor.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

#[test]
fn a_log_rotated_several_times_while_nobody_looks_is_read_in_all_its_archives() {
    for is_dated in [false, true] {
        for first in ALL {
            for second in ALL {
                for is_down in [false, true] {
                    let folder = tempfile::tempdir().unwrap();
                    let mut rotated = Rotated::new(folder.path(), is_dated);
                    let mut watch = Watch::start(&rotated.log.path);
                    rotated.log.write(10);
                    watch.wait(10);
                    // Held up, the follower gets no further than to its next line.
                    let arrived = watch.arrived.clone();
                    let held = (!is_down).then(|| arrived.lock().unwrap());
                    if is_down {
                        watch.stop();
                    }
                    for how in [first, second, first] {
                        rotated.log.write(5);
                        rotated.rotate(how);
                    }
                    rotated.log.write(5);
                    drop(held);
                    if is_down {
                        watch.go();
                    }
                    println!("dated: {is_dated}, {first:?} and {second:?}, down: {is_down}");
                    watch.assert_each_once(rotated.log.next);
                }
            }
        }
    }
}

#[test]
fn whatever_comes_between_writing_rotating_stopping_and_kills_each_line_arrives_once() {
    // More of them where somebody looks for what is rare.
    let number = |name: &str, or: u64| std::env::var(name).map_or(or, |number| number.parse().unwrap());
    let first = number("ROTATION_FROM", 0);
    for seed in first..first + number("ROTATION_SEEDS", 40) {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let folder = tempfile::tempdir().unwrap();
        let mut rotated = Rotated::new(folder.path(), dice.below(2) == 0);
        let mut watch = Watch::start(&rotated.log.path);
        rotated.log.write(3);
        watch.wait(3);
        {
            let mut arrived = watch.arrived.lock().unwrap();
            arrived.keep_every = 1 + dice.below(7) as usize;
            arrived.keep();
        }
        let mut is_down = false;
        for _ in 0..40 {
            match dice.below(10) {
                0..4 => rotated.log.write(3 + dice.below(400) as usize),
                4 | 5 => {
                    if fs::metadata(&rotated.log.path).unwrap().len() > 0 {
                        rotated.rotate(dice.one(&ALL));
                    }
                }
                6 if !is_down => {
                    watch.stop();
                    is_down = true;
                }
                7 if !is_down => {
                    watch.kill();
                    is_down = true;
                }
                8 if !is_down => {
                    // Stalled for a while.
                    let arrived = watch.arrived.clone();
                    let held = arrived.lock().unwrap();
                    for _ in 0..=dice.below(3) {
                        rotated.log.write(3 + dice.below(40) as usize);
                        rotated.rotate(dice.one(&ALL));
                    }
                    drop(held);
                }
                _ if is_down => {
                    watch.go();
                    is_down = false;
                }
                _ => watch.wait(rotated.log.next.saturating_sub(dice.below(50) as usize)),
            }
        }
        if is_down {
            watch.go();
        }
        watch.assert_each_once(rotated.log.next);
    }
}

#[test]
fn first_lines_that_were_copied_and_truncated_unseen_are_read_in_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let mut rotated = Rotated::new(folder.path(), false);
    let mut watch = Watch::start(&rotated.log.path);
    rotated.log.write(4);
    watch.wait(4);
    rotated.rotate(How::Copy);
    // It is empty, and known to be.
    let until = std::time::Instant::now() + following::PATIENCE;
    while watch.arrived.lock().unwrap().saved.iter().all(|saved| saved.position.offset > 0) {
        let left = until.saturating_duration_since(std::time::Instant::now());
        watch.news.recv_timeout(left).expect("the truncation is seen");
    }
    watch.stop();
    for _ in 0..3 {
        rotated.log.write(4);
        rotated.rotate(How::Copy);
    }
    rotated.log.write(4);
    watch.go();
    watch.assert_each_once(rotated.log.next);
    watch.assert_in_order();
}

#[test]
fn what_is_in_hundreds_of_archives_is_read_once_and_in_order_and_older_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    for number in 1..=300 {
        fs::write(archive(&path, number), "of long ago\n").unwrap();
    }
    let mut rotated = Rotated::new(folder.path(), false);
    rotated.archives = 300;
    let mut watch = Watch::start(&path);
    rotated.log.write(10);
    watch.wait(10);
    watch.stop();
    for round in 0..300 {
        rotated.log.write(10);
        rotated.rotate(ALL[round % ALL.len()]);
    }
    // In which there is nothing for this log.
    fs::write(folder.path().join("x-errors.log"), "of another log\n").unwrap();
    watch.go();
    watch.assert_each_once(rotated.log.next);
}

#[test]
fn an_archive_that_is_deleted_while_it_is_read_is_read_to_its_end_and_what_is_after_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut rotated = Rotated::new(folder.path(), false);
    let mut watch = Watch::start(&rotated.log.path);
    rotated.log.write(10);
    watch.wait(10);
    watch.stop();
    for _ in 0..3 {
        rotated.log.write(40_000);
        rotated.rotate(How::Create);
    }
    watch.go();
    watch.wait(11);
    for number in 1..=3 {
        fs::remove_file(archive(&rotated.log.path, number)).unwrap();
    }
    watch.assert_each_once(rotated.log.next);
}

#[test]
fn where_the_file_that_was_read_is_compressed_the_later_archives_are_read_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut rotated = Rotated::new(folder.path(), false);
    let mut watch = Watch::start(&rotated.log.path);
    rotated.log.write(10);
    watch.wait(10);
    watch.stop();
    // As with `delaycompress`: all but the newest.
    rotated.rotate(How::Create);
    rotated.log.write(10);
    rotated.rotate(How::Create);
    rotated.log.write(10);
    let oldest = archive(&rotated.log.path, 2);
    assert!(Command::new("gzip").arg(&oldest).status().unwrap().success());
    watch.go();
    watch.assert_each_once(rotated.log.next);
}

/// Runs logrotate once over the log, with these directives.
fn logrotate(folder: &Path, log: &Path, directives: &str) {
    let config = folder.join("logrotate.conf");
    fs::write(&config, format!("{} {{\n{directives}\n}}\n", log.display())).unwrap();
    let mut command = Command::new("/usr/sbin/logrotate");
    command.arg("--force").arg("--state").arg(folder.join("state")).arg(&config);
    let output = command.output().expect("logrotate is installed: `cargo xtask setup` does it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn logrotates_own_ways_of_rotating_lose_and_double_nothing() {
    let ways = [
        ("create", "rotate 9\ncreate", How::Create),
        ("nocreate", "rotate 9\nnocreate", How::Later),
        ("copytruncate", "rotate 9\ncopytruncate", How::Copy),
        ("dates", "rotate 9\ncreate\ndateext\ndateformat -%Y%m%d-TIME", How::Create),
        ("dates and copies", "rotate 9\ncopytruncate\ndateext\ndateformat -%Y%m%d-TIME", How::Copy),
        ("compressed later", "rotate 9\ncreate\ncompress\ndelaycompress", How::Create),
    ];
    for (what, directives, how) in ways {
        for is_down in [false, true] {
            let (folder, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let path = logs.path().join("x.log");
            let mut log = Log { width: 24, ..Log::create(&path) };
            let mut watch = Watch::start(&path);
            log.write(10);
            watch.wait(10);
            for round in 0..3 {
                if is_down {
                    watch.stop();
                }
                // logrotate rotates once a name, and would give them all the same one.
                let directives = directives.replace("TIME", &(1_790_000_000 + round).to_string());
                log.write(10);
                logrotate(folder.path(), &path, &directives);
                if how != How::Copy {
                    log.write(3);
                    log.reopen();
                }
                log.write(10);
                if is_down {
                    watch.go();
                }
                watch.wait(log.next);
            }
            println!("{what}, down: {is_down}");
            watch.assert_each_once(log.next);
        }
    }
}

#[test]
fn what_logrotate_deletes_or_compresses_at_once_is_read_by_a_follower_that_runs() {
    for directives in ["rotate 0\nnocreate", "rotate 9\ncreate\ncompress"] {
        let (folder, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = logs.path().join("x.log");
        let mut log = Log { width: 24, ..Log::create(&path) };
        let watch = Watch::start(&path);
        log.write(10);
        watch.wait(10);
        for _ in 0..3 {
            log.write(10);
            logrotate(folder.path(), &path, directives);
            log.reopen();
            log.write(10);
            watch.wait(log.next);
        }
        watch.assert_each_once(log.next);
    }
}

#[test]
fn archives_in_another_folder_are_found_by_a_follower_that_runs() {
    let (folder, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = logs.path().join("x.log");
    fs::create_dir(logs.path().join("old")).unwrap();
    let mut log = Log { width: 24, ..Log::create(&path) };
    let watch = Watch::start(&path);
    log.write(10);
    watch.wait(10);
    for _ in 0..3 {
        log.write(10);
        logrotate(folder.path(), &path, "rotate 9\ncreate\nolddir old");
        log.reopen();
        log.write(10);
        watch.wait(log.next);
    }
    watch.assert_each_once(log.next);
}

#[test]
fn an_empty_archive_of_a_running_rotation_is_no_gap() {
    let folder = tempfile::tempdir().unwrap();
    let mut rotated = Rotated::new(folder.path(), false);
    let mut watch = Watch::start(&rotated.log.path);
    rotated.log.write(10);
    watch.wait(10);
    watch.stop();
    rotated.log.write(10);
    rotated.rotate(How::Create);
    // Rotated though nothing came, as without `notifempty`.
    rotated.rotate(How::Create);
    File::create(archive(&rotated.log.path, 9)).unwrap();
    rotated.log.write(10);
    watch.go();
    watch.assert_each_once(rotated.log.next);
}
