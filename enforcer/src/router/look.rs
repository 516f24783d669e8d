//! One look of a worker at its router's firewall rules, without I/O: which pages to ask for, and what they
//! come to. The filter rules, of which there may be thousands, are read only where the raw rules do not
//! drop by the list already.

use super::check::Grade;
use super::check::facts::Page;
use super::check::rules::{Chains, Judgement, Reading, Rule, judge};
use super::sentence::{Row, Trap};
use crate::prefixes::Family;

/// A look at the rules of both families.
#[derive(Debug, Default)]
pub(super) struct Look {
    families: [Option<FamilyRules>; 2],
}

/// What was read of one family.
#[derive(Debug)]
struct FamilyRules {
    raw: Page<Vec<Rule>>,
    reading: Reading,
}

/// What follows from a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another is to be read.
    Ask(Chains),
    /// The family is judged.
    Judged(Judgement),
}

// === impl Look ===

impl Look {
    /// Begins with a family; the page to ask for.
    pub(super) fn begin(&mut self, family: Family) -> Chains {
        self.families[family.index()] = Some(FamilyRules { raw: Page::Unread, reading: Reading::default() });
        Chains::Raw
    }

    /// Takes a row of the page that was asked for.
    pub(super) fn row(&mut self, family: Family, row: &Row) {
        if let Some(pages) = &mut self.families[family.index()] {
            pages.reading.take(row);
        }
    }

    /// Takes in that the page is complete, or was refused.
    pub(super) fn page_ends(
        &mut self,
        family: Family,
        table: Chains,
        refusal: Option<&Trap>,
        list: &str,
    ) -> Option<Next> {
        let place = &mut self.families[family.index()];
        let pages = place.as_mut()?;
        let reading = std::mem::take(&mut pages.reading);
        let page = refusal.map_or_else(|| reading.finish(), Page::refused);
        let judgement = match table {
            Chains::Raw => {
                let judgement = judge(family, list, &page, &Page::Unread);
                if !matches!(judgement.grade, Grade::Good | Grade::Warning) {
                    pages.raw = page;
                    return Some(Next::Ask(Chains::Filter));
                }
                judgement
            }
            Chains::Filter => judge(family, list, &pages.raw, &page),
        };
        *place = None;
        Some(Next::Judged(judgement))
    }

    /// Whether an answer is awaited.
    pub(super) fn is_under_way(&self) -> bool {
        self.families.iter().any(Option::is_some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_rules_are_asked_for_where_the_raw_rules_settle_nothing_and_a_refusal_is_unclear() {
        let trap = Trap::new(None, "not enough permissions (9)".to_owned());
        for refusal in [None, Some(&trap)] {
            let mut look = Look::default();
            assert_eq!(look.page_ends(Family::V4, Chains::Raw, None, "x"), None, "nothing was asked");
            assert_eq!(look.begin(Family::V4), Chains::Raw);
            assert_eq!(look.begin(Family::V6), Chains::Raw);
            let next = look.page_ends(Family::V4, Chains::Raw, refusal, "x");
            assert_eq!(next, Some(Next::Ask(Chains::Filter)));
            let next = look.page_ends(Family::V4, Chains::Filter, None, "x");
            let Some(Next::Judged(judgement)) = next else { panic!("{next:?}") };
            let expected = if refusal.is_some() { Grade::Unclear } else { Grade::Fault };
            assert_eq!(judgement.grade, expected, "{judgement:?}");
            assert!(look.is_under_way(), "IPv6 is not judged yet");
        }
    }
}
