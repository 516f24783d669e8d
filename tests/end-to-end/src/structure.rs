//! Which folder of a program may import which: a reading of its source that holds it to a table. A program's folders
//! (rooms) stand in tiers; a room imports rooms of lower tiers alone, so that data flows one way and nothing goes round
//! in a circle. What stands under `#[cfg(test)]` is free, and so are `lib.rs` and `main.rs`, which name every room.
//!
//! It reads also how long files and functions are, and whether a name of a type means one thing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::tokens::{Token, tokens};

/// The most lines of a file, and of a function, tests not counted.
pub const LONGEST: (usize, usize) = (600, 100);

/// Where a program's rooms stand.
#[derive(Debug)]
pub struct Table {
    /// The tiers, the highest first, separated by `>`; the rooms of one by commas.
    pub tiers: &'static str,
    /// Pairs of rooms of one tier of which the first may import the second.
    pub sideways: &'static [(&'static str, &'static str)],
    /// Rooms that no other may import and that import none, but for those that stand beside the name.
    pub apart: &'static [(&'static str, &'static [&'static str])],
}

/// A path of a source file that leads out of its room.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Import {
    line: usize,
    room: String,
}

// === impl Table ===

impl Table {
    /// The lines of a program's source that break the rule, each with what to do instead.
    pub fn broken(&self, source: &Path) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        for (file, text) in files(source)? {
            let Some(room) = room_of(&file) else { continue };
            let shown = source.join(&file);
            for import in imports(&file, &text) {
                if let Some(why) = self.objection(&room, &import.room) {
                    broken.push(format!("{}:{}: {why}", shown.display(), import.line));
                }
            }
        }
        Ok(broken)
    }

    /// What is wrong with a room's import of another, if anything is.
    fn objection(&self, room: &str, other: &str) -> Option<String> {
        if room == other {
            return None;
        }
        let apart =
            |one: &str, two: &str| self.apart.iter().any(|(name, but)| *name == one && !but.contains(&two));
        if apart(room, other) || apart(other, room) {
            return Some(format!(
                "`{room}` imports `{other}`, and the two must not know of each other: let them meet in what both may import, or in a message"
            ));
        }
        if self.apart.iter().any(|(name, _)| *name == room || *name == other) {
            return None;
        }
        let tier = |name: &str| {
            self.tiers.split('>').position(|tier| tier.split(',').any(|listed| listed.trim() == name))
        };
        let (Some(own), Some(its)) = (tier(room), tier(other)) else {
            let unknown = if tier(room).is_none() { room } else { other };
            return Some(format!("`{unknown}` has no place in the table of rooms: give it one"));
        };
        if its > own || its == own && self.sideways.contains(&(room, other)) {
            return None;
        }
        let place = if its == own { "beside" } else { "above" };
        Some(format!(
            "`{room}` imports `{other}`, which stands {place} it ({}): move what both need into a room below them, or let the caller hand it in",
            self.tiers
        ))
    }
}

/// The files and functions of a program's source that are longer than [`LONGEST`], tests not counted.
pub fn too_long(source: &Path) -> Result<Vec<String>> {
    let mut long = Vec::new();
    for (file, text) in files(source)? {
        let shown = source.join(&file);
        let all = tokens(&text);
        let tests: usize =
            test_spans(&all).iter().map(|(from, to)| all[*to].line - all[*from].line + 1).sum();
        let lines = text.lines().count() - tests;
        if lines > LONGEST.0 {
            long.push(format!(
                "{}: {lines} lines; split it, at most {} are easy to keep in mind",
                shown.display(),
                LONGEST.0
            ));
        }
        for (name, line, length) in functions(&without_tests(all)) {
            if length > LONGEST.1 {
                long.push(format!(
                    "{}:{line}: `{name}` has {length} lines; at most {}",
                    shown.display(),
                    LONGEST.1
                ));
            }
        }
    }
    Ok(long)
}

