//! `cargo xtask ci`: what must pass before a change lands.

use anyhow::Result;

use crate::run::{announce, cargo};
use crate::test;

/// Runs every test, then looks at the format and the lints.
pub fn run() -> Result<()> {
    test::run(&test::Arguments::default())?;
    announce("the format", cargo().args(["fmt", "--all", "--check"]))?;
    announce(
        "the lints",
        cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    )
}
