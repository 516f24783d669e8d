//! Debian's package `fail2ban`, whose own code and files the tests run and read.

use std::path::{Path, PathBuf};

/// Where Debian's package lies unpacked.
pub fn package() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let package = target.join("fail2ban");
    assert!(
        package.join("etc/fail2ban/jail.conf").is_file(),
        "fail2ban's files are not in {}: run `cargo xtask setup`",
        package.display()
    );
    package
}
