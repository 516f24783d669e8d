//! Several files as one configuration: the layers of a name (`x.conf`, `x.d/*.conf`, `x.local`,
//! `x.d/*.local`), what each includes, and `%(option)s` resolved against all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Fail2banError;
use super::ini::{File, OptionPlace, Section, Value};

/// How deep `%(a)s` may lead to `%(b)s`, as in Python.
const DEEPEST: usize = 10;
/// How large a value may grow: what nested options multiply is no configuration any more.
const LARGEST: usize = 1 << 20;
/// How deep files may include files.
const DEEPEST_INCLUDE: usize = 20;

/// Values that go before those of the files: options given in a jail.
pub(super) type Overrides = BTreeMap<String, String>;

/// All layers of a name, merged.
#[derive(Debug)]
pub(super) struct Layers {
    /// The first of the files, for messages.
    base: PathBuf,
    pub(super) defaults: Section,
    /// In the order of the files.
    sections: Vec<(String, Section)>,
    /// What the last layer that changed an option changed, for `%(known/option)s`.
    known: BTreeMap<String, Section>,
}

// === impl Layers ===

impl Layers {
    /// Reads the layers of a name below a folder, such as `jail` or `filter.d/sshd`.
    pub(super) fn read(folder: &Path, name: &str) -> Result<Self, Fail2banError> {
        let file = |extension: &str| folder.join(format!("{name}.{extension}"));
        let mut files = vec![file("conf")];
        files.extend(sorted(&file("d"), "conf")?);
        files.push(file("local"));
        files.extend(sorted(&file("d"), "local")?);
        files.retain(|file| file.exists());
        if files.is_empty() {
            let problem = format!("is not there, and neither is {name}.local");
            return Err(OptionPlace::whole(&file("conf")).error(problem));
        }
        let mut layers = Self {
            base: files[0].clone(),
            defaults: Section::new(),
            sections: Vec::new(),
            known: BTreeMap::new(),
        };
        let mut order = Vec::new();
        for file in with_local(&files) {
            include(&file, &mut Vec::new(), &mut order)?;
        }
        for (_, file) in order {
            layers.merge(file);
        }
        Ok(layers)
    }

    fn merge(&mut self, file: File) {
        self.defaults.extend(file.defaults);
        for (name, section) in file.sections {
            // `[Init?family=inet6]` holds options that hold under a condition.
            let (name, condition) = match name.find('?') {
                Some(at) if at > 0 => (name[..at].to_owned(), name[at..].to_owned()),
                _ => (name, String::new()),
            };
            let section = section.into_iter().map(|(option, value)| (option + &condition, value));
            let Some((_, old)) = self.sections.iter_mut().find(|(other, _)| *other == name) else {
                self.sections.push((name, section.collect()));
                continue;
            };
            let known = self.known.entry(name).or_default();
            for (option, value) in section {
                if let Some(before) = old.insert(option.clone(), value) {
                    known.insert(option, before);
                }
            }
        }
    }

