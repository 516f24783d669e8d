//! Opens logs for the worker that it cannot reach: what was made, or made again, since it was confined, and what links
//! lead to. Which logs those are was said before the worker read anything, and is not changed after: a worker that was
//! taken over opens what the configuration names, and no more.

use std::path::Path;

use crate::confine::logs::{LogPart, OpenedLog, PathPattern, WantedLogs};

/// The logs that may be opened.
#[derive(Default)]
pub(super) struct Logs(Option<(WantedLogs, Vec<PathPattern>)>);

// === impl Logs ===

impl Logs {
    /// Names them, the first time.
    pub(super) fn set(&mut self, wanted: WantedLogs) {
        if self.0.is_none() {
            let patterns =
                wanted.patterns.iter().filter_map(|pattern| PathPattern::new(pattern).ok()).collect();
            self.0 = Some((wanted, patterns));
        }
    }

    /// Opens a part of a log.
    pub(super) fn open(&self, path: &Path, part: &LogPart) -> std::io::Result<OpenedLog> {
        let allowed = self.0.as_ref().filter(|(_, patterns)| {
            patterns.iter().any(|pattern| match part {
                LogPart::Names => pattern.looks_into(path),
                LogPart::File | LogPart::Archives(_) | LogPart::Archive(..) => pattern.matches(path),
            })
        });
        match allowed {
            Some((wanted, _)) => wanted.open(path, part),
            None => Err(std::io::Error::other(
                "it is not among the `paths` with which the sensor was started; start it again, which loses nothing",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confine::logs::Side;

    #[test]
    fn only_what_was_named_first_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("logs/web")).unwrap();
        for name in ["logs/web/a.log", "logs/web/a.log.1", "logs/web/key", "logs/key", "key"] {
            std::fs::write(at(name), "").unwrap();
        }
        let named = |pattern: &str| WantedLogs {
            patterns: vec![at(pattern).to_str().unwrap().to_owned()],
            ..WantedLogs::default()
        };
        let mut logs = Logs::default();
        assert!(logs.open(&at("logs/web/a.log"), &LogPart::File).is_err(), "before anything was named");
        logs.set(named("logs/*/*.log"));
        logs.set(named("*"));
        let archive = |name: &str| LogPart::Archive(Side::Target, name.into());
        for (path, part) in [
            ("logs", LogPart::Names),
            ("logs/web", LogPart::Names),
            ("logs/web/a.log", LogPart::File),
            ("logs/web/a.log", LogPart::Archives(Side::Target)),
            ("logs/web/a.log", archive("a.log.1")),
        ] {
            logs.open(&at(path), &part).unwrap_or_else(|error| panic!("{path} {part:?}: {error}"));
        }
        for (path, part) in [
            ("", LogPart::Names),
            ("logs/web/a.log", LogPart::Names),
            ("logs/web/key", LogPart::File),
            ("logs/../key", LogPart::File),
            ("logs/web/../key", LogPart::File),
            ("logs/key", LogPart::File),
            ("key", LogPart::File),
            ("key", LogPart::Archives(Side::Link)),
            ("logs/web/a.log", archive("key")),
            ("logs/web/a.log", archive("a.log./../key")),
            ("logs/web/a.log", archive("a.log.2")),
        ] {
            assert!(logs.open(&at(path), &part).is_err(), "{path} {part:?}");
        }
    }
}
