//! One failregex: fail2ban's tags and Python's habits made into a regex of ours, and what can be
//! said of it beforehand: whether it begins with a wildcard, and whether an attacker's text can bend it.

use std::ops::Range;

use regex::bytes::Regex;
use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::machine::{Exhausted, Group, Groups, Machine, group, linear};
use super::session::Marks;

/// The names of the groups that `<HOST>` makes.
pub(super) const IP4: &str = "atalaya_ip4";
pub(super) const IP6: &str = "atalaya_ip6";
pub(super) const DNS: &str = "atalaya_dns";

/// How many `<SKIPLINES>` of one regex are told apart.
pub(super) const MOST_SKIPS: usize = 8;
/// A failregex in the forms in which it is searched: whole for its groups, and cheaper ones that leave out most
/// lines.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// As the administrator wrote it.
    pub(super) written: String,
    /// With `<HOST>` as address or name.
    pub(super) any: Machine,
    /// Where the pattern begins with a wildcard: what comes after it.
    pub(super) leading: Option<Leading>,
    /// Whether an attacker's text can decide which address is found.
    pub(super) bendable: bool,
    /// Whether it says more than the host.
    pub(super) marked: bool,
}

/// What follows a wildcard at the beginning, with `<HOST>` as address alone.
#[derive(Clone, Debug)]
pub(super) struct Leading {
    pub(super) whole: Regex,
    pub(super) parts: Option<SplitPattern>,
}

/// A pattern in which a second wildcard follows the host, in two: what stands before that wildcard is
/// searched alone, and the rest after it. Where both are found it is the same match, and most of the line
/// is never looked at with groups.
#[derive(Clone, Debug)]
pub(super) struct SplitPattern {
    pub(super) head: Regex,
    pub(super) rest: Regex,
    /// Whether nothing but the host has characters that an address has: then it is found in the match by
    /// these, and no groups are needed.
    pub(super) is_bare: bool,
}

/// Why a regex cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No failregex at all.
    #[error("the failregex is empty; expected such as '^.*\\[<HOST>\\].*authentication failed'")]
    Empty,
    /// A filter of JSON lines that cannot be meant so.
    #[error(
        "a filter with `json` needs `ip`, at least one of `equal`, `differ`, `begin` and `present`, and no failregex: the fields stand for it"
    )]
    Json,
    /// No address can be found.
    #[error("`{regex}` has no <HOST>: write it where the address stands")]
    NoHost {
        /// As it is written in the filter.
        regex: String,
    },
    /// No port can be found in a filter that counts ports.
    #[error(
        "`{regex}` has no <F-PORT>, which a filter with `counts = \"ports\"` needs: write <F-PORT>\\d+</F-PORT> where the port stands that was tried"
    )]
    NoPort {
        /// As it is written in the filter.
        regex: String,
    },
    /// Which address is meant is not clear.
    #[error("`{regex}` has more than one of <HOST>, <ADDR>, <IP4>, <IP6>: leave one")]
    ManyHosts {
        /// As it is written in the filter.
        regex: String,
    },
    /// The regex crate cannot express it.
    #[error("`{regex}` uses {what}, which is not supported yet: rewrite the regex without it")]
    Unsupported {
        /// As it is written in the filter.
        regex: String,
        /// The construct, in words.
        what: &'static str,
    },
    /// The dates cannot be read.
    #[error(transparent)]
    Date(#[from] crate::date::DateError),
    /// It is no regex.
    #[error("`{regex}` is not a regular expression: {reason}")]
    Syntax {
        /// As it is written in the filter.
        regex: String,
        /// Where it fails to parse and what was expected there, or which bound it goes beyond.
        reason: String,
    },
}

// === impl Pattern ===

