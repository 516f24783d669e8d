//! The result, as a table: what each source saw of each client, and how late.

use comfy_table::{ContentArrangement, Table, presets};

use super::DaemonRun;
use super::recipe::{Family, Seen};

/// How wide it is, in columns of a terminal.
const WIDTH: u16 = 130;

/// A row a case; what is not as expected is marked.
pub fn table(runs: &[DaemonRun]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    let sources = ["kernel", "late", "log", "late"];
    let titles =
        Family::ALL.into_iter().flat_map(|family| {
            sources.map(|source| {
                if source == "late" { source.to_owned() } else { format!("{source}, {}", family.name()) }
            })
        });
    table.set_header(["daemon", "attempt"].map(str::to_owned).into_iter().chain(titles));
    for run in runs {
        let name = format!("{} {}", run.suite.name(), run.recipe.name);
        let Ok(tried) = &run.tried else {
            table.add_row([name, "cannot be tried".to_owned()]);
            continue;
        };
        for of_case in tried.clients.chunks(Family::ALL.len()) {
            let mut cells = vec![name.clone()];
            cells.extend(of_case.first().map(|client| client.case.name.to_owned()));
            for client in of_case {
                let [kernel, log] =
                    client.late.map(|late| late.map_or_else(String::new, |late| format!("{late:+.1} s")));
                let mark = if client.seen == client.expected { "" } else { " !" };
                cells.push(format!("{}{mark}", by_kernel(client.seen)));
                cells.push(kernel);
                cells.push(format!("{}{mark}", count(client.seen.log)));
                cells.push(log);
            }
            table.add_row(cells);
        }
    }
    format!(
        "{table}\nkernel: refused logins (and, with +, good ones) by the kernel's source. late: the last refusal was seen so \
         long after its client had its answer; before is negative.\n"
    )
}

/// For messages.
pub fn words(seen: Seen) -> String {
    format!("{} by the kernel's source, {} in the log", by_kernel(seen), count(seen.log))
}

/// Refusals, and good logins.
pub fn by_kernel(seen: Seen) -> String {
    match (seen.kernel, seen.logins) {
        (kernel, 0) => count(kernel),
        (0, logins) => format!("+{logins}"),
        (kernel, logins) => format!("{kernel}+{logins}"),
    }
}

/// A count, in which nothing is a dash.
pub fn count(number: u32) -> String {
    if number == 0 { "-".to_owned() } else { number.to_string() }
}
