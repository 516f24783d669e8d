//! Rust source as the few kinds of tokens that tell what it imports: names, `::`, literals, and single characters.
//! Comments are left out. It reads what the compiler has accepted; of anything else it makes some tokens, without harm.

/// A token, and its line, counted from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub text: String,
    pub line: usize,
}

// === impl Token ===

impl Token {
    pub fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The tokens of a source text.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let length = length(rest, first);
        let text = &rest[..length];
        let skipped = first.is_whitespace() || text.starts_with("//") || text.starts_with("/*");
        if !skipped {
            tokens.push(Token { text: text.to_owned(), line });
        }
        line += text.matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// How many bytes the next token, comment or blank takes.
fn length(rest: &str, first: char) -> usize {
    let while_ = |good: &dyn Fn(char) -> bool| rest.find(|c| !good(c)).unwrap_or(rest.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return comment(rest);
    }
    if rest.starts_with("::") {
        return 2;
    }
    if let Some(length) = string(rest) {
        return length;
    }
    match first {
        '\'' => character(rest),
        _ if first.is_alphabetic() || first == '_' => while_(&|c| c.is_alphanumeric() || c == '_'),
        _ if first.is_ascii_digit() => while_(&|c| c.is_alphanumeric() || c == '_'),
        _ => first.len_utf8(),
    }
}

/// A comment in stars, with those inside of it.
fn comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// A string of any kind: `"…"`, `b"…"`, `c"…"`, and the raw ones.
fn string(rest: &str) -> Option<usize> {
    let opening = rest.find('"').filter(|place| *place <= 258)?;
    let prefix = &rest[..opening];
    let hashes = prefix.trim_start_matches(['b', 'c', 'r']);
    let letters = &prefix[..prefix.len() - hashes.len()];
    if letters.len() > 2 || !hashes.bytes().all(|byte| byte == b'#') {
        return None;
    }
    if letters.contains('r') {
        let closing = format!("\"{hashes}");
        let end = rest[opening + 1..].find(&closing)?;
        return Some(opening + 1 + end + closing.len());
    }
    if !hashes.is_empty() {
        return None;
    }
    let mut escaped = false;
    for (place, c) in rest[opening + 1..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(opening + 2 + place),
            _ => {}
        }
    }
    Some(rest.len())
}

/// A character in quotes, or the quote alone where it opens a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            rest[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 3)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_string_a_character_or_a_comment_is_no_name() {
        let texts = |source: &str| tokens(source).into_iter().map(|token| token.text).collect::<Vec<_>>();
        assert_eq!(texts("a::b"), ["a", "::", "b"]);
        assert_eq!(
            texts(r###"f("x \" y", b"z", r"\", br##"a"# b"##)"###),
            ["f", "(", r#""x \" y""#, ",", r#"b"z""#, ",", r#"r"\""#, ",", r###"br##"a"# b"##"###, ")"]
        );
        assert_eq!(texts(r"'{' '\'' '\u{7f}' '\\' x"), ["'{'", r"'\''", r"'\u{7f}'", r"'\\'", "x"]);
        assert_eq!(texts("&'a str"), ["&", "'", "a", "str"]);
        assert_eq!(texts("a // b\n/* c /* d */ e */ f"), ["a", "f"]);
        assert_eq!(tokens("a\n\"x\ny\"\nb").iter().map(|token| token.line).collect::<Vec<_>>(), [1, 2, 4]);
    }
}
