//! What is said of repeated whole numbers.

/// The least, the median and the most; of an even number, the upper of the two in the middle.
/// Nothing of none.
pub(crate) fn spread(values: impl IntoIterator<Item = u64>) -> Option<[u64; 3]> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable();
    Some([*values.first()?, values[values.len() / 2], *values.last()?])
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn median_is_the_one_in_the_middle_or_the_upper_of_two() {
        assert_eq!(spread([5, 1, 3]), Some([1, 3, 5]));
        assert_eq!(spread([4, 1, 3, 2]), Some([1, 3, 4]));
        assert_eq!(spread([]), None);
    }
}
