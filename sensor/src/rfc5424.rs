//! Messages of RFC 5424 (`<38>1 2026-11-29T10:00:00Z fw sshd 411 - [meta sequenceId="12"] Failed …`), in files
//! or off the wire, read as the line that an older syslog daemon would have written of them:
//! `2026-11-29T10:00:00Z fw sshd[411]: Failed …`. That is what dates and filters are looked for in.
//!
//! The structured data is left out: its values may be a stranger's text. Where it ends is told by the RFC's
//! grammar alone; of a message whose data does not follow it nobody can tell where the text begins, and it has
//! none here. What has no structured data at all, not even `-`, is no such message.

/// What stands for a field that has no value.
const NIL: &[u8] = b"-";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A message, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rfc5424Message<'a> {
    /// With its brackets; empty in files that leave it out.
    priority: &'a [u8],
    date: &'a [u8],
    host: &'a [u8],
    program: &'a [u8],
    process: &'a [u8],
    id: &'a [u8],
    text: &'a [u8],
    /// Where the text begins in the message.
    at: usize,
}

/// A message as a line, which ends in the message's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Not necessarily UTF-8.
    pub bytes: Vec<u8>,
    /// Where its text begins.
    text: usize,
    /// Where that begins in the message.
    at: usize,
}

// === impl Rfc5424Message ===

impl<'a> Rfc5424Message<'a> {
    /// Reads a message, which may lack its priority where it has a date; `None` where it is none.
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let priority = &message[..priority(message)?];
        let rest = message[priority.len()..].strip_prefix(b"1 ")?;
        let (date, rest) = field(rest)?;
        if !is_date(date) && (date != NIL || priority.is_empty()) {
            return None;
        }
        let (host, rest) = field(rest)?;
        let (program, rest) = field(rest)?;
        let (process, rest) = field(rest)?;
        let (id, rest) = field(rest)?;
        let text = match rest {
            b"-" => &[],
            [b'-', b' ', text @ ..] => text,
            [b'[', ..] => after_data(rest).unwrap_or_default(),
            _ => return None,
        };
        let text = text.trim_ascii_start();
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_ascii_start();
        Some(Self { priority, date, host, program, process, id, text, at: message.len() - text.len() })
    }

    /// The date; `None` where the sender had none.
    pub fn date(&self) -> Option<&'a [u8]> {
        Some(self.date).filter(|date| *date != NIL)
    }

    /// `DATE HOST TAG[PID]: text`. What the message does not say is left out, but for the host before a tag:
    /// filters count on a word there.
    pub fn line(&self) -> Line {
        let mut head = Vec::new();
        if let Some(date) = self.date() {
            head.extend([date, b" "]);
        }
        match (self.host, self.program) {
            (NIL, NIL) => {}
            (host, NIL) => head.extend([host, b" "]),
            (host, program) if self.process == NIL => head.extend([host, b" ", program, b": "]),
            (host, program) => head.extend([host, b" ", program, b"[", self.process, b"]: "]),
        }
        self.after(&head)
    }

    /// The message as it is, with `-` for its structured data, for filters that read RFC 5424 themselves.
    pub fn without_data(&self) -> Line {
        let fields = [self.date, self.host, self.program, self.process, self.id];
        let mut head = vec![self.priority, b"1 "];
        fields.iter().for_each(|field| head.extend([*field, b" "]));
        head.push(b"- ");
        self.after(&head)
    }

    fn after(&self, head: &[&[u8]]) -> Line {
        Line::new(&head.concat(), self.text, self.at)
    }
}

// === impl Line ===

impl Line {
    /// A head, and the text that stands at a place of what was read.
    pub(crate) fn new(head: &[u8], text: &[u8], at: usize) -> Self {
        let start = head.len();
        Self { bytes: [head, text].concat(), text: start, at }
    }

    /// Where a place of the line is in the message: exact in the text; in what stands before it, somewhere
    /// before the text.
    pub fn place(&self, place: usize) -> usize {
        if place >= self.text { place - self.text + self.at } else { place.min(self.at) }
    }
}

