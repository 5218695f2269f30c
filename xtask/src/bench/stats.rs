//! What is said of repeated measurements: medians, and how sure they are.

/// How often a sample is drawn again. An interval's ends move by less than their last digit
/// between seeds.
const RESAMPLES: usize = 2_000;

/// The seed of all draws, so that the same measurements give the same interval.
const SEED: u64 = 20;

/// The median; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => f64::NAN,
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => f64::midpoint(values[middle - 1], *upper),
    }
}

/// The bootstrap interval that holds the median of what `values` are a sample of, in 95 of 100
/// cases.
pub(super) fn interval(values: &[f64]) -> [f64; 2] {
    if values.is_empty() {
        return [f64::NAN; 2];
    }
    let mut state = SEED;
    let mut draw = || values[next(&mut state) % values.len()];
    let mut medians: Vec<_> =
        (0..RESAMPLES).map(|_| median((0..values.len()).map(|_| draw()))).collect();
    medians.sort_by(f64::total_cmp);
    [medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40]]
}

/// The value below which this many of a thousand lie; `sorted` is in order.
pub(super) fn percentile(sorted: &[u64], per_mille: usize) -> Option<u64> {
    let place = (sorted.len() * per_mille).div_ceil(1000).saturating_sub(1);
    sorted.get(place).copied()
}

/// The next number of splitmix64.
#[allow(clippy::cast_possible_truncation, reason = "any of its bits will do")]
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_one_in_the_middle() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median([]).is_nan());
    }

    #[test]
    fn interval_holds_the_median_and_is_the_same_each_time() {
        let values: Vec<f64> = (0..21).map(f64::from).collect();
        let [low, high] = interval(&values);
        assert!((4.0..10.0).contains(&low) && (10.1..17.0).contains(&high), "{low} {high}");
        assert!(interval(&values) == [low, high]);
        assert!(interval(&[1.0; 9]) == [1.0, 1.0]);
    }

    #[test]
    fn percentile_is_the_least_value_that_enough_do_not_exceed() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(percentile(&values, 500), Some(100));
        assert_eq!(percentile(&values, 990), Some(198));
        assert_eq!(percentile(&[7], 990), Some(7));
        assert_eq!(percentile(&[], 500), None);
    }
}
