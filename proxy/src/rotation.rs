//! Turns by weight: who is next when parts take their share one after the other.
//!
//! Made once from the weights; after that a turn is a number to count up and a look into a table. `balance` rotates
//! endpoints with it, `route` the parts of a split.

/// An order of turns, each part in proportion to its weight and as evenly spread as can be.
#[derive(Debug, Default)]
pub(crate) struct Rotation(Box<[u32]>);

impl Rotation {
    /// The order for parts of these weights; 0 has no turn.
    ///
    /// After any number of turns a part has had its share of them, give or take two. Shares below a
    /// [ten thousandth](MAX_TURNS) count as one.
    pub(crate) fn new(weights: &[u32]) -> Self {
        let turns = in_few_turns(weights);
        let mut order: Vec<(f64, u32)> = Vec::new();
        for (part, count) in (0..).zip(turns) {
            let spread = f64::from(count);
            order.extend((0..count).map(|turn| ((f64::from(turn) + 0.5) / spread, part)));
        }
        order.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        Self(order.into_iter().map(|(_, part)| part).collect())
    }

    /// Whose turn the `turn`th is; `None` if nobody has any.
    pub(crate) fn at(&self, turn: u64) -> Option<usize> {
        let length = u64::try_from(self.0.len()).ok()?;
        let index = usize::try_from(turn.checked_rem(length)?).ok()?;
        usize::try_from(*self.0.get(index)?).ok()
    }

    /// Turns until it begins again.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// How many turns each part has in one round: the weights without their common divisor, scaled down where that is long.
fn in_few_turns(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, common_divisor).max(1);
    let total: u64 = weights
        .iter()
        .map(|weight| u64::from(weight / divisor))
        .sum();
    let scaled = |weight: u32| {
        let weight = weight / divisor;
        if total <= MAX_TURNS || weight == 0 {
            return weight;
        }
        let turns = (u64::from(weight) * MAX_TURNS + total / 2) / total;
        u32::try_from(turns).unwrap_or(u32::MAX).max(1)
    };
    weights.iter().map(|weight| scaled(*weight)).collect()
}

fn common_divisor(one: u32, other: u32) -> u32 {
    if other == 0 {
        one
    } else {
        common_divisor(other, one % other)
    }
}

/// Longest round, a little more with very many parts.
const MAX_TURNS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rotation: &Rotation, parts: usize, turns: u64) -> Vec<u64> {
        let mut counts = vec![0; parts];
        for turn in 0..turns {
            counts[rotation.at(turn).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn equals_take_turns_one_after_the_other() {
        let rotation = Rotation::new(&[7, 7, 7]);
        let order: Vec<_> = (0..6).filter_map(|turn| rotation.at(turn)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn turns_of_a_heavy_part_are_spread() {
        let rotation = Rotation::new(&[5, 1, 1]);
        let order: Vec<_> = (0..7).filter_map(|turn| rotation.at(turn)).collect();
        assert_eq!(order, [0, 0, 0, 1, 2, 0, 0]);
    }

    #[test]
    fn without_a_weight_there_is_no_turn() {
        assert_eq!(Rotation::new(&[]).at(0), None);
        assert_eq!(Rotation::new(&[0, 0]).at(7), None);
        assert_eq!(counts(&Rotation::new(&[0, 3]), 2, 10), [0, 10]);
    }

    #[test]
    fn a_round_stays_short_whatever_the_weights() {
        let rotation = Rotation::new(&[999_983, 1]);
        assert!(rotation.len() <= 10_001);
        assert_eq!(counts(&rotation, 2, 10_001), [10_000, 1]);
    }

    proptest::proptest! {
        #[test]
        fn every_part_has_its_share_after_any_number_of_turns(
            weights in proptest::collection::vec(0_u32..200, 1..8), turns in 1_u64..3_000,
        ) {
            let total: u32 = weights.iter().sum();
            proptest::prop_assume!(total > 0);
            let got = counts(&Rotation::new(&weights), weights.len(), turns);
            for (weight, got) in weights.iter().zip(got) {
                #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                let (want, got) = (turns as f64 * f64::from(*weight) / f64::from(total), got as f64);
                proptest::prop_assert!((want - got).abs() <= 2.0, "{weights:?}: {got}, want {want}");
            }
        }
    }
}
