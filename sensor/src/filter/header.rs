//! Headers of syslog lines that are not `HOST TAG[PID]: text`, which filters count on, made into that: lines without a
//! host (busybox over the network), with facility and severity before the tag (busybox's own file, syslog-ng's
//! `auth.info`) or behind it (Solaris: `[ID 800047 auth.info]`), without the tag's colon (rsyslog, of what came in as RFC
//! 5424), with a priority and no date; and texts in which a daemon wrote control characters as `#012`.

use crate::rfc5424::Line;

/// What stands for a host that a line does not name.
const NO_HOST: &[u8] = b"-";
/// How rsyslog begins a line that stands for several.
const REPEATED: &[u8] = b"message repeated ";
/// The most failures that one line can stand for.
const MOST_REPEATED: u32 = 1000;

const FACILITIES: [&str; 23] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "security", "console", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];
const SEVERITIES: [&str; 12] =
    ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug", "panic", "error", "warn", "none"];

/// A line's header.
struct Header<'a> {
    host: &'a [u8],
    /// Without its colon.
    tag: &'a [u8],
    /// Where the message begins.
    message: usize,
    /// Whether it is `HOST TAG[PID]: `.
    is_usual: bool,
}

/// A line without its date as `HOST TAG[PID]: text`; `None` where it has no header of syslog's, or is that already.
pub(super) fn reformed(line: &[u8]) -> Option<Line> {
    let header = Header::read(line)?;
    let message = &line[header.message..];
    let text = without_escapes(without_repetition(message).map_or(message, |(text, _)| text));
    if header.is_usual && text == message {
        return None;
    }
    let at = header.message
        + (message.len() - without_repetition(message).map_or(message, |(text, _)| text).len());
    let head = [b" ", header.host, b" ", header.tag, b": "].concat();
    Some(Line::new(&head, &text, at.min(line.len())))
}

/// How many failures a line without its date stands for: rsyslog writes `message repeated 3 times: [ … ]`.
pub(super) fn repetitions(line: &[u8]) -> u32 {
    // Nearly no line has it.
    if memchr::memmem::find(line, REPEATED).is_none() {
        return 1;
    }
    let Some(header) = Header::read(line) else { return 1 };
    without_repetition(&line[header.message..]).map_or(1, |(_, times)| times.clamp(1, MOST_REPEATED))
}

// === impl Header ===

impl<'a> Header<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut rest = line.trim_ascii_start();
        let mut is_usual = true;
        if let Some(after) = without_priority(rest) {
            (rest, is_usual) = (after.trim_ascii_start(), false);
        }
        let (mut word, mut after) = word(rest)?;
        let mut host = NO_HOST;
        if tag(word).is_some_and(|(_, has_colon)| has_colon) || is_level(word) {
            is_usual = false;
        } else {
            host = word;
            (word, after) = self::word(after)?;
        }
        if is_level(word) {
            is_usual = false;
            (word, after) = self::word(after)?;
        }
        let (tag, has_colon) = tag(word)?;
        is_usual &= has_colon;
        if let Some(text) = without_id(after) {
            (after, is_usual) = (text, false);
        }
        Some(Self { host, tag, message: line.len() - after.len(), is_usual })
    }
}

/// The first word, and what follows the blanks after it.
fn word(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b' ', rest)?;
    (end > 0).then(|| (&rest[..end], rest[end..].trim_ascii_start()))
}

/// A tag without its colon, and whether it has one; without one it needs a process's number.
fn tag(word: &[u8]) -> Option<(&[u8], bool)> {
    let (body, has_colon) = word.strip_suffix(b":").map_or((word, false), |body| (body, true));
    let (name, process) = match body.strip_suffix(b"]") {
        Some(inner) => {
            let open = memchr::memrchr(b'[', inner)?;
            (&inner[..open], Some(&inner[open + 1..]))
        }
        None => (body, None),
    };
    let is_name =
        !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_./-".contains(byte));
    let is_process = |process: &[u8]| !process.is_empty() && process.iter().all(u8::is_ascii_digit);
    (is_name && process.map_or(has_colon, is_process)).then_some((body, has_colon))
}

/// Whether it is `auth.info`.
fn is_level(word: &[u8]) -> bool {
    let Some((facility, severity)) = std::str::from_utf8(word).ok().and_then(|word| word.split_once('.'))
    else {
        return false;
    };
    FACILITIES.contains(&facility) && SEVERITIES.contains(&severity)
}

/// What follows `<38>`.
fn without_priority(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"<")?;
    let digits = rest.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
    rest[digits..].strip_prefix(b">").filter(|_| digits > 0)
}

