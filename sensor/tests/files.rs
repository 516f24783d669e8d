//! Following files while they are written at full speed and rotated in every way: each line that was
//! written arrives once, in order.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod following;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use atalaya_sensor::carrier::{Carrier, LONGEST};
use atalaya_sensor::source::files::{Follower, Start};
use following::{Arrived, Collector, Log, PATIENCE, Watch, append_to, archive, inode};

/// Makes a file at a path that has this inode, which must be free: a file system gives it out again sooner or
/// later.
fn create_with_inode(path: &Path, inode: u64) {
    const TRIES: usize = 20_000;
    // In the same folder: ext4 looks for a free inode near the folder's own.
    let aside = |number: usize| path.with_file_name(format!(".{number}"));
    let mut tries = 0..TRIES;
    let found = tries.find(|number| File::create(aside(*number)).unwrap().metadata().unwrap().ino() == inode);
    if let Some(found) = found {
        std::fs::rename(aside(found), path).unwrap();
    }
    for number in 0..found.unwrap_or(TRIES) {
        std::fs::remove_file(aside(number)).unwrap();
    }
    assert!(
        found.is_some(),
        "{TRIES} files, and none got inode {inode} again: this test needs a file system that reuses them, such as ext4"
    );
}

/// A folder on the disk that the project lies on: tmpfs gives no inode out twice.
fn folder_on_disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Shifts `log.1` to `log.2` and so on, then `log` to `log.1`, as logrotate does; four are kept.
fn shift(path: &Path) {
    for number in (1..4).rev() {
        let _ = std::fs::rename(archive(path, number), archive(path, number + 1));
    }
}
#[test]
fn rename_and_create_at_full_speed_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    let watch = Watch::start(&path);
    log.begin(&watch);
    for round in 0..60 {
        log.write(2000);
        shift(&path);
        std::fs::rename(&path, archive(&path, 1)).unwrap();
        // The daemon writes on in the renamed file until it reopens.
        log.write(500);
        if round % 3 == 0 {
            // …and the file may be created before.
            append_to(&path);
            log.write(100);
        }
        log.reopen();
        // Four archives are kept: a reader that is more than four rotations behind cannot find them.
        watch.wait(log.next.saturating_sub(3 * 2500));
    }
    watch.assert_each_once(log.next);
    assert!(watch.status().rotations() > 0);
}

#[test]
fn copytruncate_at_full_speed_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    let watch = Watch::start(&path);
    log.begin(&watch);
    for _ in 0..40 {
        log.write(3000);
        shift(&path);
        // Nobody writes between copy and truncation here; what is written there is in no file.
        std::fs::copy(&path, archive(&path, 1)).unwrap();
        log.file.set_len(0).unwrap();
        log.write(1000);
        // The reader is in the new text before it is copied and truncated again.
        watch.wait(log.next - 900);
    }
    watch.assert_each_once(log.next);
    assert!(watch.status().truncations() > 0);
}

#[test]
fn a_file_that_regrew_past_the_offset_after_its_truncation_is_read_from_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    log.write(10);
    let mut watch = Watch::start(&path);
    watch.wait(10);
    watch.stop();
    log.file.set_len(0).unwrap();
    log.write(1000);
    watch.go();
    watch.assert_each_once(1010);
    watch.assert_in_order();
}

#[test]
fn a_plain_truncation_goes_on_with_what_is_written_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    let watch = Watch::start(&path);
    for _ in 0..50 {
        log.write(200);
        watch.wait(log.next);
        log.file.set_len(0).unwrap();
    }
    log.write(10);
    watch.assert_each_once(log.next);
    watch.assert_in_order();
}

#[test]
fn a_deleted_file_is_drained_and_its_return_is_read_from_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    let watch = Watch::start(&path);
    log.begin(&watch);
    for _ in 0..30 {
        log.write(500);
        // Opened: what is deleted before anyone opened it is gone.
        watch.wait(log.next - 400);
        std::fs::remove_file(&path).unwrap();
        log.write(500);
        log.reopen();
    }
    log.write(10);
    watch.assert_each_once(log.next);
}

#[test]
fn a_new_file_that_gets_the_inode_of_one_that_was_let_go_of_is_read_whole() {
    let folder = folder_on_disk();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    let watch = Watch::start(&path);
    log.begin(&watch);
    let before = inode(&path);
    // As logrotate does it with `compress`, `delaycompress` and `create`: the first rotation renames the file, the
    // second deletes it, once its compressed copy is there.
    let first = std::mem::replace(&mut log.file, File::open("/dev/null").unwrap());
    std::fs::rename(&path, archive(&path, 1)).unwrap();
    log.reopen();
    log.write(10);
    watch.wait_until_let_go(before);
    drop(first);
    std::fs::remove_file(archive(&path, 1)).unwrap();
    std::fs::rename(&path, archive(&path, 1)).unwrap();
    create_with_inode(&path, before);
    log.reopen();
    log.write(10);
    watch.assert_each_once(30);
    watch.assert_in_order();
}

