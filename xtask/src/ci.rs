//! `cargo xtask ci`: what must pass before a change lands.

use anyhow::Result;

use crate::run::{announce, cargo};
use crate::test;

/// Runs every test, then looks at the format, the lints and the documentation.
pub fn run() -> Result<()> {
    test::run(&test::Arguments::default())?;
    announce("the format", cargo().args(["fmt", "--all", "--check"]))?;
    announce(
        "the lints",
        cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    )?;
    let programs =
        ["atalaya-sensor", "atalaya-enforcer", "atalaya-wire"].map(|program| ["--package", program]);
    announce(
        "the documentation: every link leads somewhere",
        cargo()
            .env("RUSTDOCFLAGS", "--deny warnings")
            .args(["doc", "--no-deps", "--document-private-items"])
            .args(programs.as_flattened()),
    )
}
