//! What a jail and its filter come to, once every layer, option and tag is resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Fail2banError;
use super::backend::is_systemd;
use super::ini::OptionPlace;
use super::layers::{Layers, Overrides};
use super::tags::{self, substitute};
use crate::filter::FilterDefinition;

/// The section of a filter that defines it, and the one with what jails may give it.
const DEFINITION: &str = "Definition";
const INIT: &str = "Init";

/// The options that a filter and a jail may both set; the jail's win.
const FILTER_OPTIONS: [&str; 7] =
    ["usedns", "prefregex", "ignoreregex", "failregex", "maxlines", "datepattern", "journalmatch"];
/// The options of a jail alone.
const JAIL_OPTIONS: [&str; 20] = [
    "enabled",
    "backend",
    "filter",
    "maxretry",
    "maxmatches",
    "findtime",
    "bantime",
    "bantime.increment",
    "bantime.factor",
    "bantime.formula",
    "bantime.multipliers",
    "bantime.maxtime",
    "bantime.rndtime",
    "bantime.overalljails",
    "ignorecommand",
    "ignoreself",
    "ignoreip",
    "ignorecache",
    "logtimezone",
    "logencoding",
];

/// A jail, with its filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JailDefinition {
    /// Its name: the section's.
    pub name: String,
    /// Which lines are failures.
    pub filter: FilterDefinition,
    /// The files it reads.
    pub logpath: Vec<LogPath>,
    /// Everything else that is set, resolved, by option: `maxretry`, `findtime`, `ignoreip`…
    pub options: BTreeMap<String, String>,
    /// The options of this jail that are for other programs: actions and their parameters.
    pub unused: Vec<String>,
    /// Those that its filter has too, and that do not reach it: the jail's `filter` does not refer to them.
    pub idle: Vec<String>,
    /// The names of what fail2ban runs when it bans: `iptables-multiport`, `sendmail-whois-lines`.
    pub actions: Vec<String>,
}

/// One log file, or a pattern of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPath {
    /// The path, which may have wildcards.
    pub path: String,
    /// Whether only what is written from now on counts.
    pub tail: bool,
}

// === impl JailDefinition ===

impl JailDefinition {
    /// An option of the jail, where it is set and not blank.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }
}

/// Whether a jail is enabled.
pub(super) fn is_enabled(jails: &Layers, name: &str) -> Result<bool, Fail2banError> {
    match jails.get(name, "enabled", &Overrides::new())? {
        Some(text) => boolean(&text).ok_or_else(|| {
            let problem = format!("`enabled` of jail `{name}` is `{text}`: write true or false");
            jails.place(name, "enabled").error(problem)
        }),
        None => Ok(false),
    }
}

/// Resolves a jail and its filter.
pub(super) fn jail(folder: &Path, jails: &Layers, name: &str) -> Result<JailDefinition, Fail2banError> {
    let Some(own) = jails.own(name) else {
        let known: Vec<&str> = jails.names().collect();
        let problem = format!("there is no jail `{name}`; there are {}", known.join(", "));
        return Err(jails.place(name, "enabled").error(problem));
    };
    let get = |option: &str, overrides: &Overrides| jails.get(name, option, overrides);
    let nothing = Overrides::new();
    let mut first = Overrides::new();
    for option in ["enabled", "backend", "filter"] {
        if let Some(value) = get(option, &nothing)? {
            first.insert(option.to_owned(), value);
        }
    }
    let backend = first.get("backend").map_or("auto", String::as_str);
    let spec = first.get("filter").cloned().unwrap_or_default();
    let place = jails.place(name, "filter");

    // The jail may refer to what its filter says, as `%(known/failregex)s`.
    let mut known = Overrides::new();
    if !spec.is_empty() {
        let (_, combined) = filter(folder, &spec, backend, &first, &place)?;
        let escaped =
            |(option, value): (String, String)| (format!("known/{option}"), value.replace('%', "%%"));
        known.extend(combined.into_iter().filter(|(option, _)| !option.starts_with("known/")).map(escaped));
    }
    let mut options = BTreeMap::new();
    for option in FILTER_OPTIONS.iter().chain(&JAIL_OPTIONS).chain(&["logpath"]) {
        if let Some(value) = get(option, &known)? {
            options.insert((*option).to_owned(), value);
        }
    }
    let (mut filter, of_filter) = if spec.is_empty() {
        (FilterDefinition { maxlines: 1, ..FilterDefinition::default() }, BTreeMap::new())
    } else {
        filter(folder, &spec, backend, &options, &place)?
    };
    let of_jail: BTreeMap<String, String> =
        FILTER_OPTIONS.iter().filter_map(|option| options.remove_entry(*option)).collect();
    take(&mut filter, &of_jail, &|option| jails.place(name, option))?;

    let logpath = options.remove("logpath").unwrap_or_default().lines().filter_map(log_path).collect();
    let is_used = |option: &str| {
        FILTER_OPTIONS.contains(&option) || JAIL_OPTIONS.contains(&option) || option == "logpath"
    };
    let used = FILTER_OPTIONS.iter().chain(&JAIL_OPTIONS).chain(&["logpath"]).copied();
    let referred = jails.referred(name, used);
    let others = own.keys().filter(|option| !is_used(option) && !referred.contains(*option)).cloned();
    let (idle, unused) = others.partition(|option| of_filter.contains_key(option));
    // What is wrong in it matters to fail2ban alone.
    let actions = get("action", &known).ok().flatten().map(|text| action_names(&text)).unwrap_or_default();
    Ok(JailDefinition { name: name.to_owned(), filter, logpath, options, unused, idle, actions })
}