/// The names of types, traits and unions that a crate's source defines more than once, each with its places, and the
/// `allowed` ones that it does not: a name has one meaning, so that who searches for it finds one thing. What an `impl`
/// or a `trait` calls its associated types is prescribed to it, and not counted. `allowed` gives a reason for each name.
pub fn defined_twice(source: &Path, allowed: &[(&str, &str)]) -> Result<Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in files(source)? {
        for (name, line) in definitions(&without_tests(tokens(&text))) {
            places.entry(name).or_default().push(format!("{}:{line}", source.join(&file).display()));
        }
    }
    places.retain(|_, places| places.len() > 1);
    let mut wrong = Vec::new();
    for (name, _) in allowed {
        if places.remove(*name).is_none() {
            wrong.push(format!(
                "`{name}` may be defined twice in {}, and is not: forbid it",
                source.display()
            ));
        }
    }
    wrong.extend(places.into_iter().map(|(name, places)| {
        format!("`{name}` means {} things: {}; give each a name of its own", places.len(), places.join(", "))
    }));
    Ok(wrong)
}

/// The source files below a folder, relative to it, but for those that are tests.
fn files(source: &Path) -> Result<Vec<(PathBuf, String)>> {
    let (mut found, mut tests) = (Vec::new(), BTreeSet::new());
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let file = path.strip_prefix(source)?.to_owned();
                tests.extend(test_files(&file, &tokens(&text)));
                found.push((file, text));
            }
        }
    }
    anyhow::ensure!(!found.is_empty(), "{} holds no source", source.display());
    found.retain(|(file, _)| {
        !tests.iter().any(|test: &PathBuf| file == test || file.starts_with(test.with_extension("")))
    });
    found.sort();
    Ok(found)
}

/// The room of a file; `None` for `lib.rs` and `main.rs`, which are in none.
fn room_of(file: &Path) -> Option<String> {
    let first = file.components().next()?.as_os_str().to_str()?;
    let room = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(room, "lib" | "main")).then(|| room.to_owned())
}

/// The modules that a file's content stands in, the outermost first.
fn modules(file: &Path) -> Vec<String> {
    let mut modules: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(modules.last().map(String::as_str), Some("lib" | "main" | "mod")) {
        modules.pop();
    }
    modules
}

