//! The texts that a match must hold. Searching for them first is what makes a filter fast: nearly
//! every line of a log holds none of them, and need not be looked at.

use fancy_regex::Expr;

/// The shortest text worth searching for.
const SHORTEST: usize = 3;
/// The most texts of one filter.
const MOST: usize = 64;
/// Beyond so many bytes a longer text is no rarer.
const LONG_ENOUGH: usize = 8;

/// A text that stands in a line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Text {
    pub(super) text: String,
    /// Whether capitals do not matter.
    pub(super) any_case: bool,
}

/// Texts of which every match of a regex holds one; `None` where there is no such set worth searching.
///
/// The regex sees a line whose date was cut out, so that what it holds side by side need not stand so in
/// the line. A date is a word: only before something that is no letter or digit can it have stood, and
/// there the texts are parted. Before the first word of a message of RFC 5424 there may be a mark in place of
/// the blank, so that no text begins with one.
pub(super) fn required(expanded: &str) -> Option<Vec<Text>> {
    let tree = Expr::parse_tree(expanded).ok()?;
    let mut texts: Vec<Text> = of(&tree.expr)?.iter().map(longest_word).collect::<Option<_>>()?;
    texts.sort_unstable();
    texts.dedup();
    (texts.len() <= MOST).then_some(texts)
}

fn of(expr: &Expr) -> Option<Vec<Text>> {
    match expr {
        Expr::Literal { val, casei } => Some(vec![Text { text: val.clone(), any_case: *casei }]),
        Expr::Group(inner) => of(inner),
        Expr::AtomicGroup(inner) => of(inner),
        Expr::Repeat { child, lo, .. } if *lo > 0 => of(child),
        Expr::Alt(branches) => union(branches.iter()),
        Expr::Conditional { true_branch, false_branch, .. } => {
            union([true_branch.as_ref(), false_branch.as_ref()].into_iter())
        }
        Expr::Concat(parts) => {
            let mut candidates: Vec<Vec<Text>> = Vec::new();
            let mut run: Option<Text> = None;
            for part in parts {
                match part {
                    Expr::Literal { val, casei } => match &mut run {
                        Some(run) if run.any_case == *casei => run.text.push_str(val),
                        _ => candidates.extend(
                            run.replace(Text { text: val.clone(), any_case: *casei }).map(|run| vec![run]),
                        ),
                    },
                    // What has no width does not part its neighbours.
                    Expr::Empty | Expr::Assertion(_) | Expr::LookAround(..) => {}
                    other => {
                        candidates.extend(run.take().map(|run| vec![run]));
                        candidates.extend(of(other));
                    }
                }
            }
            candidates.extend(run.map(|run| vec![run]));
            candidates.into_iter().max_by_key(|texts| worth(texts))
        }
        _ => None,
    }
}

fn union<'a>(branches: impl Iterator<Item = &'a Expr>) -> Option<Vec<Text>> {
    let mut all = Vec::new();
    for branch in branches {
        all.extend(of(branch)?);
    }
    (all.len() <= MOST).then_some(all)
}

/// How much is won by searching for one of these: rarer first, then fewer.
pub(super) fn worth(texts: &[Text]) -> (usize, std::cmp::Reverse<usize>) {
    let shortest = texts.iter().filter_map(longest_word).map(|word| word.text.len()).min().unwrap_or(0);
    (shortest.min(LONG_ENOUGH), std::cmp::Reverse(texts.len()))
}

/// The longest part between whose characters no date can have stood.
fn longest_word(text: &Text) -> Option<Text> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut words = Vec::new();
    let mut start = 0;
    for (at, character) in text.text.char_indices() {
        if !is_word(character) {
            words.push(&text.text[start..at]);
            start = at;
        }
    }
    words.push(&text.text[start..]);
    let words = words.into_iter().map(|word| word.trim_start_matches(' ')).filter(|word| word.is_ascii());
    let longest = words.max_by_key(|word| word.len())?;
    (longest.len() >= SHORTEST).then(|| Text { text: longest.to_owned(), any_case: text.any_case })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(r"^.*Error: authentication failed", &["authentication"])]
    #[case(r"^(?:Failed|Invalid) (?:password|user)", &["Failed", "Invalid"])]
    #[case(r"^\[\] (?i)denied", &["denied"])]
    #[case(r"^user (?!root)\S+ refused", &["refused"])]
    #[case(r"(?P<a>x)?(?(a)alpha|beta)", &["alpha", "beta"])]
    #[case(r"(?:ab)+", &[])]
    #[case(r"(?:longer|x?)", &[])]
    #[case(r"\d+", &[])]
    fn the_texts_are_those_that_every_match_holds(#[case] regex: &str, #[case] expected: &[&str]) {
        let texts = required(regex).unwrap_or_default();
        let texts: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
        assert_eq!(texts, expected, "{regex}");
    }
}
