//! `<tag>`: after `%(option)s`, a filter's options may stand in one another as tags, nested ones
//! too (`<mode-<family>>`). What is no option, such as `<HOST>`, stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use super::Fail2banError;

/// How often one tag may be replaced in one value, as in fail2ban.
const MOST: u32 = 25;
/// How large a value may grow: tags that multiply are no configuration any more.
const LARGEST: usize = 1 << 20;

/// Replaces the tags in every value. `also` finds what is not among the options; `conditional` are
/// options that hold under a condition and are left alone. The error is the option and its fault.
pub(super) fn substitute(
    options: &BTreeMap<String, String>,
    conditional: &BTreeSet<String>,
    also: impl Fn(&str) -> Result<Option<String>, Fail2banError>,
) -> Result<BTreeMap<String, String>, (String, String)> {
    let mut done = options.clone();
    let mut counts: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    loop {
        let mut changed = false;
        for option in options.keys().filter(|option| !conditional.contains(*option)) {
            let mut value = done[option].clone();
            let counts = counts.entry(option.clone()).or_default();
            let mut from = 0;
            let mut replaced = false;
            while let Some((start, end)) = next(&value, from) {
                let tag = value[start + 1..end].to_owned();
                if conditional.contains(&tag) {
                    from = end + 1;
                    continue;
                }
                let count = counts.entry(tag.clone()).or_insert(0);
                if tag == *option || *count >= MOST {
                    return Err((
                        option.clone(),
                        format!("`{option}` refers to itself through <{tag}>: break the circle"),
                    ));
                }
                let found = match done.get(&tag) {
                    Some(found) => Some(found.clone()),
                    None => also(&tag).map_err(|error| (option.clone(), error.problem))?,
                };
                let Some(found) = found else {
                    from = end + 1;
                    continue;
                };
                *count += 1;
                replaced = true;
                value = value.replace(&format!("<{tag}>"), &found);
                if value.len() > LARGEST {
                    return Err((option.clone(), format!("`{option}` grows beyond 1 MB: its <…> multiply")));
                }
                from = start;
            }
            if replaced {
                changed |= next(&value, 0).is_some();
                done.insert(option.clone(), value);
            }
        }
        if !changed {
            return Ok(done);
        }
    }
}

/// The tags that are put together from an option, as `<mdre-<mode>>` is, with that option.
pub(super) fn built(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for value in options.values() {
        let mut from = 0;
        while let Some((start, end)) = next(value, from) {
            from = end + 1;
            let inner = &value[start + 1..end];
            let Some(given) = options.get(inner) else { continue };
            let is_apart = |c: char| matches!(c, '<' | '>' | ' ');
            let before = value[..start].rfind(is_apart).filter(|place| value[*place..].starts_with('<'));
            let after = value[from..].find(is_apart).filter(|place| value[from + place..].starts_with('>'));
            if let (Some(before), Some(after)) = (before, after) {
                let tag = format!("{}{given}{}", &value[before..start], &value[from..=from + after]);
                found.insert(tag, inner.to_owned());
            }
        }
    }
    found
}

/// The next innermost tag at or after a place: where its `<` and its `>` are.
fn next(text: &str, from: usize) -> Option<(usize, usize)> {
    let mut start = None;
    for (place, byte) in text.bytes().enumerate().skip(from) {
        match byte {
            b'<' => start = Some(place),
            b' ' => start = None,
            b'>' => {
                if let Some(start) = start.take().filter(|start| start + 1 < place) {
                    return Some((start, place));
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn substitute_in(options: &[(&str, &str)]) -> Result<String, String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        substitute(&options, &BTreeSet::new(), |_| Ok(None))
            .map(|done| done["x"].clone())
            .map_err(|(_, problem)| problem)
    }

    #[rstest]
    #[case(&[("x", "<HOST> a")], "<HOST> a")]
    #[case(&[("x", "<y>-<y>"), ("y", "1")], "1-1")]
    #[case(&[("x", "<m-<mode>>"), ("mode", "b"), ("m-b", "yes")], "yes")]
    #[case(&[("x", "<y>"), ("y", "<z>"), ("z", "<HOST>")], "<HOST>")]
    #[case(&[("x", "<a b> <> <y>"), ("y", "1")], "<a b> <> 1")]
    fn tags_are_replaced_until_none_is_left(#[case] options: &[(&str, &str)], #[case] expected: &str) {
        assert_eq!(substitute_in(options).unwrap(), expected);
    }

    #[rstest]
    #[case(&[("x", "<x>")])]
    #[case(&[("x", "<y>"), ("y", "<x>")])]
    #[case(&[("x", "a<y>"), ("y", "<z>b"), ("z", "<y>")])]
    fn a_circle_is_an_error(#[case] options: &[(&str, &str)]) {
        assert!(substitute_in(options).unwrap_err().contains("circle"));
    }

    #[test]
    fn what_is_put_together_is_known_with_the_option_that_it_is_put_together_from() {
        let options = [
            ("mode", "typo"),
            ("x", "a\n<mdre-<mode>> user=<<F-USER>a</F-USER>> <mode> <<mode>-of> <a <mode>> <lt_<mode>/p>"),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let built: Vec<String> = built(&options).into_keys().collect();
        assert_eq!(built, ["<lt_typo/p>", "<mdre-typo>", "<typo-of>"]);
    }

    #[test]
    fn what_multiplies_is_bounded() {
        let names: Vec<String> = (0..25).map(|n| format!("v{n}")).collect();
        let mut options: Vec<(&str, String)> = names
            .windows(2)
            .map(|pair| (pair[0].as_str(), format!("<{0}><{0}><{0}><{0}>", pair[1])))
            .collect();
        options.push(("v24", "0123456789".repeat(10)));
        options.push(("x", "<v0>".to_owned()));
        let borrowed: Vec<(&str, &str)> =
            options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert!(substitute_in(&borrowed).unwrap_err().contains("1 MB"));
    }
}
