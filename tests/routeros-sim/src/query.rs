//! The API's queries: a stack of truth values over one row. `?name`, `?-name`, `?name=x`, `?=name=x`,
//! `?<name=x`, `?>name=x`, and `?#` with indices and the operators `! & | .`.

/// A query word that is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown query word")]
pub struct QueryError;

/// Whether a row, given as its properties, satisfies the query words (each without its `?`).
pub fn matches<'r>(words: &[&[u8]], row: &impl Fn(&[u8]) -> Option<&'r [u8]>) -> Result<bool, QueryError> {
    let mut stack: Vec<bool> = Vec::new();
    for word in words {
        match word {
            [b'#', operators @ ..] => apply(operators, &mut stack)?,
            [b'-', name @ ..] => stack.push(row(name).is_none()),
            [b'=', rest @ ..] => stack.push(compare(rest, row, |have, want| have == want)?),
            [b'<', rest @ ..] => stack.push(compare(rest, row, is_less)?),
            [b'>', rest @ ..] => stack.push(compare(rest, row, |have, want| is_less(want, have))?),
            rest if rest.contains(&b'=') => stack.push(compare(rest, row, |have, want| have == want)?),
            name => stack.push(row(name).is_some()),
        }
    }
    // What is left is joined by "and".
    Ok(stack.into_iter().all(|value| value))
}

fn compare<'r>(
    rest: &[u8],
    row: &impl Fn(&[u8]) -> Option<&'r [u8]>,
    is: impl Fn(&[u8], &[u8]) -> bool,
) -> Result<bool, QueryError> {
    let at = rest.iter().position(|byte| *byte == b'=').ok_or(QueryError)?;
    Ok(row(&rest[..at]).is_some_and(|have| is(have, &rest[at + 1..])))
}

fn is_less(have: &[u8], want: &[u8]) -> bool {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
    match (number(have), number(want)) {
        (Some(have), Some(want)) => have < want,
        _ => have < want,
    }
}

fn apply(operators: &[u8], stack: &mut Vec<bool>) -> Result<(), QueryError> {
    let mut at = 0;
    while at < operators.len() {
        let digits = operators[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 {
            // An index copies that value to the top.
            let text = std::str::from_utf8(&operators[at..at + digits]).map_err(|_| QueryError)?;
            let index: usize = text.parse().map_err(|_| QueryError)?;
            let value = *stack.get(index).ok_or(QueryError)?;
            stack.push(value);
            at += digits;
            // A dot only ends an index before another.
            if operators.get(at) == Some(&b'.') {
                at += 1;
            }
            continue;
        }
        match operators[at] {
            b'!' => {
                let top = stack.pop().ok_or(QueryError)?;
                stack.push(!top);
            }
            operator @ (b'&' | b'|') => {
                let (second, first) = (stack.pop().ok_or(QueryError)?, stack.pop().ok_or(QueryError)?);
                stack.push(if operator == b'&' { first && second } else { first || second });
            }
            // A dot after an operator pushes a copy of the top.
            b'.' => {
                let top = *stack.last().ok_or(QueryError)?;
                stack.push(top);
            }
            _ => return Err(QueryError),
        }
        at += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn row(name: &[u8]) -> Option<&'static [u8]> {
        match name {
            b"list" => Some(b"spammer"),
            b"number" => Some(b"10"),
            b"empty" => Some(b""),
            _ => None,
        }
    }

    #[rstest]
    #[case(&["list"], true)]
    #[case(&["nothing"], false)]
    #[case(&["-nothing"], true)]
    #[case(&["list=spammer"], true)]
    #[case(&["=list=spammer"], true)]
    #[case(&["=list=other"], false)]
    #[case(&["empty="], true)]
    #[case(&[">number=9"], true)]
    #[case(&["<number=9"], false)]
    #[case(&["list=spammer", "nothing"], false)]
    #[case(&["list=spammer", "nothing", "#|"], true)]
    #[case(&["list=spammer", "nothing", "#&"], false)]
    #[case(&["nothing", "#!"], true)]
    #[case(&["list=other", "number=10", "#1"], false)]
    #[case(&["list=other", "list=spammer", "#|", "number=10", "#&"], true)]
    #[case(&[], true)]
    fn a_query_is_a_stack_of_truth_values(#[case] words: &[&str], #[case] expected: bool) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        assert_eq!(matches(&words, &row), Ok(expected));
    }

    #[rstest]
    #[case(&["#|"])]
    #[case(&["list", "#&"])]
    #[case(&["#9"])]
    #[case(&["#x"])]
    #[case(&["<list"])]
    fn a_broken_query_is_an_error(#[case] words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        assert_eq!(matches(&words, &row), Err(QueryError));
    }
}