/// The length of `<PRI>`, which may lack before a version; `None` where neither stands there.
fn priority(message: &[u8]) -> Option<usize> {
    let Some(rest) = message.strip_prefix(b"<") else { return message.starts_with(b"1 ").then_some(0) };
    let digits = rest.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0 && rest.get(digits) == Some(&b'>')).then_some(digits + 2)
}

/// A field and what follows the blank after it.
fn field(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b' ', rest)?;
    let field = &rest[..end];
    (end > 0 && !field.iter().any(u8::is_ascii_control)).then_some((field, &rest[end + 1..]))
}

/// Whether it has the shape of `2026-11-29T10:00:00.123456+01:00`; the zone may lack its colon, or be missing.
fn is_date(field: &[u8]) -> bool {
    const SHAPE: &[u8; 19] = b"0000-00-00T00:00:00";
    let Some((civil, rest)) = field.split_at_checked(SHAPE.len()) else { return false };
    let fits = |(byte, shape): (&u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    civil.iter().zip(SHAPE).all(fits)
        && rest.iter().all(|byte| byte.is_ascii_digit() || b".:+-Z".contains(byte))
}

/// What follows structured data and the blank after it; `None` where it does not follow the grammar.
fn after_data(mut rest: &[u8]) -> Option<&[u8]> {
    while let Some(element) = rest.strip_prefix(b"[") {
        rest = after_name(element);
        loop {
            match rest {
                [b' ', after @ ..] => rest = after,
                [b']', after @ ..] => {
                    rest = after;
                    break;
                }
                _ => rest = after_value(after_name(rest).strip_prefix(b"=\"")?)?,
            }
        }
    }
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b" ") }
}

fn after_name(rest: &[u8]) -> &[u8] {
    let length = rest.iter().take_while(|byte| !b"= ]\"".contains(byte)).count();
    &rest[length..]
}

