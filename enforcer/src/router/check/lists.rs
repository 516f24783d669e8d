//! What the lists hold already.

use super::facts::{Facts, Page, families};
use super::{Finding, Grade};
use crate::prefixes::Family;
use crate::router::RouterConfig;
use atalaya_program::count::{agreeing, count, counted};

pub(super) fn examine(config: &RouterConfig, facts: &Facts) -> Vec<Finding> {
    let told = |family: &Family| facts.lists[family.index()] != Page::Missing || *family == Family::V4;
    families(config.ipv6).filter(told).map(|one| family(config, facts, one)).collect()
}

fn family(config: &RouterConfig, facts: &Facts, family: Family) -> Finding {
    let check = match family {
        Family::V4 => "ipv4-list",
        Family::V6 => "ipv6-list",
    };
    let name = config.list(family);
    let content = match &facts.lists[family.index()] {
        Page::Shown(content) => content,
        Page::Refused => {
            let says = format!("`{}` may not read the {family} list, which the enforcer must", config.user);
            return Finding::new(check, Grade::Fault, says);
        }
        other => {
            let says = format!("what list {name} holds for {family} cannot be told: {}", other.silence());
            return Finding::new(check, Grade::Unclear, says);
        }
    };
    if !content.rivals.is_empty() {
        let words: Vec<String> =
            content.rivals.iter().map(|(word, count)| format!("word {word}: {count}")).collect();
        let all: usize = content.rivals.values().sum();
        let says = format!(
            "list {name} holds {} of ours and {} of {} with the same mark ({}): they stay as they are, and what both ban has the other's timeout. Give one of the two its own `mark` or `name` in [list]; if they are this enforcer's own, of before its state was lost, take them over with `adopt` in [list]",
            counted(content.ours, "entry"),
            counted(all, "entry"),
            agreeing(words.len(), "another enforcer", "other enforcers"),
            words.join(", ")
        );
        return Finding::new(check, Grade::Warning, says);
    }
    if !content.marks.is_empty() {
        let marks: Vec<String> =
            content.marks.iter().map(|(mark, count)| format!("`{mark}` ({count})")).collect();
        let says = format!(
            "list {name} holds {} of another enforcer's mark, {}: they stay as they are, and what both ban has the other's timeout. If that was this enforcer before, set `mark` back in [list]; if not, give each its own list",
            counted(content.marks.values().sum::<usize>(), "entry"),
            marks.join(", ")
        );
        return Finding::new(check, Grade::Warning, says);
    }
    let foreign = match content.foreign {
        0 => String::new(),
        some => {
            format!(
                " and {} of others', which {}",
                count(some),
                agreeing(some, "stays as it is", "stay as they are")
            )
        }
    };
    Finding::good(check, format!("list {name} holds {} of ours{foreign}", counted(content.ours, "entry")))
}
