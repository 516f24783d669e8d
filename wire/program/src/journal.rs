//! What systemd's journal wants of a service's log: no time, which it notes itself, and before each line the priority
//! (sd-daemon(3)), so that `journalctl -p warning` and the colours of `journalctl` are right.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::AsFd;

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Another format, with the priority before each line. A message of several lines is an entry for each.
pub struct WithPriority<F>(pub F);

/// Whether a stream goes to the journal: `JOURNAL_STREAM` names its device and inode then (systemd.exec(5)). That the
/// variable is set says nothing: whatever a service of the desktop starts inherits it, a terminal and its shells too.
pub fn is_behind(stream: impl AsFd) -> bool {
    fstat(stream)
        .is_ok_and(|stat| named(std::env::var_os("JOURNAL_STREAM").as_deref(), stat.st_dev, stat.st_ino))
}

/// How urgent a level is to the journal, as syslog(3) counts: the lower the worse.
pub fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn named(stream: Option<&OsStr>, device: u64, inode: u64) -> bool {
    stream.is_some_and(|stream| *stream == *format!("{device}:{inode}"))
}

// === impl WithPriority ===

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        text.lines().try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_journals_only_where_the_variable_names_that_very_stream() {
        let is_journals = |stream: Option<&str>| named(stream.map(OsStr::new), 8, 12_345);
        assert!(is_journals(Some("8:12345")));
        for other in [None, Some(""), Some("1"), Some("8:1234"), Some("9:12345"), Some("8:12345:1")] {
            assert!(!is_journals(other), "{other:?}");
        }
    }
}
