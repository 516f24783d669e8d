//! What is packaged beside the programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::output;
use atalaya_end_to_end::stage::Stage;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name)
}

#[test]
fn systemd_finds_nothing_to_complain_of_in_the_units_and_their_exposure_is_small() -> Result<()> {
    let stage = Stage::of_this_test()?;
    // The smaller the better; 10 is a service without any bounds. What keeps the sensor above: it loads kernel programs, and
    // reads logs and processes of other users.
    for (name, most) in [("atalaya-enforcer", 3.0), ("atalaya-sensor", 5.0)] {
        let unit = packaging(&format!("systemd/{name}.service"));
        let text = std::fs::read_to_string(&unit).with_context(|| unit.display().to_string())?;
        let program = stage.program(name).get_program().to_string_lossy().into_owned();
        let here = stage.folder().join(format!("{name}.service"));
        let text = text.replace(&format!("/usr/bin/{name}"), &program);
        // The manual's pages and the user come with the package.
        let text: String = text
            .lines()
            .filter(|line| !["Documentation=", "User=", "Group="].iter().any(|key| line.starts_with(key)))
            .map(|line| format!("{line}\n"))
            .collect();
        std::fs::write(&here, text)?;
        let verify = Command::new("systemd-analyze").arg("verify").arg(&here).output()?;
        let said = String::from_utf8_lossy(&verify.stderr);
        ensure!(verify.status.success() && said.is_empty(), "{name}: {said}");
        let security =
            output(Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&unit))?;
        let line =
            security.lines().find(|line| line.contains("Overall exposure level")).context("no level")?;
        let level =
            line.split_whitespace().find_map(|word| word.parse::<f64>().ok()).context(line.to_owned())?;
        ensure!(level < most, "{line}");
    }
    Ok(())
}

/// Checks a configuration; what the program says, on either stream.
fn check(stage: &Stage, program: &str, text: &str) -> Result<(bool, String)> {
    let file = stage.folder().join(format!("{program}-as-packaged.toml"));
    std::fs::write(&file, text)?;
    let done = stage.program(program).arg("--config").arg(&file).arg("check").output()?;
    let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    Ok((done.status.success(), said))
}

/// The keys that a table may have, as the program itself lists them where there is another; none where it takes any.
fn keys(stage: &Stage, program: &str, table: &str) -> Result<Vec<String>> {
    let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    let (_, said) = check(stage, program, &format!("{header}no_such_key = 1\n"))?;
    let listed = said.split_once("(there are ").and_then(|(_, rest)| rest.split_once(')'));
    let Some((listed, _)) = listed else { return Ok(Vec::new()) };
    Ok(listed.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect())
}

#[test]
fn the_configurations_are_valid_as_they_lie_and_have_every_key_in_a_form_that_is_taken() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let tables: [(&str, &str, &[&str]); 2] = [
        (
            "atalaya-enforcer",
            "enforcer.toml",
            &[
                "",
                "list",
                "router.edge",
                "widen",
                "escalation",
                "fleet.spray",
                "protect",
                "history",
                "sensors",
            ],
        ),
        (
            "atalaya-sensor",
            "sensor.toml",
            &["", "defaults", "logins", "syslog", "local_drop", "metrics", "jail.everything"],
        ),
    ];
    for (program, file, tables) in tables {
        let path = packaging("config").join(file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let (valid, said) = check(&stage, program, &text)?;
        ensure!(valid && said.contains("no mistakes"), "{file}: {said}");

        // Each line that sets a key, of which table, with and without its `#`.
        let mut table = String::new();
        let mut set: Vec<(String, String, String)> = Vec::new();
        for line in text.lines() {
            let line = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line);
            if let Some((header, _)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
                header.clone_into(&mut table);
            } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.starts_with('#')) {
                set.push((table.clone(), key.to_owned(), line.to_owned()));
            }
        }
        for table in tables {
            let all = keys(&stage, program, table)?;
            ensure!(!all.is_empty(), "{program} lists no keys of [{table}]");
            for key in all {
                let here = set.iter().any(|(of, set, _)| of == table && *set == key)
                    || (table.is_empty() && text.contains(&format!("[{key}")));
                ensure!(here, "{file} says nothing of `{key}` in [{table}]");
            }
        }
        // A value of the wrong kind is refused for itself, whatever else its table needs.
        for (table, key, line) in &set {
            let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
            let (_, said) = check(&stage, program, &format!("{header}{line}\n"))?;
            let wrong = ["there is no `", "expected a", "expected one of", "expected \"", "invalid"];
            ensure!(!wrong.iter().any(|wrong| said.contains(wrong)), "{file}, `{key}` of [{table}]: {said}");
        }
    }
    Ok(())
}

/// A key as a table of the docs has it.
struct DocumentedKey {
    /// The table of the configuration, as its heading names it; empty at the top of the file.
    table: String,
    key: String,
    /// A line that sets it.
    example: String,
}