impl Pattern {
    /// A failregex. Whose line it is may also be known by an id, of the session or of its own, which
    /// the prefix may hold.
    pub(super) fn new(written: &str, prefix: Option<&Machine>, multiline: bool) -> Result<Self, FilterError> {
        let python = rewrite(written);
        let (any, hosts) = expand(&python, true);
        let machine = Machine::new(written, &with_lines(&any, multiline))?;
        let identifies = |machine: &Machine| {
            machine.groups().any(|group| {
                matches!(group, Group::Session | Group::Id | Group::Ip4 | Group::Ip6 | Group::Dns)
            })
        };
        let identified = identifies(&machine) || prefix.is_some_and(identifies);
        match hosts {
            0 if !identified => return Err(FilterError::NoHost { regex: written.to_owned() }),
            0 | 1 => {}
            _ => return Err(FilterError::ManyHosts { regex: written.to_owned() }),
        }
        let marked = machine.groups().any(|group| {
            !matches!(group, Group::Ip4 | Group::Ip6 | Group::Dns | Group::Content | Group::All)
        });
        let mut pattern =
            Self { written: written.to_owned(), any: machine, leading: None, bendable: false, marked };
        if pattern.any.is_backtracking() || multiline {
            return Ok(pattern);
        }
        // What is searched, and what a wildcard before it only skips, are judged apart.
        let judged = match without_leading_wildcard(&python).filter(|_| hosts == 1) {
            Some(rest) => {
                let compile = |python: &str| {
                    linear(&expand(python, false).0).map_err(|error| syntax(written, &error.to_string()))
                };
                let parts = match at_second_wildcard(rest) {
                    Some((head, tail)) => Some(SplitPattern {
                        head: compile(head)?,
                        rest: compile(tail)?,
                        is_bare: is_bare(&parse(written, &expand(head, false).0)?),
                    }),
                    None => None,
                };
                pattern.leading = Some(Leading { whole: compile(rest)?, parts });
                expand(rest, true).0
            }
            None => any,
        };
        let hir = parse(written, &judged)?;
        pattern.bendable = bendable(&hir);
        Ok(pattern)
    }

    /// Whether it looks for a name and never for an address.
    pub(super) fn names_only(&self) -> bool {
        let has = |wanted: Group| self.any.groups().any(|group| group == wanted);
        has(Group::Dns) && !has(Group::Ip4) && !has(Group::Ip6)
    }
}

/// Whether a regex has alternatives at its top level, as far as can be told.
fn has_alternatives(written: &str) -> bool {
    let parsed = ast::parse::Parser::new().parse(&placeholder(&rewrite(written)));
    matches!(parsed, Ok(Ast::Alternation(_)) | Err(_))
}

/// Whether one regex, tried before another, leaves it no line: it is the same, or the beginning of it
/// and open at its end.
pub(super) fn wins_always(earlier: &Pattern, later: &Pattern) -> bool {
    let Some(rest) = later.written.strip_prefix(earlier.written.as_str()) else { return false };
    let open = !earlier.written.ends_with(['$', '\\']) && !earlier.written.contains(r"\Z");
    rest.is_empty()
        || open && !has_alternatives(&earlier.written) && !rest.starts_with(['*', '+', '?', '{', '|'])
}

/// Compiles an ignoreregex or a prefregex, which may hold the tags but needs none.
pub(super) fn compile_any(written: &str, multiline: bool) -> Result<Machine, FilterError> {
    let (expanded, _) = expand(&rewrite(written), true);
    Machine::new(written, &with_lines(&expanded, multiline))
}

/// A prefregex. Where it ends in a content that takes all of the line's rest, what stands before the
/// content is searched alone: most of the line need not be looked at.
#[derive(Clone, Debug)]
pub(super) struct Prefix {
    /// As the administrator wrote it.
    pub(super) written: String,
    pub(super) whole: Machine,
    head: Option<Machine>,
}

// === impl Prefix ===

impl Prefix {
    pub(super) fn new(written: &str, multiline: bool) -> Result<Self, FilterError> {
        let whole = compile_any(written, multiline)?;
        let head = written
            .trim_end()
            .strip_suffix("<F-CONTENT>.+</F-CONTENT>$")
            .filter(|head| head.starts_with('^') && !multiline && !has_alternatives(head))
            .and_then(|head| compile_any(head, false).ok());
        Ok(Self { written: written.to_owned(), whole, head })
    }