/// What follows the quote that ends a value. A `]` in it needs no backslash here, as many senders leave it out.
fn after_value(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let at = memchr::memchr2(b'"', b'\\', rest)?;
        if rest[at] == b'"' {
            let after = &rest[at + 1..];
            return matches!(after, [b' ' | b']', ..]).then_some(after);
        }
        rest = rest.get(at + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn line(message: &str) -> Option<String> {
        Some(String::from_utf8(Rfc5424Message::read(message.as_bytes())?.line().bytes).unwrap())
    }

    #[rstest]
    #[case("<38>1 2026-11-29T10:00:00Z fw sshd 411 - - a b", "2026-11-29T10:00:00Z fw sshd[411]: a b")]
    #[case("1 2026-11-29T10:00:00Z fw sshd 411 - - a b", "2026-11-29T10:00:00Z fw sshd[411]: a b")]
    #[case(
        "<0>1 2026-11-29T10:00:00.123456+01:00 fw su - ID47 - a",
        "2026-11-29T10:00:00.123456+01:00 fw su: a"
    )]
    #[case("<191>1 2026-11-29T10:00:00+0100 fw su - - - a", "2026-11-29T10:00:00+0100 fw su: a")]
    // What the sender does not say.
    #[case("<38>1 - fw sshd 411 - - a", "fw sshd[411]: a")]
    #[case("<38>1 2026-11-29T10:00:00Z - sshd 411 - - a", "2026-11-29T10:00:00Z - sshd[411]: a")]
    #[case("<38>1 2026-11-29T10:00:00Z fw - 411 - - a", "2026-11-29T10:00:00Z fw a")]
    #[case("<38>1 - - - - - - a", "a")]
    #[case("<38>1 - - - - - -", "")]
    // A mark that the text is UTF-8, and the blank that rsyslog keeps.
    #[case("<38>1 2026-11-29T10:00:00Z fw a - - - \u{feff}text", "2026-11-29T10:00:00Z fw a: text")]
    #[case("<38>1 2026-11-29T10:00:00Z fw a - - -  text", "2026-11-29T10:00:00Z fw a: text")]
    // Structured data.
    #[case("<38>1 - fw a - - [x] text", "fw a: text")]
    #[case(r#"<38>1 - fw a - - [x y="1" z="2"][q@1] text"#, "fw a: text")]
    #[case(r#"<38>1 - fw a - - [x y="\"] no \\"] text"#, "fw a: text")]
    #[case(r#"<38>1 - fw a - - [x y="[brackets] no"] text"#, "fw a: text")]
    #[case(r#"<38>1 - fw a - - [x y="\] no"] [text] x"#, "fw a: [text] x")]
    #[case(r#"<38>1 - fw a - - [x y=""]"#, "fw a: ")]
    fn a_message_reads_as_a_line(#[case] message: &str, #[case] expected: &str) {
        assert_eq!(line(message).as_deref(), Some(expected));
    }

    #[rstest]
    #[case(r#"[x y="from 192.0.2.1] text"#)]
    #[case(r#"[x y="from 192.0.2.1\"] text"#)]
    #[case(r#"[x y="from" 192.0.2.1"] text"#)]
    #[case(r#"[x y="from"192.0.2.1] text"#)]
    #[case("[x 192.0.2.1] text")]
    #[case("[x y=192.0.2.1] text")]
    #[case(r#"[x y="1"]192.0.2.1 text"#)]
    #[case(r#"[x y="1"][192.0.2.1 text"#)]
    #[case("[")]
    fn data_that_does_not_end_leaves_no_text(#[case] data: &str) {
        assert_eq!(line(&format!("<38>1 - fw a - - {data}")).as_deref(), Some("fw a: "));
    }

    #[rstest]
    #[case("<38>Nov 29 10:00:00 fw sshd[411]: a")]
    #[case("<38>2026-11-29T10:00:00Z fw sshd[411]: a")]
    #[case("<38>1 2026-11-29T10:00:00Z fw sshd 411 - a text without data")]
    #[case("<38>1 2026-11-29T10:00:00Z fw sshd 411 -")]
    #[case("<38>1 2026-11-29T10:00:00Z fw  411 - - a")]
    #[case("<38>1 Nov 29 10:00:00 fw - a")]
    #[case("<3800>1 - fw a - - - a")]
    #[case("<>1 - fw a - - - a")]
    #[case("<38>2 - fw a - - - a")]
    #[case("1 - fw a - - - a")]
    #[case("1 potato fw a - - - a")]
    #[case("2026-11-29T10:00:00Z fw a - - - a")]
    #[case("")]
    fn what_is_no_such_message_is_none(#[case] message: &str) {
        assert_eq!(Rfc5424Message::read(message.as_bytes()), None);
    }

    #[test]
    fn a_filter_of_its_own_sees_the_message_without_its_data() {
        let message = br#"<38>1 2026-11-29T10:00:00Z fw sshd 411 ID [x y="from 192.0.2.1"] a"#;
        let line = Rfc5424Message::read(message).unwrap().without_data();
        assert_eq!(line.bytes, b"<38>1 2026-11-29T10:00:00Z fw sshd 411 ID - a");
        assert_eq!(line.place(line.bytes.len() - 1), message.len() - 1);
    }

    proptest! {
        #[test]
        fn no_value_that_is_written_as_the_rfc_says_moves_the_text(
            values in prop::collection::vec("\\PC{0,20}|[\\]\\[\"\\\\= a]{0,12}", 0..4),
            text in "[a-z\\[\\]\"\\\\=]{1,10}",
        ) {
            let escape = |value: &String| value.replace('\\', r"\\").replace('"', "\\\"").replace(']', r"\]");
            let data: String = values.iter().map(|value| format!(" v=\"{}\"", escape(value))).collect();
            let message = format!("<38>1 - fw a - - [x{data}] {text}");
            prop_assert_eq!(line(&message), Some(format!("fw a: {text}")));
        }

        #[test]
        fn no_bytes_cause_a_panic_and_every_place_lies_in_the_message(
            head in prop::sample::select(vec!["", "<38>1 - fw a 1 - ", "1 2026-11-29T10:00:00Z fw a - - "]),
            rest in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"[]\"\\= -1<>".to_vec())], 0..60),
        ) {
            let message = [head.as_bytes(), &rest].concat();
            if let Some(read) = Rfc5424Message::read(&message) {
                for line in [read.line(), read.without_data()] {
                    let places: Vec<usize> = (0..=line.bytes.len()).map(|place| line.place(place)).collect();
                    prop_assert!(places.is_sorted() && places.iter().all(|place| *place <= message.len()));
                    prop_assert!(line.bytes.ends_with(&message[line.at..]));
                }
            }
        }
    }
}
