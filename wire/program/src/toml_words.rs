//! What is wrong with a TOML file, in the words of people who write such files: the parser tells it in those of the
//! program's types.

/// What a name may differ in from the one that was meant, in letters that were added, left out, changed or swapped.
const TYPING_MISTAKES: usize = 2;

/// A message of the parser's, put so that it names what stands in a file and not what a program makes of it. One that
/// says enough stays as it is.
pub fn plain(message: &str) -> String {
    if let Some((found, expected)) = mismatch(message) {
        return format!("{}; expected {}", thing(found), wanted(expected));
    }
    if let Some((field, known)) = unlisted(message, "unknown field ") {
        let nearest =
            nearest(field, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let all = if known.is_empty() { String::new() } else { format!(" (there are {})", listed(&known)) };
        return format!("there is no `{field}` here{nearest}{all}");
    }
    if let Some((variant, known)) = unlisted(message, "unknown variant ") {
        let nearest =
            nearest(variant, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        return format!("`{variant}` is none of {}{nearest}", listed(&known));
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("{field} is missing");
    }
    if message == "duplicate key" {
        return "this is there twice: leave one".to_owned();
    }
    message.to_owned()
}

/// What was found and what was expected, of a message that says both.
fn mismatch(message: &str) -> Option<(&str, &str)> {
    let rest = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
    // What was found may hold the word, quoted; what is expected does not.
    rest.rsplit_once(", expected ")
}

/// A name that is none of those that are known.
fn unlisted<'a>(message: &'a str, kind: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let (name, rest) = message.strip_prefix(kind)?.strip_prefix('`')?.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).collect();
    Some((name, known))
}

/// The value that was found.
fn thing(found: &str) -> String {
    let value = found.split_once(' ').map_or("", |(_, value)| value);
    match found.split(' ').next().unwrap_or_default() {
        "integer" => format!("found the number {}", value.trim_matches('`')),
        "floating" => format!("found the number {}", value.trim_start_matches("point ").trim_matches('`')),
        "boolean" => format!("found {}", value.trim_matches('`')),
        "string" => format!("found the text {value}"),
        "sequence" => "found a list".to_owned(),
        "map" => "found a table".to_owned(),
        _ => format!("found {found}"),
    }
}

/// What was expected, where it is a type's name.
fn wanted(expected: &str) -> String {
    let number = |most: u64| format!("a whole number from 0 to {most}");
    match expected {
        "a sequence" => "a list in brackets, such as [\"…\"]".to_owned(),
        "a string" | "string" => "text in quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a map" | "map" => "a table".to_owned(),
        "u8" => number(u8::MAX.into()),
        "u16" => number(u16::MAX.into()),
        "u32" => number(u32::MAX.into()),
        "u64" | "usize" | "i64" | "i32" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        _ if expected.starts_with("struct ") => "a table".to_owned(),
        _ if expected.starts_with("enum ") => "text in quotes".to_owned(),
        _ => expected.to_owned(),
    }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |one: &str| strsim::damerau_levenshtein(name, one);
    let near = known.iter().copied().min_by_key(|one| distance(one))?;
    // Of a short name half of it may be another's.
    (distance(near) <= TYPING_MISTAKES.min(name.chars().count() / 2)).then_some(near)
}

fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use rstest::rstest;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its mistakes are looked at")]
    struct Settings {
        address: Option<SocketAddr>,
        allow: Option<Vec<String>>,
        port: Option<u16>,
        many: Option<usize>,
        on: Option<bool>,
        share: Option<f64>,
        name: Option<String>,
        kind: Option<Kind>,
        inner: Option<Inner>,
        inners: Option<BTreeMap<String, Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Low,
        High,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its mistakes are looked at")]
    struct Inner {
        only: u8,
    }

    #[rstest]
    #[case(
        "allow = \"x, expected y\"",
        "found the text \"x, expected y\"; expected a list in brackets, such as [\"…\"]"
    )]
    #[case("allow = [5]", "found the number 5; expected text in quotes")]
    #[case("port = 70000", "found the number 70000; expected a whole number from 0 to 65535")]
    #[case("port = \"22\"", "found the text \"22\"; expected a whole number from 0 to 65535")]
    #[case("many = -1", "found the number -1; expected a whole number")]
    #[case("many = 1.5", "found the number 1.5; expected a whole number")]
    #[case("on = \"yes\"", "found the text \"yes\"; expected true or false")]
    #[case("on = 1979-05-27", "expected true or false")]
    #[case("share = []", "found a list; expected a number")]
    #[case("name = true", "found true; expected text in quotes")]
    #[case("name = {}", "found a table; expected text in quotes")]
    #[case("kind = \"hgih\"", "`hgih` is none of `low`, `high`; did you mean `high`?")]
    #[case("kind = \"wild\"", "`wild` is none of `low`, `high`")]
    #[case("inner = 5", "found the number 5; expected a table")]
    #[case("inners = 5", "found the number 5; expected a table")]
    #[case("inner = {}", "`only` is missing")]
    #[case("inner = {only = 1, onyl = 2}", "there is no `onyl` here; did you mean `only`?")]
    #[case("alow = []", "there is no `alow` here; did you mean `allow`? (there are `address`, `allow`, ")]
    #[case("sockets = []", "there is no `sockets` here (there are ")]
    #[case("port = 1\nport = 2", "this is there twice: leave one")]
    fn a_mistake_is_told_without_the_names_of_types(#[case] text: &str, #[case] says: &str) {
        let told = plain(toml::from_str::<Settings>(text).unwrap_err().message());
        assert!(told.contains(says), "{told}");
        for internal in [
            "struct",
            "enum",
            "u16",
            "usize",
            "f64",
            "sequence",
            "Settings",
            "Inner",
            "invalid type",
            "field",
        ] {
            assert!(!told.contains(internal), "{told}");
        }
    }
}
