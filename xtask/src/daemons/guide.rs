//! `docs/daemons.md`: what is expected of each daemon, as a guide for users. A test holds the file to the recipes.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::recipe::{Case, Recipe};
use super::{recipes, table};
use crate::run::root;
use crate::suite::Suite;

const HEAD: &str = r#"# Which source for which daemon

A jail counts what the kernel sees (`source = "logins"`: PAM's and sshd's verdicts as they fall) or what a log says
(`filter = "NAME"`, from a file or the journal). Both work beside each other, but one failure that both see is two
failures of two jails. In short:

- **Where the daemon asks PAM as root and tells it the client's address, take `logins`**: nothing has to be set up, and
  an address is banned about two seconds earlier, before the client has its answer.
- **Where it asks nobody, or tells PAM no address, take the filter.** The sensor's log says of such failures that they
  have no remote address.
- What asks PAM and is not root is not believed: any user could accuse anybody.

This page is made from what `cargo xtask daemons` expects, and holds for Debian 12 (bookworm), 13 (trixie) and sid of
2026-11-30: each daemon was started on a host of its own, and real clients failed and succeeded at it.

"#;

/// Writes the file.
pub fn write() -> Result<()> {
    let path = path();
    std::fs::write(&path, text()).with_context(|| path.display().to_string())?;
    println!("{} is written", path.display());
    Ok(())
}

fn path() -> PathBuf {
    root().join("docs/daemons.md")
}

fn text() -> String {
    let mut text = String::from(HEAD);
    text.push_str("| daemon | set up with | choose |\n|---|---|---|\n");
    for recipe in recipes::all() {
        let _ = writeln!(text, "| {} | {} | {} |", recipe.name, recipe.setup, recipe.choose);
    }
    text.push_str(TABLE_HEAD);
    for recipe in recipes::all() {
        for case in recipe.cases {
            text.push_str(&row(recipe, case));
        }
    }
    text
}

const TABLE_HEAD: &str = "
## What each source sees

Failures that were counted of one client, of so many that there were (`refused`); the same over IPv4 and IPv6.
`let in` is a good login, of which the enforcer is told; logs are read for failures alone. `no address` is a failure
that was seen and not counted, for PAM was not told whose it was. A dash is nothing. A suite is named where suites
differ.

| daemon | attempt | refused | `logins` | log | why |
|---|---|---|---|---|---|
";

fn row(recipe: &Recipe, case: &Case) -> String {
    let mut cells: Vec<(String, Vec<Suite>)> = Vec::new();
    for suite in Suite::ALL.into_iter().filter(|suite| recipe.is_for(*suite)) {
        let cell = cell(recipe, case, suite);
        match cells.iter_mut().find(|(earlier, _)| *earlier == cell) {
            Some((_, suites)) => suites.push(suite),
            None => cells.push((cell, vec![suite])),
        }
    }
    let mut rows = String::new();
    for (cell, suites) in &cells {
        let of = if cells.len() == 1 {
            String::new()
        } else {
            let names: Vec<_> = suites.iter().map(|suite| suite.name()).collect();
            format!(" ({})", names.join(", "))
        };
        let _ = writeln!(
            rows,
            "| {} | {}{of} | {} | {cell} | {} |",
            recipe.name,
            case.name,
            truth(case),
            case.note
        );
    }
    rows
}

/// How many times the client was refused.
fn truth(case: &Case) -> String {
    match (case.refused, case.let_in) {
        (0, _) => "let in".to_owned(),
        (refused, 0) => refused.to_string(),
        (refused, _) => format!("{refused}, then let in"),
    }
}

/// What is seen: by the kernel's source, and in the log.
fn cell(recipe: &Recipe, case: &Case, suite: Suite) -> String {
    let seen = case.expected(suite);
    let failures = match (seen.kernel, seen.nameless) {
        (0, 1..) => "no address".to_owned(),
        (failures, _) => table::count(failures),
    };
    let kernel = match (case.refused, seen.logins) {
        (_, 0) => failures,
        (0, _) => "let in".to_owned(),
        _ => format!("{failures}, let in"),
    };
    let log = if recipe.log.is_some() { table::count(seen.log) } else { "no filter".to_owned() };
    format!("{kernel} | {log}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_says_what_is_expected() {
        let written = std::fs::read_to_string(path()).unwrap();
        assert!(
            written == text(),
            "docs/daemons.md is not what xtask/src/daemons expects: run `cargo xtask daemons --docs`"
        );
    }
}