    /// The content of a line that matches, and what `read` makes of the other groups.
    pub(super) fn search<T>(
        &self,
        text: &[u8],
        read: impl Fn(Groups<'_>) -> T,
    ) -> Result<Option<(Range<usize>, T)>, Exhausted> {
        if let Some(head) = &self.head {
            let found =
                head.search(text, |groups| (groups(Group::All).map_or(0, |all| all.end), read(groups)))?;
            match found {
                None => return Ok(None),
                Some((end, read)) if end < text.len() && !text.contains(&b'\n') => {
                    return Ok(Some((end..text.len(), read)));
                }
                // Nothing is left for the content: another way through the head may leave some.
                Some(_) => {}
            }
        }
        self.whole.search(text, |groups| (groups(Group::Content).unwrap_or(0..text.len()), read(groups)))
    }
}

/// Where a regex sees several lines, `^` and `$` are those of any.
fn with_lines(expanded: &str, multiline: bool) -> String {
    if multiline { format!("(?m){expanded}") } else { expanded.to_owned() }
}

/// What the groups of a match say besides the host.
pub(super) fn marks(text: &[u8], groups: Groups<'_>) -> Marks {
    let take = |range: Range<usize>| text[range].to_vec();
    Marks {
        session: groups(Group::Session).map(take),
        user: groups(Group::User).or_else(|| groups(Group::OtherUser)).map(take),
        id: groups(Group::Id).map(take),
        no_failure: groups(Group::NoFailure).is_some(),
        gained: groups(Group::Gained).is_some(),
        forget: groups(Group::Forget).is_some(),
        port: groups(Group::Port).and_then(|range| std::str::from_utf8(&text[range]).ok()?.parse().ok()),
        attempt: groups(Group::Attempt).map(take),
        first: groups(Group::First).is_some(),
        again: groups(Group::Again).is_some(),
    }
}

/// The rest of a pattern that begins with `^.*` or `.*`, which only skip: searching for the rest
/// finds the same lines, and the leftmost place in them.
fn without_leading_wildcard(python: &str) -> Option<&str> {
    let rest = python.strip_prefix('^').unwrap_or(python);
    let rest = rest.strip_prefix(".*")?;
    let rest = rest.strip_prefix('?').unwrap_or(rest);
    // `.*|x` and `.*)` are not what they look like.
    let parsed = ast::parse::Parser::new().parse(&placeholder(python)).ok()?;
    (!matches!(parsed, Ast::Alternation(_))).then_some(rest)
}

/// The pattern before and after the first `.*` behind the host, where both are whole by themselves.
fn at_second_wildcard(python: &str) -> Option<(&str, &str)> {
    let host =
        ["<HOST>", "<ADDR>", "<IP4>", "<IP6>"].iter().find_map(|tag| Some(python.find(tag)? + tag.len()))?;
    let at = host + python[host..].find(".*")?;
    let (head, tail) = (&python[..at], &python[at + 2..]);
    let tail = tail.strip_prefix('?').unwrap_or(tail);
    let whole = |part: &str| {
        let parsed = ast::parse::Parser::new().parse(&placeholder(part));
        matches!(parsed, Ok(ast) if !matches!(ast, Ast::Alternation(_) | Ast::Empty(_)))
    };
    // Flags would have to hold on both sides, and `\.*` is no wildcard.
    let plain = !python.contains("(?") && !head.ends_with('\\') && !tail.starts_with(['*', '+', '{']);
    (plain && whole(head) && whole(tail)).then_some((head, tail))
}

/// The pattern with its tags replaced by what any parser takes.
fn placeholder(python: &str) -> String {
    let mut text = python.to_owned();
    for tag in ["<HOST>", "<ADDR>", "<IP4>", "<IP6>", "<DNS>"] {
        text = text.replace(tag, "(?:h)");
    }
    text
}

/// Python's regex syntax where Rust's differs: pointless escapes, `\Z`, and `[`, `&`, `~` in classes.
fn rewrite(python: &str) -> String {
    let python = local_flags(python);
    let mut out = String::with_capacity(python.len());
    let mut characters = python.chars().peekable();
    let mut in_class = false;
    let mut class_start = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('Z') if !in_class => out.push_str(r"\z"),
                // Literals in Python; word boundaries, or nothing, in Rust.
                Some(literal @ ('<' | '>')) => out.push(literal),
                Some(other)
                    if !other.is_ascii_alphanumeric()
                        && !regex_syntax::is_meta_character(other)
                        && other != '_' =>
                {
                    out.push(other);
                }
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                class_start = true;
                out.push('[');
                if characters.peek() == Some(&'^') {
                    characters.next();
                    out.push('^');
                }
                continue;
            }
            // A `]` right after `[` or `[^` is a literal.
            ']' if in_class && class_start => out.push_str(r"\]"),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', character]),
            // A brace that counts nothing is a literal in Python.
            '{' if !in_class && !counts(characters.clone()) => out.push_str(r"\{"),
            other => out.push(other),
        }
        class_start = false;
    }
    out
}

/// Whether what follows a `{` makes it a repetition: `3}`, `3,}`, `,3}` or `1,3}`.
fn counts(after: impl Iterator<Item = char>) -> bool {
    let inner: String = after.take_while(|character| *character != '}').take(12).collect();
    let (from, to) = inner.split_once(',').unwrap_or((&inner, "0"));
    let digits = |text: &str| text.chars().all(|character| character.is_ascii_digit());
    digits(from) && digits(to) && inner.chars().any(|character| character.is_ascii_digit())
}