#[test]
fn a_file_that_comes_back_under_its_name_is_read_on_where_it_was_let_go_of() {
    let folder = folder_on_disk();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    let watch = Watch::start(&path);
    log.begin(&watch);
    let aside = folder.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    watch.wait_until_let_go(inode(&aside));
    log.write(10);
    std::fs::rename(&aside, &path).unwrap();
    log.write(10);
    watch.assert_each_once(30);
    watch.assert_in_order();
}

#[test]
fn a_new_file_with_the_inode_of_one_that_was_deleted_while_down_is_read_whole() {
    let folder = folder_on_disk();
    let path = folder.path().join("x.log");
    // The same text again, so that only its birth tells the new file from the old one.
    let text = "the same line\n".repeat(40);
    std::fs::write(&path, &text).unwrap();
    let before = inode(&path);
    let mut watch = Watch::start(&path);
    watch.wait(40);
    watch.stop();
    std::fs::remove_file(&path).unwrap();
    create_with_inode(&path, before);
    append_to(&path).write_all(text.repeat(2).as_bytes()).unwrap();
    watch.go();
    watch.wait(120);
    assert_eq!(watch.arrived.lock().unwrap().lines.len(), 120);
}

#[test]
fn a_folder_that_another_took_the_name_of_is_watched_anew() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let path = logs.join("x.log");
    let mut log = Log::create(&path);
    let watch = Watch::start(&path);
    log.begin(&watch);
    for round in 0..10 {
        std::fs::rename(&logs, folder.path().join(format!("logs-{round}"))).unwrap();
        std::fs::create_dir(&logs).unwrap();
        log.reopen();
        log.write(10);
        watch.wait(log.next);
    }
    watch.assert_each_once(log.next);
}

#[test]
fn a_symlink_that_is_pointed_elsewhere_is_followed_there() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("current.log");
    std::fs::create_dir(folder.path().join("logs")).unwrap();
    let target = |round: usize| folder.path().join(format!("logs/{round}"));
    let mut log = Log::create(&target(0));
    std::os::unix::fs::symlink(target(0), &link).unwrap();
    let watch = Watch::start(&link);
    log.begin(&watch);
    for round in 1..20 {
        log.write(500);
        let draft = folder.path().join("draft");
        log = Log { next: log.next, ..Log::create(&target(round)) };
        std::os::unix::fs::symlink(target(round), &draft).unwrap();
        std::fs::rename(&draft, &link).unwrap();
        log.write(500);
        // Opened: what is deleted before anyone opened it is gone.
        watch.wait(log.next - 400);
    }
    watch.assert_each_once(log.next);
}

#[test]
fn files_and_folders_that_appear_later_are_read_from_their_start() {
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::start(&folder.path().join("*/app-*.log"));
    let mut next = 0;
    for site in 0..5 {
        let site = folder.path().join(format!("site-{site}"));
        std::fs::create_dir(&site).unwrap();
        for app in 0..5 {
            let mut log = Log { next, ..Log::create(&site.join(format!("app-{app}.log"))) };
            log.write(100);
            next = log.next;
        }
        std::fs::write(site.join("other.log"), "not wanted\n").unwrap();
    }
    watch.assert_each_once(next);
}

#[test]
fn a_partial_line_waits_for_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut file = append_to(&path);
    let watch = Watch::start(&path);
    file.write_all(b"line 0\nline").unwrap();
    watch.wait(1);
    file.write_all(b" 1\nli").unwrap();
    watch.wait(2);
    assert_eq!(watch.arrived.lock().unwrap().lines, ["line 0", "line 1"]);
    file.write_all(b"ne 2\n").unwrap();
    watch.assert_each_once(3);
}

#[test]
fn a_sparse_copy_of_eight_tebibytes_holds_up_no_other_file_and_is_read_to_its_end() {
    const HUGE: u64 = 8 << 40;
    let folder = folder_on_disk();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    log.write(10);
    let watch = Watch::start(&folder.path().join("*.log"));
    watch.wait(10);
    let copy = archive(&path, 1);
    std::fs::copy(&path, &copy).unwrap();
    File::options().write(true).open(&copy).unwrap().write_all_at(b"line 10\n", HUGE).unwrap();
    log.file.set_len(0).unwrap();
    append_to(&folder.path().join("other.log")).write_all(b"line 11\n").unwrap();
    log.file.write_all(b"line 12\n").unwrap();
    watch.assert_each_once(13);
    let arrived = watch.arrived.lock().unwrap();
    let place = |line: &str| arrived.lines.iter().position(|arrived| arrived == line);
    assert!(place("line 10") < place("line 12"), "the copy is read before what came after it");
}

