//! The recipes: how each daemon is set up, what is tried on it, and what is expected of the sensor. A count of 0 is for what
//! cannot be seen, or is not yet; the note says which.

use super::recipe::Recipe;

mod ftp;
mod mail;
mod remote;
mod ssh;
mod store;
mod web;

/// All of them, in the order of the guide.
pub fn all() -> impl Iterator<Item = &'static Recipe> {
    [ssh::RECIPES, mail::RECIPES, ftp::RECIPES, web::RECIPES, remote::RECIPES, store::RECIPES]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::suite::Suite;

    #[test]
    fn recipes_that_share_an_installation_have_the_same_packages_and_no_two_the_same_name() {
        let mut layers = HashMap::new();
        let mut names = HashSet::new();
        for recipe in all() {
            let packages = Suite::ALL.map(|suite| recipe.packages(suite));
            assert_eq!(*layers.entry(recipe.layer).or_insert(packages), packages, "{}", recipe.name);
            assert!(names.insert(recipe.name), "{} twice", recipe.name);
        }
    }

    #[test]
    fn every_client_has_to_hear_a_verdict_and_every_recipe_says_what_to_choose() {
        for recipe in all() {
            assert!(!recipe.choose.is_empty() && !recipe.cases.is_empty(), "{}", recipe.name);
            for case in recipe.cases {
                assert!(
                    !case.told.is_empty() && case.refused + case.let_in > 0,
                    "{}: {}",
                    recipe.name,
                    case.name
                );
            }
        }
    }
}
