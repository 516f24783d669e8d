//! How a router that cannot hold all bans is shared out: a sensor that fills it displaces its own bans, and no others.

/// How many each of several gets of a total, of what each asks for: nobody gets more than it asks for, and whoever gets
/// less gets as many as anybody, or one more (max-min fairness).
///
/// For example, of 100 entries, sensors that want 10, 20 and 1,000 get 10, 20 and 70.
pub(super) fn fair_shares(asked: &[usize], total: usize) -> Vec<usize> {
    let mut shares = vec![0; asked.len()];
    let mut order: Vec<usize> = (0..asked.len()).collect();
    order.sort_by_key(|place| asked[*place]);
    let mut left = total;
    for (done, place) in order.iter().enumerate() {
        // Those that ask for more come later, and share what this one leaves.
        let equal = left / (order.len() - done);
        shares[*place] = asked[*place].min(equal);
        left -= shares[*place];
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_asks_for_little_gets_it_and_the_others_share_the_rest() {
        assert_eq!(fair_shares(&[10, 1000, 20], 100), [10, 70, 20]);
        assert_eq!(fair_shares(&[50, 50], 101), [50, 50]);
        assert_eq!(fair_shares(&[5, 5, 5], 2), [0, 1, 1]);
        assert_eq!(fair_shares(&[], 2), Vec::<usize>::new());
    }

    proptest! {
        #[test]
        fn nobody_gets_less_than_they_ask_for_while_another_has_two_more(
            asked in prop::collection::vec(0..300_usize, 0..30), total in 0..2000_usize,
        ) {
            let shares = fair_shares(&asked, total);
            prop_assert_eq!(shares.iter().sum::<usize>(), total.min(asked.iter().sum()));
            let most = shares.iter().copied().max().unwrap_or(0);
            for (share, asked) in shares.iter().zip(&asked) {
                prop_assert!(share <= asked);
                prop_assert!(share == asked || share + 1 >= most, "{:?}", shares);
            }
        }
    }
}