/// What a file imports of other rooms, and of its own, outside of tests.
fn imports(file: &Path, text: &str) -> Vec<Import> {
    let tokens = without_tests(tokens(text));
    let mut found = Vec::new();
    let mut inside = modules(file);
    // For each open brace, whether it opened a module.
    let mut braces = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let before = |back: usize| place.checked_sub(back).map(|place| tokens[place].text.as_str());
        match token.text.as_str() {
            "{" => {
                let module = before(2) == Some("mod");
                if let (true, Some(name)) = (module, before(1)) {
                    inside.push(name.to_owned());
                }
                braces.push(module);
            }
            "}" => {
                let module = braces.pop();
                if module == Some(true) {
                    inside.pop();
                }
            }
            "crate" if before(1) != Some("::") => first_names(&tokens[place + 1..], &mut found),
            // The first of a chain.
            "super" if before(1) != Some("::") || before(2) == Some("self") => {
                let chain = tokens[place..].chunks(2);
                let ups = chain.take_while(|pair| pair[0].text == "super" && pair.len() == 2).count();
                if ups == inside.len() {
                    first_names(&tokens[place + 2 * ups - 1..], &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

/// The names right behind a path that has led to the crate's root: one, or those of a group.
fn first_names(tokens: &[Token], found: &mut Vec<Import>) {
    let [colons, next, ..] = tokens else { return };
    if colons.text != "::" {
        return;
    }
    let mut take = |token: &Token| {
        if token.is_name() {
            found.push(Import { line: token.line, room: token.text.clone() });
        }
    };
    if next.text != "{" {
        take(next);
        return;
    }
    let mut depth = 0_usize;
    let mut previous = "";
    for token in &tokens[1..] {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && matches!(previous, "{" | ",") => take(token),
            _ => {}
        }
        if depth == 0 {
            return;
        }
        previous = &token.text;
    }
}

/// The functions: name, line, and how many lines from there to their ends.
fn functions(tokens: &[Token]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (place, token) in tokens.iter().enumerate().filter(|(_, token)| token.text == "fn") {
        let Some(name) = tokens.get(place + 1).filter(|name| name.is_name()) else { continue };
        if let Some(end) = end_of_item(tokens, place) {
            found.push((name.text.clone(), token.line, tokens[end].line - token.line + 1));
        }
    }
    found
}

/// The types, traits and unions that are defined: name and line.
fn definitions(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    // For each open brace, whether it opened an `impl` or a `trait`.
    let mut braces = Vec::new();
    let mut is_head = false;
    for (place, token) in tokens.iter().enumerate() {
        let before = place.checked_sub(1).map_or(";", |place| tokens[place].text.as_str());
        // Elsewhere `impl` is a type, and `union` a name.
        let begins = matches!(before, ";" | "{" | "}" | "]" | "pub" | ")" | "unsafe");
        match token.text.as_str() {
            "impl" | "trait" if begins => is_head = true,
            "{" => braces.push(std::mem::take(&mut is_head)),
            "}" => drop(braces.pop()),
            _ => {}
        }
        let defines = match token.text.as_str() {
            "struct" | "enum" | "union" | "trait" => begins,
            "type" => begins && braces.last() != Some(&true),
            _ => false,
        };
        if let Some(name) = tokens.get(place + 1).filter(|name| defines && name.is_name()) {
            found.push((name.text.clone(), name.line));
        }
    }
    found
}

fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let spans = test_spans(&tokens);
    let is_free = |place: usize| spans.iter().any(|(from, to)| (*from..=*to).contains(&place));
    tokens.into_iter().enumerate().filter(|(place, _)| !is_free(*place)).map(|(_, token)| token).collect()
}

/// The first and the last token of each item under `#[cfg(test)]`.
fn test_spans(tokens: &[Token]) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    let opening = ["#", "[", "cfg", "(", "test", ")", "]"];
    for place in 0..tokens.len() {
        let here = tokens[place..].iter().map(|token| token.text.as_str()).take(opening.len());
        if here.eq(opening)
            && spans.last().is_none_or(|(_, to)| place > *to)
            && let Some(end) = end_of_item(tokens, place + opening.len())
        {
            spans.push((place, end));
        }
    }
    spans
}

/// The files of the modules that a file declares under `#[cfg(test)]`.
fn test_files(file: &Path, tokens: &[Token]) -> Vec<PathBuf> {
    let folder = modules(file).iter().collect::<PathBuf>();
    let mut files = Vec::new();
    for (from, to) in test_spans(tokens) {
        let span = &tokens[from..=to];
        let named = span.windows(3).find(|three| three[0].text == "mod" && three[2].text == ";");
        let path = span.windows(3).find(|three| three[0].text == "path" && three[1].text == "=");
        match (named, path) {
            // As `#[path]` of a file has it: beside the file.
            (Some(_), Some(path)) => {
                let beside = file.parent().unwrap_or(Path::new(""));
                files.push(beside.join(path[2].text.trim_matches('"')));
            }
            (Some(named), None) => files.push(folder.join(&named[1].text).with_extension("rs")),
            _ => {}
        }
    }
    files
}

/// The last token of the item that begins at a place: a semicolon, or the brace that closes its body.
fn end_of_item(tokens: &[Token], from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (place, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.checked_sub(1)?;
                // A group of a `use` ends with a semicolon.
                let goes_on =
                    tokens.get(place + 1).is_some_and(|next| matches!(next.text.as_str(), ";" | ","));
                if depth == 0 && token.text == "}" && !goes_on {
                    return Some(place);
                }
            }
            ";" if depth == 0 => return Some(place),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table {
        tiers: "top > left, right > low",
        sideways: &[("left", "right")],
        apart: &[("guard", &["low"])],
    };

    fn objections(file: &str, text: &str) -> Vec<String> {
        let file = Path::new(file);
        let room = room_of(file).unwrap();
        let found = imports(file, text).into_iter();
        found
            .filter_map(|import| Some(format!("{}: {}", import.line, TABLE.objection(&room, &import.room)?)))
            .collect()
    }

    #[test]
    fn an_import_of_a_room_above_is_found_wherever_it_stands() {
        for (text, line) in [
            ("use crate::top::Thing;", 1),
            ("use std::io;\n\nuse crate::{low, top};", 3),
            ("use crate::{\n    low::{A, B},\n    top::{self, C},\n};", 3),
            ("fn f() -> crate::top::Thing {\n    todo!()\n}", 1),
            ("fn f() {\n    crate::low::g(crate::top::THING);\n}", 2),
            ("pub(crate) use crate::top as other;", 1),
            ("use super::super::top::Thing;", 1),
            ("use super::super::{low, top};", 1),
            ("mod inner {\n    use super::super::super::top;\n}", 2),
            ("#[cfg(feature = \"x\")]\nuse crate::top;", 2),
            ("#[cfg(test)]\nmod tests {\n    use crate::low;\n}\nuse crate::top;", 5),
            ("#[cfg(test)]\nuse crate::{low, right};\nuse crate::top;", 3),
            ("const A: char = '\"';\nuse crate::top;", 2),
            ("fn f<'a>(x: &'a str) -> &'a str { crate::top::g(x) }", 1),
        ] {
            let found = objections("left/part.rs", text);
            assert_eq!(found.len(), 1, "{text:?}: {found:?}");
            let start = format!("{line}: `left` imports `top`, which stands above it");
            assert!(found[0].starts_with(&start), "{text:?}: {found:?}");
            assert!(found[0].contains("room below them"), "it does not say what to do: {found:?}");
        }
    }

    #[test]
    fn what_the_table_allows_and_what_is_no_import_pass() {
        for text in [
            "use crate::low::Thing;",
            "use crate::{low, right::Thing};",
            "use super::top;",
            "use super::{Other, top::Inner};",
            "use crate::left::other::top;",
            "//! See [`crate::top`].\n// crate::top",
            "/* crate::top /* nested */ crate::top */",
            "const A: &str = \"crate::top\";\nconst B: &str = r#\"crate::\"top\"#;",
            "#[cfg(test)]\nmod tests {\n    use crate::top;\n    fn f() { { crate::top::g() } }\n}",
            "#[cfg(test)]\nfn f() { crate::top::g() }",
            "mod inner {\n    use super::super::other;\n}",
            "use other_crate::top;",
            "use some::crate_like::top;",
        ] {
            assert_eq!(objections("left/part.rs", text), Vec::<String>::new(), "{text:?}");
        }
    }

    #[test]
    fn rooms_beside_each_other_rooms_apart_and_rooms_without_a_place_are_told() {
        for (file, text, says) in [
            ("right.rs", "use crate::left;", "`left`, which stands beside it"),
            ("left.rs", "use crate::new;", "`new` has no place"),
            ("new/a.rs", "use crate::low;", "`new` has no place"),
            ("guard.rs", "use crate::left;", "must not know of each other"),
            ("top.rs", "use crate::guard;", "must not know of each other"),
        ] {
            let found = objections(file, text);
            assert!(found.len() == 1 && found[0].contains(says), "{file} {text:?}: {found:?}");
        }
        assert_eq!(objections("guard/part.rs", "use crate::low;"), Vec::<String>::new());
    }

    #[test]
    fn a_planted_import_in_a_folder_is_named_with_its_file_and_a_file_of_tests_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("lib.rs", "pub mod left;\npub mod low;\npub mod top;\nuse crate::top;\n");
        write(
            "left.rs",
            "use crate::low;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[path = \"left_more.rs\"]\nmod more;\n",
        );
        write("left/tests.rs", "use crate::top;\n");
        write("left_more.rs", "use crate::top;\n");
        write("top.rs", "use crate::{left, low};\n");
        assert_eq!(TABLE.broken(folder.path()).unwrap(), Vec::<String>::new());
        write("low/deep/down.rs", "use std::fmt;\nuse crate::left::Thing;\n");
        let broken = TABLE.broken(folder.path()).unwrap();
        assert_eq!(broken.len(), 1);
        assert!(broken[0].contains("low/deep/down.rs:2: `low` imports `left`"), "{broken:?}");
    }

    #[test]
    fn a_long_file_and_a_long_function_are_found_and_tests_are_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let body = |lines: usize| "    let _ = 0;\n".repeat(lines);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", body(700));
        let write = |text: &str| std::fs::write(folder.path().join("low.rs"), text).unwrap();
        write(&format!("fn f() {{\n{}}}\n{tests}", body(98)));
        assert_eq!(too_long(folder.path()).unwrap(), Vec::<String>::new());
        write(&format!("fn f() {{\n{}}}\n{tests}", body(99)));
        assert!(too_long(folder.path()).unwrap()[0].contains("low.rs:1: `f` has 101 lines"));
        write(&format!("fn f() {{}}\n{}", "const A: u8 = 0;\n".repeat(600)));
        assert!(too_long(folder.path()).unwrap()[0].contains("601 lines"));
    }
    #[test]
    fn a_name_that_a_crate_defines_twice_is_found_wherever_and_however_it_is_defined() {
        for (one, two, line) in [
            ("pub struct Found;", "use std::io;\n\nstruct Found(u8);", 3),
            ("enum Found { One }", "pub(crate) enum Found {\n    One,\n}", 1),
            ("struct Found<T>(T);", "type Found = u8;", 1),
            ("pub trait Found {}", "#[derive(Debug)]\nunion Found {\n    one: u8,\n}", 2),
            ("pub unsafe trait Found {}", "mod inner {\n    pub(super) struct Found {}\n}", 2),
            ("impl One {\n    type Other = u8;\n}\nstruct Found;", "fn f() {\n    struct Found;\n}", 2),
            ("fn f(_: impl Fn()) {\n    type Found = u8;\n}", "type Found = u8;", 1),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("one.rs"), one).unwrap();
            assert_eq!(defined_twice(folder.path(), &[]).unwrap(), Vec::<String>::new(), "{one:?}");
            std::fs::write(folder.path().join("two.rs"), two).unwrap();
            let found = defined_twice(folder.path(), &[]).unwrap();
            assert_eq!(found.len(), 1, "{one:?} {two:?}: {found:?}");
            assert!(found[0].starts_with("`Found` means 2 things"), "{found:?}");
            assert!(found[0].contains(&format!("two.rs:{line};")), "{two:?}: {found:?}");
            let allowed = [("Found", "planted")];
            assert_eq!(defined_twice(folder.path(), &allowed).unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn tests_associated_types_and_mere_mentions_define_no_name_and_what_is_allowed_in_vain_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("one.rs"), "struct Found;").unwrap();
        for text in [
            "#[cfg(test)]\nmod tests {\n    struct Found;\n}",
            "impl One for Two {\n    type Found = u8;\n}",
            "impl<T> One for T\nwhere\n    T: Two,\n{\n    type Found = u8;\n}",
            "pub trait One {\n    type Found;\n}",
            "use crate::Found;\nimpl Found {}\nimpl One for Found {}",
            "/// struct Found\nconst A: &str = \"struct Found;\";",
            "fn f(union: u8) -> impl Found {}",
        ] {
            std::fs::write(folder.path().join("two.rs"), text).unwrap();
            assert_eq!(defined_twice(folder.path(), &[]).unwrap(), Vec::<String>::new(), "{text:?}");
        }
        let vain = defined_twice(folder.path(), &[("Found", "planted")]).unwrap();
        assert!(vain.len() == 1 && vain[0].contains("`Found` may be defined twice"), "{vain:?}");
    }
}