/// The tables of a document whose headings are `[table]` or `The top of the file`, row by row.
fn documented(text: &str) -> Result<Vec<DocumentedKey>> {
    let mut table: Option<&str> = None;
    let mut all = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            let heading = line.trim_start_matches('#').trim();
            table = match heading.strip_prefix("`[").and_then(|rest| rest.strip_suffix("]`")) {
                None => (heading == "The top of the file").then_some(""),
                named => named,
            };
            continue;
        }
        let Some(row) = line.strip_prefix("| ").and_then(|row| row.strip_suffix(" |")) else { continue };
        let Some(table) = table.filter(|_| row.starts_with('`')) else { continue };
        let cells: Vec<&str> = row.split(" | ").collect();
        ensure!(cells.len() == 5 && cells.iter().all(|cell| !cell.is_empty()), "not five cells: {line}");
        let (key, example) = (cells[0].trim_matches('`'), cells[3].trim_matches('`'));
        ensure!(example.starts_with(&format!("{key} = ")), "the example of `{key}` does not set it: {line}");
        all.push(DocumentedKey { table: table.to_owned(), key: key.to_owned(), example: example.to_owned() });
    }
    Ok(all)
}

#[test]
fn the_docs_have_every_key_of_both_configurations_and_no_other_with_an_example_that_is_taken() -> Result<()> {
    let stage = Stage::of_this_test()?;
    // Where to write what is missing: a row in the table of docs/, under the heading of its table of the configuration.
    for (program, file) in [("atalaya-enforcer", "enforcer.md"), ("atalaya-sensor", "sensor.md")] {
        let path = packaging("../docs").join(file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let rows = documented(&text)?;
        ensure!(!rows.is_empty(), "{file} documents no key");

        let mut tables: Vec<&str> = rows.iter().map(|row| row.table.as_str()).collect();
        tables.dedup();
        for table in &tables {
            let all = keys(&stage, program, table)?;
            ensure!(!all.is_empty(), "{program} lists no keys of [{table}]");
            let of_table = || rows.iter().filter(|row| row.table == *table);
            for key in &all {
                // A table among the keys of the top has a heading of its own, or is told of in words.
                let is_table = || {
                    table.is_empty()
                        && (text.contains(&format!("`[{key}]`")) || text.contains(&format!("`[{key}.NAME]`")))
                };
                let here = of_table().any(|row| row.key == *key) || is_table();
                ensure!(here, "docs/{file} has no row for `{key}` under [{table}]");
            }
            for row in of_table() {
                ensure!(
                    all.contains(&row.key),
                    "docs/{file} has a row for `{}` under [{table}], which {program} does not know",
                    row.key
                );
            }
        }
        for DocumentedKey { table, key, example } in &rows {
            let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
            let (_, said) = check(&stage, program, &format!("{header}{example}\n"))?;
            let wrong = ["there is no `", "expected ", "invalid", "is none of"];
            ensure!(
                !wrong.iter().any(|wrong| said.contains(wrong)),
                "docs/{file}, `{key}` of [{table}]: {said}"
            );
        }
    }
    Ok(())
}

/// The commands of both programs in a document's blocks (fenced, or indented by four blanks): the program, then its words.
/// What a shell adds, pipes and files, is left out.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut fenced = false;
    let mut all = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            let line = line.split(" #").next().unwrap_or_default();
            for part in line.split(['|', '&', ';']) {
                let words = words(part.split(['>', '<']).next().unwrap_or_default());
                let program = words
                    .iter()
                    .position(|word| ["atalaya-sensor", "atalaya-enforcer"].contains(&word.as_str()));
                // After another program's word it may be the name of a service or a package.
                let is_command = |at: &usize| *at == 0 || words[0] == "ssh";
                all.extend(program.filter(is_command).map(|at| words[at..].to_vec()));
            }
        }
    }
    all
}

/// A command's words; what stands in quotes is one.
fn words(command: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (place, text) in command.split('\'').enumerate() {
        if place % 2 == 1 {
            all.push(text.to_owned());
        } else {
            all.extend(text.split_whitespace().map(ToOwned::to_owned));
        }
    }
    all
}

#[test]
fn the_programs_know_every_command_and_option_in_the_blocks_of_the_readme_and_the_docs() -> Result<()> {
    let stage = Stage::of_this_test()?;
    let mut documents = vec![packaging("../README.md")];
    for entry in std::fs::read_dir(packaging("../docs"))? {
        documents.extend(Some(entry?.path()).filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    let mut found = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).with_context(|| document.display().to_string())?;
        for command in commands(&text) {
            found += 1;
            // With `--help` at its end a program refuses what it does not know, and does nothing else.
            let done = stage.program(&command[0]).args(&command[1..]).arg("--help").output()?;
            let said = String::from_utf8_lossy(&done.stderr);
            ensure!(done.status.success(), "{}: {}: {said}", document.display(), command.join(" "));
        }
    }
    // Enough that a change of the blocks' form cannot empty the test.
    ensure!(found > 20, "only {found} commands were found");
    Ok(())
}
