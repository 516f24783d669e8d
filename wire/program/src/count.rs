//! Numbers that agree with their nouns, in everything that people read: `1 ban`, `25,000 bans`.

/// A count with its thousands set apart: `25,000`.
pub fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and what is counted, a regular noun in the singular: `1 ban`, `2 entries`, `25,000 addresses`.
pub fn counted(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let noun = if number == 1 { noun.to_owned() } else { plural(noun) };
    format!("{} {noun}", count(number))
}

/// The verb, or another word, that agrees with a count.
pub fn agreeing<'a>(number: impl TryInto<u64>, with_one: &'a str, with_others: &'a str) -> &'a str {
    if number.try_into().is_ok_and(|number: u64| number == 1) { with_one } else { with_others }
}

fn plural(noun: &str) -> String {
    match noun.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if noun.ends_with(['s', 'x']) || noun.ends_with("ch") || noun.ends_with("sh") => {
            format!("{noun}es")
        }
        _ => format!("{noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0_u64, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
    }

    #[rstest]
    #[case("ban", "0 bans", "1 ban", "2 bans")]
    #[case("entry", "0 entries", "1 entry", "2 entries")]
    #[case("address", "0 addresses", "1 address", "2 addresses")]
    #[case("match", "0 matches", "1 match", "2 matches")]
    #[case("day", "0 days", "1 day", "2 days")]
    #[case("more fault", "0 more faults", "1 more fault", "2 more faults")]
    fn a_noun_agrees_with_its_number(
        #[case] noun: &str,
        #[case] none: &str,
        #[case] one: &str,
        #[case] two: &str,
    ) {
        assert_eq!([0_u64, 1, 2].map(|number| counted(number, noun)), [none, one, two]);
        assert_eq!([0_usize, 1, 2].map(|number| agreeing(number, "is", "are")), ["are", "is", "are"]);
    }
}