/// The names in `name[option=value, other="a b"]`, parted by blanks or lines.
fn action_names(text: &str) -> Vec<String> {
    let (mut names, mut name, mut inside, mut quote) = (Vec::new(), String::new(), false, None);
    for character in text.chars() {
        match (character, quote) {
            (character, Some(open)) => quote = (character != open).then_some(open),
            ('"' | '\'', None) if inside => quote = Some(character),
            ('[' | ']', None) => inside = character == '[',
            (character, None) if !inside && !character.is_whitespace() => {
                name.push(character);
                continue;
            }
            _ => {}
        }
        if !name.is_empty() {
            names.push(std::mem::take(&mut name));
        }
    }
    names.extend(Some(name).filter(|name| !name.is_empty()));
    names
}

/// Resolves a filter for a jail with the given options. Also returns all of the filter's options.
pub(super) fn filter(
    folder: &Path,
    spec: &str,
    backend: &str,
    of_jail: &Overrides,
    place: &OptionPlace,
) -> Result<(FilterDefinition, BTreeMap<String, String>), Fail2banError> {
    let (name, given) = split(spec).map_err(|problem| place.error(format!("`{spec}`: {problem}")))?;
    if name.contains("..") || name.starts_with('/') {
        return Err(place.error(format!("`{name}` is no name of a filter: it must lie in filter.d")));
    }
    let layers = Layers::read(folder, &format!("filter.d/{name}"))?;
    resolve(&layers, name, given, backend, of_jail)
}

/// Resolves a filter in a file that lies anywhere, for no jail.
pub(super) fn filter_in_file(path: &Path) -> Result<FilterDefinition, Fail2banError> {
    let (folder, stem) = (path.parent().unwrap_or(Path::new(".")), path.file_stem());
    let name = stem.map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let layers = Layers::read(folder, &name)?;
    resolve(&layers, name, Overrides::new(), "auto", &Overrides::new()).map(|(filter, _)| filter)
}

fn resolve(
    layers: &Layers,
    name: String,
    mut given: Overrides,
    backend: &str,
    of_jail: &Overrides,
) -> Result<(FilterDefinition, BTreeMap<String, String>), Fail2banError> {
    if layers.own(DEFINITION).is_none() {
        return Err(layers.place(DEFINITION, "failregex").error("has no [Definition]"));
    }
    if !given.contains_key("logtype") && layers.own(DEFINITION).is_none_or(|own| !own.contains_key("logtype"))
    {
        let logtype = if is_systemd(backend) { "journal" } else { "file" };
        given.insert("logtype".to_owned(), logtype.to_owned());
    }
    let mut overrides = of_jail.clone();
    overrides.extend(given.clone());
    let mut combined = BTreeMap::new();
    for option in layers.options(DEFINITION) {
        if !overrides.contains_key(&option)
            && let Some(value) = layers.get(DEFINITION, &option, &overrides)?
        {
            combined.insert(option, value);
        }
    }
    if let Some(init) = layers.own(INIT) {
        for option in init.keys() {
            let Some(value) = layers.get(INIT, option, &Overrides::new())? else { continue };
            given.entry(option.clone()).or_insert_with(|| value.clone());
            given.insert(format!("known/{option}"), value);
        }
    }
    combined.extend(given);
    let conditional: BTreeSet<String> =
        combined.keys().filter_map(|option| Some(option.split_once('?')?.0.to_owned())).collect();
    let also = |option: &str| layers.get(DEFINITION, option, &overrides);
    let built = tags::built(&combined);
    let combined = substitute(&combined, &conditional, also)
        .map_err(|(option, problem)| layers.place(DEFINITION, &option).error(problem))?;
    for option in ["prefregex", "failregex", "ignoreregex", "datepattern"] {
        let value = combined.get(option).map(String::as_str).unwrap_or_default();
        if let Some((tag, from)) = built.iter().find(|(tag, _)| value.contains(tag.as_str())) {
            let given = combined.get(from).map(String::as_str).unwrap_or_default();
            let problem = format!(
                "`{option}` needs {tag}, which is not set: the filter does not know the {from} `{given}`"
            );
            return Err(layers.place(DEFINITION, option).error(problem));
        }
    }

    let mut filter = FilterDefinition { name, maxlines: 1, ..FilterDefinition::default() };
    take(&mut filter, &combined, &|option| layers.place(DEFINITION, option))?;
    Ok((filter, combined))
}