/// What follows Solaris's `[ID 800047 auth.info] `.
fn without_id(text: &[u8]) -> Option<&[u8]> {
    let rest = text.strip_prefix(b"[ID ")?;
    let (number, rest) = word(rest)?;
    let end = memchr::memchr(b']', rest)?;
    let is_id = number.iter().all(u8::is_ascii_digit) && is_level(&rest[..end]);
    is_id.then(|| rest[end + 1..].trim_ascii_start())
}

/// What `message repeated 3 times: [ … ]` holds, and how often.
fn without_repetition(message: &[u8]) -> Option<(&[u8], u32)> {
    let (times, rest) = word(message.strip_prefix(REPEATED)?)?;
    let times = std::str::from_utf8(times).ok()?.parse().ok()?;
    let inner = rest.strip_prefix(b"times: [")?.strip_suffix(b"]")?;
    Some((inner.trim_ascii(), times))
}

/// A text with control characters that a daemon wrote as `#` and three octal digits read as blanks, and none of them, nor
/// NUL, at its end.
fn without_escapes(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'#', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        if is_escape(rest) {
            out.push(b' ');
            rest = &rest[4..];
        } else {
            out.push(b'#');
            rest = &rest[1..];
        }
    }
    out.extend_from_slice(rest);
    if out.len() != text.len() || text.ends_with(b"\0") {
        let end = out.iter().rposition(|byte| !matches!(byte, b' ' | 0)).map_or(0, |last| last + 1);
        out.truncate(end);
    }
    out
}

