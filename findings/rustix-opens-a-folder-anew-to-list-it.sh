#!/usr/bin/env bash
# The crate rustix 1.1.6, `rustix::fs::Dir`, with Linux's Landlock (the crate landlock 0.4.8).
#
# Guess: `Dir::read_from(&fd)` borrows a descriptor of a folder and lists it, and `Dir::new(fd)` does the same with one
# that it owns; so a process that Landlock forbids to open any folder can list by either one that it was handed open.
# Seen: `Dir::read_from` fails with EACCES: it opens `.` beneath the descriptor anew, which Landlock judges as any
# opening. `Dir::new` reads from the descriptor itself, and lists the folder: what is open already is, as Landlock's
# manual says, not its matter. Without Landlock the two list the same, so that a test without it does not show it.
#
# Needs bash, cargo and rustc, and a kernel with Landlock; builds in a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src listed
touch listed/one listed/two
cat > Cargo.toml <<'TOML'
[package]
name = "try"
version = "0.0.0"
edition = "2021"
[dependencies]
landlock = "=0.4.8"
rustix = { version = "=1.1.6", features = ["fs"] }
[workspace]
TOML
cat > src/main.rs <<'RUST'
use std::os::fd::AsFd;

use landlock::{Access, AccessFs, Ruleset, RulesetAttr, RulesetStatus, ABI};
use rustix::fs::Dir;
use rustix::io::Errno;

fn names(folder: Dir) -> Vec<String> {
    let names = folder.map(|entry| entry.expect("an entry").file_name().to_str().expect("a name").to_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

fn main() {
    // The folder is open already: it is standard input.
    let input = std::io::stdin();
    let all = Dir::read_from(&input).map(names);
    println!("read_from, before: {all:?}");
    assert_eq!(all, Ok(vec!["one".to_owned(), "two".to_owned()]));
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(ABI::V1)).expect("the rights of the first Landlock");
    let status = ruleset.create().expect("a set of no rules").restrict_self().expect("it is taken");
    assert_eq!(status.ruleset, RulesetStatus::FullyEnforced, "the kernel has no Landlock");
    let borrowed = Dir::read_from(&input).map(names);
    println!("read_from, under Landlock: {borrowed:?}");
    let owned = Dir::new(input.as_fd().try_clone_to_owned().expect("a second descriptor")).map(names);
    println!("new, under Landlock: {owned:?}");
    assert_eq!(borrowed, Err(Errno::ACCESS), "the behaviour changed: read_from");
    assert_eq!(owned, all, "the behaviour changed: new");
}
RUST
cargo run --quiet < listed
echo "as stated"