/// Flags in the middle hold for their group in Python's old way: `((?i)x)` is `(?i:x)`.
fn local_flags(python: &str) -> String {
    let mut out = String::with_capacity(python.len());
    let mut rest = python;
    while let Some(at) = rest.find("(?") {
        let (before, after) = rest.split_at(at);
        let flags = after[2..].find(|c: char| !c.is_ascii_lowercase()).unwrap_or(0);
        let closed = flags > 0 && after[2 + flags..].starts_with(')');
        let opener = ["((?:", "(?:", "("].into_iter().find(|opener| before.ends_with(*opener));
        match (closed, opener) {
            (true, Some(opener)) if opener != "((?:" && !before.ends_with("\\(") => {
                out.push_str(&before[..before.len() - opener.len()]);
                out.push_str(&format!("(?{}:", &after[2..2 + flags]));
                rest = &after[3 + flags..];
            }
            _ => {
                out.push_str(before);
                out.push_str("(?");
                rest = &after[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Replaces the tags; also says how many hosts there are. One for each family, as alternatives, are
/// one.
fn expand(python: &str, names: bool) -> (String, usize) {
    let mut out = String::new();
    let mut hosts = 0;
    let mut families = (0, 0);
    let mut skips = 0;
    let mut rest = python;
    while let Some(start) = rest.find('<') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        // A named group, or a look-behind, which the regex crate will refuse by itself.
        if out.ends_with("(?P") || out.ends_with("(?") {
            out.push('<');
            rest = &rest[1..];
            continue;
        }
        let Some(tag) = rest.find('>').map(|end| &rest[..=end]) else { break };
        let inner = &tag[1..tag.len() - 1];
        let closing = inner.strip_prefix('/').unwrap_or(inner);
        match inner {
            "HOST" if names => {
                hosts += 1;
                out.push_str(&format!(r"\[?(?:{}|{}|{})\]?", ip4(), ip6(), dns()));
            }
            "HOST" | "ADDR" | "F-ADDR/" => {
                hosts += 1;
                out.push_str(&format!(r"\[?(?:{}|{})\]?", ip4(), ip6()));
            }
            "IP4" | "F-IP4/" => {
                families.0 += 1;
                // As a socket for both families writes it.
                out.push_str(&format!("(?:::[fF]{{4}}:)?{}", ip4()));
            }
            "IP6" | "F-IP6/" => {
                families.1 += 1;
                out.push_str(&format!(r"\[?{}\]?", ip6()));
            }
            "DNS" | "F-DNS/" => {
                hosts += 1;
                out.push_str(&dns());
            }
            "CIDR" | "F-CIDR/" => out.push_str(r"(?P<cidr>\d+)"),
            "SUBNET" | "F-SUBNET/" => {
                hosts += 1;
                out.push_str(&format!(r"\[?(?:{}|{})(?:/(?P<cidr>\d+))?\]?", ip4(), ip6()));
            }
            "SKIPLINES" => {
                out.push_str(&format!(r"\n(?P<skiplines{skips}>(?:(?:.*\n)*?))"));
                skips += 1;
            }
            "F-ID/" => out.push_str(r"(?P<fid>\S+)"),
            "F-PORT/" => out.push_str(r"(?P<fport>\w+)"),
            _ if closing.starts_with("F-") && is_tag(closing) => {
                if inner.starts_with('/') {
                    out.push(')');
                } else {
                    let name = match &closing[2..] {
                        "ID" => "fid".to_owned(),
                        "PORT" => "fport".to_owned(),
                        other => other.to_ascii_lowercase().replace('-', "_"),
                    };
                    out.push_str(&format!("(?P<{name}>"));
                }
            }
            // A `<` of the log's own.
            _ => {
                out.push('<');
                rest = &rest[1..];
                continue;
            }
        }
        rest = &rest[tag.len()..];
    }
    out.push_str(rest);
    (out, hosts.max(families.0).max(families.1))
}

/// Whether what stands between `<` and `>` is a tag: capitals, digits, `-` and `_`.
fn is_tag(text: &str) -> bool {
    text.len() > 1
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
}

/// What looks like an IPv4 address. Whether it is one is told by reading it: a regex that knew would be
/// many times as large, and as slow.
const DOTTED: &str = r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}";

fn ip4() -> String {
    format!("(?P<{IP4}>{DOTTED})")
}

/// What looks like an IPv6 address: groups of up to four hexadecimal digits, parted by at least two colons,
/// perhaps with an IPv4 address at the end. Whether they are too many is told by reading them.
fn ip6() -> String {
    let (group, or_none) = ("[0-9a-fA-F]{1,4}", "[0-9a-fA-F]{0,4}");
    format!("(?P<{IP6}>(?:{group}:{or_none}|:):(?:{or_none}:)*(?:{DOTTED}|{group})?)")
}

fn dns() -> String {
    format!(r"(?P<{DNS}>[0-9A-Za-z_](?:[0-9A-Za-z_.\-]*[0-9A-Za-z_])?)")
}

fn parse(written: &str, expanded: &str) -> Result<Hir, FilterError> {
    regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .build()
        .parse(expanded)
        .map_err(|error| syntax(written, &error.to_string()))
}

pub(super) fn syntax(written: &str, message: &str) -> FilterError {
    let regex = written.to_owned();
    if message.contains("look-around") {
        return FilterError::Unsupported { regex, what: "look-around (`(?=`, `(?!`, `(?<=`, `(?<!`)" };
    }
    if message.contains("backreference") {
        return FilterError::Unsupported { regex, what: "a back-reference (`\\1`, `(?P=name)`)" };
    }
    // The crate draws the whole expanded pattern; its last line is the reason.
    let reason = message.lines().last().unwrap_or(message).trim_start_matches("error: ").to_owned();
    FilterError::Syntax { regex, reason }
}

/// Whether outside of the host's groups there is nothing that an address could hold.
fn is_bare(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Capture(capture) => {
            matches!(capture.name.as_deref(), Some(IP4 | IP6)) || is_bare(&capture.sub)
        }
        HirKind::Literal(text) => !text.0.iter().any(|byte| in_addresses(*byte)),
        HirKind::Class(Class::Bytes(class)) => !(0..=u8::MAX)
            .filter(|byte| in_addresses(*byte))
            .any(|byte| class.iter().any(|range| range.start() <= byte && byte <= range.end())),
        HirKind::Class(Class::Unicode(_)) => false,
        HirKind::Repetition(repetition) => is_bare(&repetition.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().all(is_bare),
        HirKind::Empty | HirKind::Look(_) => true,
    }
}

/// Whether a literal address may hold this.
pub(super) fn in_addresses(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')
}

/// Whether something unbounded that can hold an address stands before the host, and what follows
/// the host does not tie it to the line's end.
fn bendable(hir: &Hir) -> bool {
    let mut walk = Walk::default();
    walk.visit(hir);
    walk.seen_host && walk.wild_before && (!walk.anchored || walk.wild_after)
}

#[derive(Default)]
struct Walk {
    seen_host: bool,
    wild_before: bool,
    wild_after: bool,
    anchored: bool,
}

// === impl Walk ===

impl Walk {
    fn visit(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Capture(capture)
                if matches!(
                    capture.name.as_deref().and_then(group),
                    Some(Group::Ip4 | Group::Ip6 | Group::Dns)
                ) =>
            {
                self.seen_host = true;
            }
            HirKind::Capture(capture) => self.visit(&capture.sub),
            HirKind::Repetition(repetition) => {
                if repetition.max.is_none() && holds_addresses(&repetition.sub) {
                    if self.seen_host {
                        self.wild_after = true;
                    } else {
                        self.wild_before = true;
                    }
                }
                self.visit(&repetition.sub);
            }
            HirKind::Concat(parts) | HirKind::Alternation(parts) => {
                parts.iter().for_each(|part| self.visit(part));
            }
            HirKind::Look(Look::End | Look::EndLF) => self.anchored |= self.seen_host,
            _ => {}
        }
    }
}

/// Whether repeating this can spell a blank and an address.
fn holds_addresses(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Class(Class::Bytes(class)) => {
            let holds = |byte: u8| class.iter().any(|range| range.start() <= byte && byte <= range.end());
            holds(b' ') && holds(b'1') && holds(b'.')
        }
        HirKind::Class(Class::Unicode(_)) => true,
        HirKind::Capture(capture) => holds_addresses(&capture.sub),
        HirKind::Repetition(repetition) => holds_addresses(&repetition.sub),
        HirKind::Alternation(parts) => parts.iter().any(holds_addresses),
        _ => false,
    }
}