#[test]
fn a_line_without_end_that_is_a_hole_is_passed_over_and_others_are_read_meanwhile() {
    let folder = folder_on_disk();
    let path = folder.path().join("x.log");
    let watch = Watch::start(&folder.path().join("*.log"));
    let file = File::create(&path).unwrap();
    file.write_all_at(b"no end", 0).unwrap();
    file.write_all_at(b"\nline 0\n", 8 << 40).unwrap();
    append_to(&folder.path().join("other.log")).write_all(b"line 1\n").unwrap();
    let until = Instant::now() + PATIENCE;
    let both = |lines: &[String]| ["line 0", "line 1"].iter().all(|line| lines.iter().any(|one| one == line));
    while !both(&watch.arrived.lock().unwrap().lines) {
        watch.news.recv_timeout(until.saturating_duration_since(Instant::now())).expect("both lines");
    }
}

#[test]
fn the_hole_that_a_daemon_leaves_which_does_not_append_is_no_part_of_its_next_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut file = File::create(&path).unwrap();
    let watch = Watch::start(&path);
    let lines: String = (0..1000).map(|number| format!("line {number}\n")).collect();
    file.write_all(lines.as_bytes()).unwrap();
    watch.wait(1000);
    // Its offset stays where it was.
    file.set_len(0).unwrap();
    file.write_all(b"line 1000\n").unwrap();
    watch.assert_each_once(1001);
}

#[test]
fn more_logs_than_may_be_open_leave_the_rest_of_the_process_its_files_and_are_named() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let folder = tempfile::tempdir().unwrap();
    for number in 0..300 {
        std::fs::write(folder.path().join(format!("{number}.log")), format!("line {number}\n")).unwrap();
    }
    let limit = Rlimit { current: Some(200), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let watch = Watch::start(&folder.path().join("*.log"));
    watch.wait(150);
    let spare: Vec<File> = (0..30).map(|_| File::open(folder.path()).unwrap()).collect();
    assert_eq!((watch.status().followed(), spare.len()), (150, 30));
    let troubles = watch.status().troubles();
    assert_eq!(troubles.len(), 150);
    assert!(troubles.values().all(|what| what.contains("LimitNOFILE")), "{troubles:?}");
}

#[test]
fn a_line_without_end_is_cut_and_what_follows_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut file = append_to(&path);
    let watch = Watch::start(&path);
    file.write_all(&vec![b'x'; 3_500_000]).unwrap();
    file.write_all(b"\nline 0\n").unwrap();
    watch.wait(2);
    let arrived = watch.arrived.lock().unwrap();
    assert_eq!((arrived.lines.len(), arrived.lines[0].len()), (2, 1 << 20));
    assert_eq!(arrived.lines[1], "line 0");
    assert_eq!(watch.status().cut_lines(), 1);
}

#[test]
fn lines_written_while_down_and_the_files_rotated_meanwhile_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    log.write(100);
    let mut watch = Watch::start(&path);
    watch.wait(100);
    for rotations in [0, 1, 2, 3] {
        watch.stop();
        log.write(50);
        for _ in 0..rotations {
            shift(&path);
            std::fs::rename(&path, archive(&path, 1)).unwrap();
            log.reopen();
            log.write(70);
        }
        watch.go();
        watch.assert_each_once(log.next);
    }
}

#[test]
fn a_copytruncate_while_down_is_read_in_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    log.write(100);
    let mut watch = Watch::start(&path);
    watch.wait(100);
    watch.stop();
    log.write(50);
    std::fs::copy(&path, archive(&path, 1)).unwrap();
    log.file.set_len(0).unwrap();
    log.write(30);
    watch.go();
    watch.assert_each_once(180);
    watch.assert_in_order();
}

#[test]
fn stopping_and_starting_in_the_midst_of_writing_and_rotating_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    let mut log = Log::create(&path);
    let mut watch = Watch::start(&path);
    log.begin(&watch);
    for round in 0..60 {
        log.write(1000 + round * 7);
        if round % 5 == 0 {
            watch.stop();
            log.write(300);
        }
        if round % 3 == 0 {
            shift(&path);
            std::fs::rename(&path, archive(&path, 1)).unwrap();
            log.write(200);
            log.reopen();
        }
        if round % 5 == 0 {
            watch.go();
        }
        watch.wait(log.next.saturating_sub(3000));
    }
    watch.assert_each_once(log.next);
}

