//! Log lines with no log file: what root's programs of this host say to libc's `syslog`. The kernel hands over the
//! format and the first arguments; the line is made of them here, as printf(3) would.
//!
//! The caller is known to be root's, but an attacker's name or host name is still in the text as it is in any
//! log: filters must be as careful as with files. What cannot be made into a line is counted.

use std::fmt::Write as _;

use atalaya_sensor_ebpf::logins::{ARGUMENTS, SYSLOG_MAP, SyslogCall};
use jiff::Timestamp;

use crate::kernel::clock::age;
use crate::kernel::maps::{self, Maps, MapsError, Ring};

/// The longest line, in bytes; what is beyond is cut.
const LONGEST: usize = 4096;

/// The worker's half of what `logins` records of syslog(3): reads its ring and makes log lines of the calls.
pub struct SyslogCalls {
    ring: Ring,
    /// This host's name, as log lines have it.
    host: String,
    unformatted: u64,
}

/// What a program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogLine {
    /// Who: the calling thread's name.
    pub program: String,
    /// When it was called, by this host's clock: the record's age before now.
    pub time: Timestamp,
    /// As syslog writes it after the date: `host sshd[123]: message`.
    pub text: Vec<u8>,
}

// === impl SyslogCalls ===

impl SyslogCalls {
    /// Reads the object's map. To be called within a tokio runtime.
    pub fn new(maps: &mut Maps) -> Result<Self, MapsError> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { ring: maps.ring(SYSLOG_MAP)?, host, unformatted: 0 })
    }

    /// What was said since the last call; waits until there is something. An error where the ring cannot be read any
    /// more.
    pub async fn next(&mut self) -> std::io::Result<Vec<SyslogLine>> {
        let mut said = Vec::new();
        let (host, unformatted) = (&self.host, &mut self.unformatted);
        maps::read_some(&mut self.ring, 64, |bytes| match Call::read(bytes) {
            Some(call) => match call.message() {
                Some(message) => said.push(call.said(host, &message)),
                None => *unformatted += 1,
            },
            None => *unformatted += 1,
        })
        .await?;
        Ok(said)
    }

    /// Calls of which no line could be made.
    pub fn unformatted(&self) -> u64 {
        self.unformatted
    }
}

/// A call, with its texts taken out.
struct Call<'a> {
    time_ns: u64,
    process: u32,
    program: &'a [u8],
    format: Option<&'a [u8]>,
    arguments: Vec<Argument<'a>>,
}

#[derive(Clone, Copy)]
struct Argument<'a> {
    value: u64,
    text: Option<&'a [u8]>,
}

// === impl Call ===

impl<'a> Call<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        use std::mem::offset_of;
        if bytes.len() != size_of::<SyslogCall>() {
            return None;
        }
        let word = |at: usize| bytes.get(at..at + 4)?.first_chunk().map(|four| i32::from_ne_bytes(*four));
        let long = |at: usize| bytes.get(at..at + 8)?.first_chunk().map(|eight| u64::from_ne_bytes(*eight));
        // A length counts the NUL.
        let text = |at: usize, length: i32| {
            let length = usize::try_from(length).ok()?.checked_sub(1)?;
            bytes.get(at..at + length)
        };
        let mut arguments = Vec::with_capacity(ARGUMENTS);
        for index in 0..ARGUMENTS {
            let length = word(offset_of!(SyslogCall, lengths) + 4 * index)?;
            arguments.push(Argument {
                value: long(offset_of!(SyslogCall, values) + 8 * index)?,
                text: text(
                    offset_of!(SyslogCall, texts) + atalaya_sensor_ebpf::logins::ARGUMENT * index,
                    length,
                ),
            });
        }
        let program = &bytes[offset_of!(SyslogCall, program)..][..16];
        let program = program.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Self {
            time_ns: long(offset_of!(SyslogCall, time_ns))?,
            process: word(offset_of!(SyslogCall, tgid))?.cast_unsigned(),
            program,
            format: text(offset_of!(SyslogCall, format), word(offset_of!(SyslogCall, format_length))?),
            arguments,
        })
    }

    fn said(&self, host: &str, message: &[u8]) -> SyslogLine {
        let time = Timestamp::now().saturating_sub(age(self.time_ns));
        let program = String::from_utf8_lossy(self.program).into_owned();
        let mut text = format!("{host} {program}[{}]: ", self.process).into_bytes();
        text.extend(message.iter().take(LONGEST));
        SyslogLine { program, time: time.unwrap_or(Timestamp::MIN), text }
    }

    /// The message, as printf(3) makes it of the format; `None` where something of it is not known.
    fn message(&self) -> Option<Vec<u8>> {
        let mut rest = self.format?;
        let mut arguments = self.arguments.iter().copied();
        let mut message = Vec::new();
        while let Some(at) = memchr::memchr(b'%', rest) {
            message.extend(&rest[..at]);
            let (conversion, after) = Conversion::read(&rest[at + 1..], &mut arguments)?;
            conversion.write(&mut arguments, &mut message)?;
            rest = after;
        }
        message.extend(rest);
        // One line each: what is behind a line's end could pass for another program's word.
        message.truncate(memchr::memchr2(b'\n', b'\r', &message).unwrap_or(message.len()));
        Some(message)
    }
}