    /// The names of the sections, but for `INCLUDES`.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "INCLUDES")
    }

    /// A section's own options, without those of `[DEFAULT]`.
    pub(super) fn own(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|(other, _)| other == name).map(|(_, section)| section)
    }

    /// The names of a section's options, with those of `[DEFAULT]`.
    pub(super) fn options(&self, name: &str) -> Vec<String> {
        let own = self.own(name).into_iter().flat_map(BTreeMap::keys);
        let mut options: Vec<String> = own.chain(self.defaults.keys()).cloned().collect();
        options.sort_unstable();
        options.dedup();
        options
    }

    /// Where an option of a section was written; the first file where it was not.
    pub(super) fn place(&self, section: &str, option: &str) -> OptionPlace {
        let value = self.own(section).and_then(|own| own.get(option)).or_else(|| self.defaults.get(option));
        value.map_or_else(|| OptionPlace::whole(&self.base), |value| value.place.clone())
    }

    /// An option with everything in it resolved; `None` where it is not set.
    pub(super) fn get(
        &self,
        section: &str,
        option: &str,
        overrides: &Overrides,
    ) -> Result<Option<String>, Fail2banError> {
        // Another section's option is resolved there.
        if let Some((other, inner)) = option.split_once('/')
            && let Some(name) = self.names().find(|name| name.eq_ignore_ascii_case(other))
            && !overrides.contains_key(option)
            && let Some(value) = self.get(name, inner, &Overrides::new())?
        {
            return Ok(Some(value));
        }
        // Of a section that is not there, nothing is set: `<lt_<logtype>/datepattern>` with a logtype that is none.
        if let Some((other, _)) = option.split_once('/')
            && !["known", "default"].contains(&other)
            && !overrides.contains_key(option)
            && !self.names().any(|name| name.eq_ignore_ascii_case(other))
        {
            return Ok(None);
        }
        let Some(raw) = self.raw(section, option, overrides) else { return Ok(None) };
        let place = self.place(section, option);
        let mut resolved = String::new();
        let scope = Scope { section, option, overrides, place: &place };
        self.resolve(raw, &scope, 1, &mut resolved)?;
        Ok(Some(resolved))
    }

    /// The options of a section to which others of it refer, themselves or through further ones.
    pub(super) fn referred<'a>(
        &self,
        section: &str,
        from: impl Iterator<Item = &'a str>,
    ) -> BTreeSet<String> {
        let nothing = Overrides::new();
        let mut found = BTreeSet::new();
        let mut next: Vec<String> = from.map(str::to_owned).collect();
        while let Some(option) = next.pop() {
            let raw = self.raw(section, &option, &nothing).unwrap_or_default();
            for after in raw.split("%(").skip(1) {
                let name = after.split(')').next().unwrap_or_default().to_lowercase();
                if found.insert(name.clone()) {
                    next.push(name);
                }
            }
        }
        found
    }

    /// The value of what stands in `%(…)s`: an option, or one of another section or layer.
    fn raw<'a>(&'a self, section: &'a str, option: &str, overrides: &'a Overrides) -> Option<&'a str> {
        let text = |value: &'a Value| value.text.as_str();
        let option = option.to_lowercase();
        if option == "__name__" {
            return Some(section);
        }
        if let Some(text) = overrides.get(&option) {
            return Some(text);
        }
        if let Some(value) = self.own(section).and_then(|own| own.get(&option)) {
            return Some(text(value));
        }
        if let Some(value) = self.defaults.get(&option) {
            return Some(text(value));
        }
        let (other, option) = option.split_once('/')?;
        let value = match other {
            "default" => None,
            "known" => self.known.get(section).and_then(|known| known.get(option)),
            // The names of sections keep their case, those of options do not.
            _ => self
                .names()
                .find(|name| name.eq_ignore_ascii_case(other))
                .and_then(|name| self.own(name)?.get(option)),
        };
        value.or_else(|| self.defaults.get(option)).map(text)
    }

    fn resolve(
        &self,
        raw: &str,
        scope: &Scope<'_>,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Fail2banError> {
        let Scope { section, option, overrides, place } = *scope;
        if depth > DEEPEST {
            let problem = format!(
                "`{option}` refers to itself, or through more than {DEEPEST} others: break the circle of %(…)s"
            );
            return Err(place.error(problem));
        }
        let mut rest = raw;
        while let Some(percent) = rest.find('%') {
            out.push_str(&rest[..percent]);
            rest = &rest[percent..];
            if let Some(after) = rest.strip_prefix("%%") {
                out.push('%');
                rest = after;
                continue;
            }
            let inner = rest.strip_prefix("%(").and_then(|after| after.find(")s").map(|end| &after[..end]));
            let Some(name) = inner else {
                let found: String = rest.chars().take(12).collect();
                let problem = format!(
                    "`{option}` has `{found}`: write %% for a percent sign, or %(option)s for an option"
                );
                return Err(place.error(problem));
            };
            let Some(value) = self.raw(section, name, overrides) else {
                return Err(place.error(format!("`{option}` refers to %({name})s, which is not set")));
            };
            self.resolve(value, scope, depth + 1, out)?;
            rest = &rest[name.len() + 4..];
        }
        out.push_str(rest);
        if out.len() > LARGEST {
            return Err(place.error(format!("`{option}` grows beyond 1 MB: its %(…)s multiply")));
        }
        Ok(())
    }
}

/// What a value is resolved for.
struct Scope<'a> {
    section: &'a str,
    option: &'a str,
    overrides: &'a Overrides,
    place: &'a OptionPlace,
}

/// Reads a file and what it includes, in the order in which they count.
fn include(
    path: &Path,
    open: &mut Vec<PathBuf>,
    order: &mut Vec<(PathBuf, File)>,
) -> Result<(), Fail2banError> {
    if open.len() > DEEPEST_INCLUDE {
        return Err(
            OptionPlace::whole(path).error(format!("is included through more than {DEEPEST_INCLUDE} files"))
        );
    }
    let file = File::read(path)?;
    open.push(path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/"));
    let listed = |option: &str| -> Option<(Vec<PathBuf>, OptionPlace)> {
        let (_, section) = file.sections.iter().find(|(name, _)| name == "INCLUDES")?;
        let value = section.get(option)?;
        let paths: Vec<PathBuf> = value
            .text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| folder.join(line))
            .collect();
        Some((paths, value.place.clone()))
    };
    let follow = |option: &str, open: &mut Vec<PathBuf>, order: &mut Vec<(PathBuf, File)>| {
        let Some((paths, place)) = listed(option) else { return Ok::<_, Fail2banError>(()) };
        for path in with_local(&paths) {
            // A file that includes itself is read once.
            if open.contains(&path) {
                tracing::debug!(file = %path.display(), "includes itself: read once");
                continue;
            }
            if !path.exists() {
                // Stock files include a `.local` that few people have.
                if path.extension().is_none_or(|extension| extension != "local") {
                    let problem = place.error(format!("includes {}, which is not there", path.display()));
                    tracing::warn!("{problem}; the rest holds");
                }
                continue;
            }
            include(&path, open, order)?;
        }
        Ok(())
    };
    follow("before", open, order)?;
    let at = order.len();
    follow("after", open, order)?;
    open.pop();
    order.insert(at, (path.to_owned(), file));
    Ok(())
}

/// Every file, each followed by its `.local` where there is one.
fn with_local(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for file in files {
        all.push(file.clone());
        let local = file.with_extension("local");
        if !files.contains(&local) && local.is_file() {
            all.push(local);
        }
    }
    all
}

/// The files of a folder with an extension, by name; none where the folder is not there.
fn sorted(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Fail2banError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(OptionPlace::whole(folder).error(format!("cannot read it: {error}"))),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .filter(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")))
        .collect();
    files.sort_unstable();
    Ok(files)
}