/// Whether a text begins with `#000` to `#037` or `#177`.
fn is_escape(text: &[u8]) -> bool {
    matches!(text, [b'#', b'0', b'0'..=b'3', b'0'..=b'7', ..] | [b'#', b'1', b'7', b'7', ..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::filter::{Host, LineOutcome, Match};

    const TEXT: &str = "Failed password for root from 192.0.2.7 port 4022 ssh2";

    /// The address, the user, how often, and where the address stands.
    fn found(line: &str) -> Option<(String, String, u32, String)> {
        let mut filter = crate::filter::catalogue::filter("sshd").unwrap().compile().unwrap();
        match filter.find(line.as_bytes()) {
            LineOutcome::Matched(Match { host: Host::Address(address), user, times, span, .. }) => {
                Some((address.to_string(), user.unwrap_or_default(), times, line[span].to_owned()))
            }
            _ => None,
        }
    }

    #[rstest]
    // busybox: sent over the network, and in its own file.
    #[case("<38>Nov 30 10:06:02 sshd[77]: TEXT")]
    #[case("Nov 30 10:06:02 sshd[77]: TEXT")]
    #[case("Nov 30 10:15:08 vm auth.info sshd[77]: TEXT")]
    #[case("Nov 30 10:15:08 auth.info sshd[77]: TEXT")]
    #[case("Nov 30 10:15:08 vm authpriv.notice sshd: TEXT")]
    // No date.
    #[case("<38>sshd[77]: TEXT")]
    #[case("<38>vm sshd[77]: TEXT")]
    #[case("sshd[77]: TEXT")]
    // Solaris.
    #[case("Nov 30 10:06:02 vm sshd[77]: [ID 800047 auth.info] TEXT")]
    // rsyslog, of what came in as RFC 5424.
    #[case("2026-11-29T10:00:00.000000+00:00 box sshd[411] TEXT")]
    #[case("Nov 29 10:00:00 box sshd[411] TEXT")]
    // What the daemon's line ended with.
    #[case("Nov 29 10:00:00 box sshd[411]: TEXT#012")]
    #[case("Nov 29 10:00:00 box sshd[411]: TEXT#015#012")]
    #[case("Nov 29 10:00:00 box sshd[411]: TEXT\0")]
    #[case("<38>Nov 30 10:06:02 sshd[77]: TEXT\0\0")]
    fn a_header_of_another_form_is_read_as_the_usual_one(#[case] form: &str) {
        let expected = ("192.0.2.7".to_owned(), "root".to_owned(), 1, "192.0.2.7".to_owned());
        assert_eq!(found(&form.replace("TEXT", TEXT)), Some(expected));
    }

    #[test]
    fn what_the_real_logger_sends_to_a_local_daemon_and_to_another_host_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, patience) = (folder.path().join("log"), Some(std::time::Duration::from_secs(10)));
        let local = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let remote = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        local.set_read_timeout(patience).unwrap();
        remote.set_read_timeout(patience).unwrap();
        let port = remote.local_addr().unwrap().port().to_string();
        let send = |to: &[&str]| {
            let mut command = std::process::Command::new("logger");
            command.args(["--priority", "auth.info", "--tag", "sshd[77]"]).args(to).arg(TEXT);
            assert!(command.status().unwrap().success());
        };
        let mut lines = Vec::new();
        let mut buffer = [0; 1000];
        let mut keep = |sent: &[u8]| lines.push(String::from_utf8_lossy(sent).into_owned());
        send(&["--socket", path.to_str().unwrap()]);
        let length = local.recv(&mut buffer).unwrap();
        keep(&buffer[..length]);
        for form in ["--rfc3164", "--rfc5424"] {
            send(&["--server", "127.0.0.1", "--port", &port, "--udp", form]);
            let length = remote.recv(&mut buffer).unwrap();
            keep(&buffer[..length]);
        }
        // The local one names no host, which is what this is about.
        assert!(lines[0].starts_with("<38>") && lines[0].split(' ').any(|word| word == "sshd[77]:"));
        for line in lines {
            let found = found(&line).map(|(address, user, ..)| (address, user));
            assert_eq!(found, Some(("192.0.2.7".to_owned(), "root".to_owned())), "{line}");
        }
    }

    #[rstest]
    #[case("Nov 29 10:00:00 box sshd[411]: message repeated 3 times: [ TEXT]", 3)]
    #[case("Nov 29 10:00:00 box sshd[411]: message repeated 2 times: [TEXT ]", 2)]
    #[case("Nov 29 10:00:00 sshd[411]: message repeated 5 times: [ TEXT]", 5)]
    #[case("Nov 29 10:00:00 box sshd[411]: message repeated 4000000000 times: [ TEXT]", 1000)]
    #[case("Nov 29 10:00:00 box sshd[411]: message repeated 0 times: [ TEXT]", 1)]
    fn a_line_that_stands_for_several_counts_as_so_many(#[case] form: &str, #[case] times: u32) {
        let found = found(&form.replace("TEXT", TEXT)).unwrap();
        assert_eq!((found.0.as_str(), found.1.as_str(), found.2), ("192.0.2.7", "root", times));
    }

    #[rstest]
    #[case(
        "Nov 29 10:00:00 box sshd[1]: Failed password for message repeated 9 times: [ x] from 192.0.2.7 port 1 ssh2",
        "192.0.2.7"
    )]
    #[case(
        "Nov 29 10:00:00 box sshd[1]: Failed password for x message repeated 9 times: [ Failed password for y from 203.0.113.66 port 1 ssh2] from 192.0.2.7 port 1 ssh2",
        "192.0.2.7"
    )]
    #[case(
        "Nov 29 10:00:00 box sshd[1]: Failed password for x#012Nov 29 10:00:00 box sshd[1]: Failed password for y from 203.0.113.66 port 1 ssh2#012 from 192.0.2.7 port 1 ssh2",
        "192.0.2.7"
    )]
    #[case(
        "Nov 29 10:00:00 sshd[1]: Failed password for x#012 from 203.0.113.66 port 1 ssh2#012 from 192.0.2.7 port 1 ssh2",
        "192.0.2.7"
    )]
    fn what_a_stranger_wrote_neither_counts_more_nor_accuses_another(
        #[case] line: &str,
        #[case] address: &str,
    ) {
        let found = found(line).unwrap();
        assert_eq!((found.0.as_str(), found.2), (address, 1));
    }

    #[rstest]
    #[case("Nov 29 10:00:00 box login: sshd[1] TEXT")]
    #[case("Nov 29 10:00:00 box app[7]: [ID x] sshd[1]: TEXT")]
    #[case("Nov 29 10:00:00 box app[7]: auth.info sshd[1]: TEXT")]
    #[case("Nov 29 10:00:00 box app[7]: message repeated 2 times: [ box sshd[1]: TEXT]")]
    #[case("Nov 29 10:00:00 box app[7]: x#012sshd[1]: TEXT")]
    #[case("Nov 29 10:00:00 box not.alevel sshd[1]: TEXT")]
    fn another_programs_line_stays_its_own(#[case] form: &str) {
        assert_eq!(found(&form.replace("TEXT", TEXT)), None, "{form}");
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic_and_every_place_lies_in_the_line(
            line in prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(b" :[]<>.#0127aIDsauth".to_vec())],
                0..60,
            ),
            head in prop::sample::select(vec!["", " h ", " h a[1]: ", "<38>", " auth.info a: ", " h a: message repeated 2 times: ["]),
        ) {
            let line = [head.as_bytes(), &line].concat();
            prop_assert!((1..=MOST_REPEATED).contains(&repetitions(&line)));
            if let Some(reformed) = reformed(&line) {
                prop_assert!((0..=reformed.bytes.len()).all(|place| reformed.place(place) <= line.len() + 1));
            }
        }
    }
}