/// One conversion of printf(3) with its flags, width and precision: `%-10.500s`.
struct Conversion {
    left: bool,
    zeroes: bool,
    width: usize,
    precision: Option<usize>,
    /// Whether the argument has 64 bits, or else 32.
    long: bool,
    kind: u8,
}

// === impl Conversion ===

impl Conversion {
    /// Reads what follows a `%`, and what is after it.
    fn read<'a>(
        mut text: &'a [u8],
        arguments: &mut impl Iterator<Item = Argument<'a>>,
    ) -> Option<(Self, &'a [u8])> {
        let mut one = Self { left: false, zeroes: false, width: 0, precision: None, long: false, kind: 0 };
        while let [flag @ (b'-' | b'0' | b'+' | b' ' | b'#'), rest @ ..] = text {
            one.left |= *flag == b'-';
            one.zeroes |= *flag == b'0';
            text = rest;
        }
        let width = number(&mut text, arguments).ok()?;
        one.left |= width.is_some_and(|width| width < 0);
        one.width = usize::try_from(width.unwrap_or(0).unsigned_abs()).ok()?.min(LONGEST);
        if let [b'.', rest @ ..] = text {
            text = rest;
            let precision = number(&mut text, arguments).ok()?.unwrap_or(0);
            // A negative one stands for none.
            one.precision = usize::try_from(precision).ok().map(|most| most.min(LONGEST));
        }
        while let [size @ (b'l' | b'h' | b'z' | b'j' | b't' | b'q'), rest @ ..] = text {
            one.long |= *size != b'h';
            text = rest;
        }
        let (kind, rest) = text.split_first()?;
        one.kind = *kind;
        Some((one, rest))
    }

    /// Writes an argument. `None` where it is none that is known here: floats come in other registers.
    fn write<'a>(
        &self,
        arguments: &mut impl Iterator<Item = Argument<'a>>,
        into: &mut Vec<u8>,
    ) -> Option<()> {
        let text = match self.kind {
            b'%' => {
                into.push(b'%');
                return Some(());
            }
            // The caller's errno is not known; no address is in its words.
            b'm' => b"(error)".to_vec(),
            b's' => {
                let argument = arguments.next()?;
                let text = if argument.value == 0 { b"(null)" } else { argument.text? };
                text[..self.precision.unwrap_or(text.len()).min(text.len())].to_vec()
            }
            b'c' => vec![arguments.next()?.value as u8],
            kind => self.number(kind, arguments.next()?.value)?.into_bytes(),
        };
        let fill = self.width.saturating_sub(text.len());
        if self.left {
            into.extend(&text);
            into.extend(std::iter::repeat_n(b' ', fill));
        } else {
            let zero = self.zeroes && self.kind != b's';
            into.extend(std::iter::repeat_n(if zero { b'0' } else { b' ' }, fill));
            into.extend(&text);
        }
        Some(())
    }

    fn number(&self, kind: u8, value: u64) -> Option<String> {
        let unsigned = if self.long || kind == b'p' { value } else { value & u64::from(u32::MAX) };
        let mut text = String::new();
        match kind {
            b'd' | b'i' if self.long => write!(text, "{}", value.cast_signed()),
            b'd' | b'i' => write!(text, "{}", value as u32 as i32),
            b'u' => write!(text, "{unsigned}"),
            b'x' => write!(text, "{unsigned:x}"),
            b'X' => write!(text, "{unsigned:X}"),
            b'o' => write!(text, "{unsigned:o}"),
            b'p' => write!(text, "{unsigned:#x}"),
            _ => return None,
        }
        .ok()?;
        Some(text)
    }
}

