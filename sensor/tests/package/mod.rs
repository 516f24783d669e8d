//! Debian's package `fail2ban`, whose own code and files the tests run and read.

use std::path::{Path, PathBuf};

/// Where the package of a suite of Debian's lies unpacked.
pub fn package(suite: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let (folder, command) = match suite {
        "bookworm" => ("fail2ban".to_owned(), "cargo xtask setup"),
        newer => (format!("fail2ban-{newer}"), "cargo xtask test --all"),
    };
    let package = target.join(folder);
    assert!(
        package.join("etc/fail2ban/jail.conf").is_file(),
        "fail2ban's files are not in {}: run `{command}`, which fetches them",
        package.display()
    );
    package
}