/// Gives a filter those of the options that a filter has. Lists grow: a jail's takes the place of what the filter's
/// `[Definition]` has, which is not asked for then, and is added to what its `[Init]` has, as in fail2ban.
fn take(
    filter: &mut FilterDefinition,
    options: &BTreeMap<String, String>,
    place: &dyn Fn(&str) -> OptionPlace,
) -> Result<(), Fail2banError> {
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let unless_blank = |text: &String| Some(text.clone()).filter(|text| !text.trim().is_empty());
    for (option, value) in options {
        match option.as_str() {
            "failregex" => filter.failregex.extend(lines(value)),
            "ignoreregex" => filter.ignoreregex.extend(lines(value)),
            "journalmatch" => filter.journalmatch.extend(lines(value)),
            "prefregex" => filter.prefregex = unless_blank(value),
            "datepattern" => filter.datepattern = unless_blank(value),
            "usedns" => filter.usedns = Some(value.clone()),
            "maxlines" => {
                let number = value.trim().parse().ok().filter(|lines| (1..=1000).contains(lines));
                filter.maxlines = number.ok_or_else(|| {
                    place(option).error(format!("`maxlines` is `{value}`: expected a number from 1 to 1000"))
                })?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// `name[option=value, other="a, b"][third='c']` taken apart.
pub(super) fn split(spec: &str) -> Result<(String, Overrides), String> {
    let spec = spec.trim();
    let Some(open) = spec.find('[') else { return Ok((spec.to_owned(), Overrides::new())) };
    let Some(inner) = spec[open + 1..].strip_suffix(']') else {
        return Err("a `[` is not closed by a `]` at the end".to_owned());
    };
    let mut options = Overrides::new();
    let mut rest = inner.trim_start();
    while !rest.is_empty() {
        let Some((name, after)) = rest.split_once('=') else {
            return Err(format!("expected option=value, found `{rest}`"));
        };
        let name = name.trim();
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!("`{name}` is no name of an option"));
        }
        let (value, after) = match after.chars().next() {
            Some(quote @ ('"' | '\'')) => after[1..]
                .split_once(quote)
                .ok_or_else(|| format!("the {quote} after `{name}=` is not closed"))?,
            _ => after.split_at(after.find([',', ']']).unwrap_or(after.len())),
        };
        options.insert(name.to_owned(), value.trim().to_owned());
        let after = after.trim_start();
        rest = match after.as_bytes().first() {
            None => "",
            Some(b',') => after[1..].trim_start(),
            // Another group: `][`.
            Some(b']') => after[1..]
                .trim_start()
                .strip_prefix('[')
                .ok_or_else(|| format!("expected `[` after `]`, found `{}`", &after[1..]))?
                .trim_start(),
            Some(_) => return Err(format!("expected `,` after the value of `{name}`, found `{after}`")),
        };
    }
    Ok((spec[..open].trim_end().to_owned(), options))
}

/// A line of `logpath`: a path, and `head` or `tail`.
fn log_path(line: &str) -> Option<LogPath> {
    let line = line.trim();
    let (path, end) = line.rsplit_once(' ').unwrap_or((line, "head"));
    (!path.is_empty()).then(|| LogPath { path: path.trim_end().to_owned(), tail: end == "tail" })
}

/// A switch, as fail2ban writes them.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "on" | "true" | "yes" => Some(true),
        "0" | "off" | "false" | "no" | "" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("sshd", "sshd", &[])]
    #[case("sshd[mode=aggressive]", "sshd", &[("mode", "aggressive")])]
    #[case("x[a=\"1, 2\", b='3]', c=4]", "x", &[("a", "1, 2"), ("b", "3]"), ("c", "4")])]
    #[case("x[a=1][b=2]", "x", &[("a", "1"), ("b", "2")])]
    #[case("x[a=1] [ b = 2 ]", "x", &[("a", "1"), ("b", "2")])]
    #[case("x[]", "x", &[])]
    #[case("x[a=]", "x", &[("a", "")])]
    fn a_filters_options_are_taken_apart(
        #[case] spec: &str,
        #[case] name: &str,
        #[case] expected: &[(&str, &str)],
    ) {
        let (found, options) = split(spec).unwrap();
        assert_eq!(found, name);
        let options: Vec<(&str, &str)> = options.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(options, expected);
    }

    #[rstest]
    #[case("", &[])]
    #[case("iptables-multiport[port=\"ssh,2222\", name=x] sendmail", &["iptables-multiport", "sendmail"])]
    #[case("a[x=\"]b \", y='c d'][z=1]\n b\nsmtp.py[host=h]", &["a", "b", "smtp.py"])]
    fn the_names_of_actions_are_found(#[case] text: &str, #[case] expected: &[&str]) {
        assert_eq!(action_names(text), expected);
    }

    #[rstest]
    #[case("x[a=1", "not closed")]
    #[case("x[a]", "expected option=value")]
    #[case("x[a=\"1]", "is not closed")]
    #[case("x[a=\"1\" b=2]", "expected `,`")]
    #[case("x[a b=1]", "no name")]
    fn a_mistake_in_them_is_told(#[case] spec: &str, #[case] expected: &str) {
        let error = split(spec).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