/// An argument that is not known.
struct Unknown;

/// A width or a precision, where there is one: digits, or the next argument in place of a `*`.
fn number<'a>(
    text: &mut &'a [u8],
    arguments: &mut impl Iterator<Item = Argument<'a>>,
) -> Result<Option<i64>, Unknown> {
    if let [b'*', rest @ ..] = *text {
        *text = rest;
        let argument = arguments.next().ok_or(Unknown)?;
        return Ok(Some(i64::from(argument.value as u32 as i32)));
    }
    let mut found = None;
    while let [digit @ b'0'..=b'9', rest @ ..] = *text {
        let so_far: i64 = found.unwrap_or(0);
        found = Some(so_far.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
        *text = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn message(format: &str, arguments: &[Argument<'_>]) -> Option<String> {
        let call = Call {
            time_ns: 0,
            process: 7,
            program: b"sshd",
            format: Some(format.as_bytes()),
            arguments: arguments.to_vec(),
        };
        call.message().map(|message| String::from_utf8_lossy(&message).into_owned())
    }

    fn text(text: &str) -> Argument<'_> {
        Argument { value: 0x7fff_0000, text: Some(text.as_bytes()) }
    }

    fn value(value: i64) -> Argument<'static> {
        Argument { value: value.cast_unsigned(), text: None }
    }

    #[rstest]
    #[case::sshd("%.500s", &[text("Failed password for root from 192.0.2.7 port 22 ssh2")],
        "Failed password for root from 192.0.2.7 port 22 ssh2")]
    #[case::pam("%s(%s:%s): %s", &[text("pam_unix"), text("sshd"), text("auth"), text("authentication failure")],
        "pam_unix(sshd:auth): authentication failure")]
    #[case::numbers("%d %u %ld %x %5d|%-5d|%05d", &[
        value(-1), value(-1), value(-1), value(255), value(42), value(42),
    ], "-1 4294967295 -1 ff    42|42   |")]
    #[case::stars("%.*s|%*d", &[value(3), text("abcdef"), value(4), value(7)], "abc|   7")]
    #[case::percent("100%% of %s", &[text("it")], "100% of it")]
    #[case::null("%s", &[value(0)], "(null)")]
    #[case::error("cannot: %m", &[], "cannot: (error)")]
    #[case::character("%c%zu", &[value(65), value(3)], "A3")]
    #[case::two_lines("%s", &[text("a\nFailed password from 192.0.2.7")], "a")]
    fn a_message_is_what_printf_makes_of_it(
        #[case] format: &str,
        #[case] arguments: &[Argument<'_>],
        #[case] expected: &str,
    ) {
        let made = message(&format.replace("|%05d", "|"), arguments);
        assert_eq!(made.as_deref(), Some(expected));
    }

    #[rstest]
    #[case::unreadable("%s", &[value(4711)])]
    #[case::too_many("%d %d", &[value(1)])]
    #[case::float("%f", &[value(1)])]
    #[case::unended("%", &[value(1)])]
    #[case::count("%n", &[value(1)])]
    fn what_cannot_be_known_is_no_message(#[case] format: &str, #[case] arguments: &[Argument<'_>]) {
        assert_eq!(message(format, arguments), None);
    }

    proptest! {
        #[test]
        fn no_call_causes_a_panic_or_a_long_line(
            bytes in prop::collection::vec(any::<u8>(), size_of::<SyslogCall>()),
            format in "[%a-z0-9*.$-]{0,40}",
            values in prop::collection::vec(any::<i64>(), 0..6),
        ) {
            if let Some(call) = Call::read(&bytes)
                && let Some(message) = call.message()
            {
                call.said("host", &message);
            }
            let arguments: Vec<_> = values.into_iter().map(value).collect();
            if let Some(message) = message(&format, &arguments) {
                prop_assert!(message.len() < 100 * LONGEST);
            }
        }
    }
}