#[test]
fn what_is_no_regular_file_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("a.log")).unwrap();
    let pipe = folder.path().join("b.log");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut log = Log::create(&folder.path().join("c.log"));
    let watch = Watch::start(&folder.path().join("*.log"));
    log.write(10);
    watch.assert_each_once(10);
}

#[test]
fn a_file_seen_for_the_first_time_is_read_from_its_end_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.log");
    std::fs::write(&path, "old\nold\nline").unwrap();
    let follower = Follower::new(&[path.to_str().unwrap().to_owned()], Vec::new(), Start::End).unwrap();
    let (news, receiver) = channel();
    let arrived = Arc::new(Mutex::new(Arrived::default()));
    let mut sink = Collector { arrived: arrived.clone(), news };
    let handle = follower.handle();
    let thread = std::thread::spawn(move || follower.run(&mut sink));
    // The first call carries the position where reading starts.
    receiver.recv_timeout(PATIENCE).unwrap();
    append_to(&path).write_all(b" 0\nline 1\n").unwrap();
    while arrived.lock().unwrap().lines.len() < 2 {
        receiver.recv_timeout(PATIENCE).unwrap();
    }
    handle.stop();
    thread.join().unwrap();
    assert_eq!(arrived.lock().unwrap().lines, ["line 0", "line 1"]);
}

#[test]
fn a_containers_file_is_known_by_its_first_line_and_what_stands_before_the_next_ones_is_told_at_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let (log, plain) = (folder.path().join("0.log"), folder.path().join("plain"));
    let line =
        |number: usize, tag: &str| format!("2026-11-30T08:20:00.{number:09}Z stdout {tag} line {number}\n");
    std::fs::write(&log, line(1, "P")).unwrap();
    let mut watch = Watch::start(&log);
    watch.wait(1);
    append(&log, &line(2, "F"));
    watch.wait(2);
    watch.stop();
    append(&log, &line(3, "F"));
    watch.go();
    watch.wait(3);
    // Once more, with more than is looked at.
    append(&log, &(4..8000).map(|number| line(number, "P")).collect::<String>());
    watch.wait(7999);
    watch.stop();
    append(&log, &line(8000, "F"));
    watch.go();
    watch.wait(8000);
    watch.stop();
    let arrived = watch.arrived.lock().unwrap();
    assert!(arrived.carriers.iter().all(|carrier| *carrier == Some(Carrier::Cri)), "{:?}", arrived.carriers);
    let [(first, true), (second, false)] = arrived.before.as_slice() else {
        panic!("{:?}", arrived.before.len())
    };
    assert_eq!(*first, line(1, "P") + &line(2, "F"));
    assert!(second.starts_with("2026-11-30T") && second.ends_with(&line(7999, "P")), "{}", second.len());
    assert!((LONGEST - 100..=LONGEST).contains(&second.len()), "{}", second.len());
    drop(arrived);

    // A line that somebody smuggles into another file.
    std::fs::write(&plain, format!("Nov 30 08:20:00 host app: a\n{}", line(1, "F"))).unwrap();
    let mut watch = Watch::start(&plain);
    watch.wait(2);
    watch.stop();
    append(&plain, &line(2, "F"));
    watch.go();
    watch.wait(3);
    watch.stop();
    let arrived = watch.arrived.lock().unwrap();
    assert!(arrived.carriers.iter().all(Option::is_none) && arrived.before.is_empty());
}

#[test]
fn a_containers_file_whose_first_line_was_cut_or_is_being_written_is_one_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let line = |number: usize| format!("2026-11-30T08:20:00.{number:09}Z stdout F line {number}\n");
    let start = |name: &str, text: &str| {
        let log = folder.path().join(name);
        std::fs::write(&log, text).unwrap();
        (Watch::start(&log), log)
    };
    let forms = |watch: &Watch| watch.arrived.lock().unwrap().carriers.clone();
    // Opened while its first line is written.
    let (mut watch, log) = start("written.log", &line(1)[..20]);
    append(&log, &line(1)[20..]);
    watch.wait(1);
    watch.stop();
    assert!(forms(&watch).iter().all(|form| *form == Some(Carrier::Cri)), "{:?}", forms(&watch));
    // Cut: known in its second line of the form, and after a restart.
    let (mut watch, log) = start("cut.log", &[&line(1)[40..], &line(2), &line(3)].concat());
    watch.wait(3);
    watch.stop();
    append(&log, &line(4));
    watch.go();
    watch.wait(4);
    watch.stop();
    assert_eq!(forms(&watch).last(), Some(&Some(Carrier::Cri)));
}

fn append(path: &Path, text: &str) {
    File::options().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}
