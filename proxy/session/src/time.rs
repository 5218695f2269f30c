//! Time as a value: this crate has no clock.

/// A moment, in microseconds since an origin that the driver chose; it never goes back. Limits are
/// in milliseconds, what is measured is in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(pub u64);

const US_OF_MS: u64 = 1_000;

impl Now {
    /// So many milliseconds after the origin.
    #[must_use]
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(US_OF_MS))
    }

    /// The moment `ms` milliseconds later; the end of time at most.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(US_OF_MS)))
    }

    /// Microseconds since an earlier moment; none since a later one.
    #[must_use]
    pub fn us_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_in_milliseconds_and_what_is_measured_in_microseconds() {
        let (before, after) = (Now(1_234), Now(1_234).after_ms(2));
        assert_eq!(after.us_since(before), 2_000);
        assert_eq!(before.us_since(after), 0);
        assert_eq!(Now::from_ms(2), Now(2_000));
        assert_eq!(Now(1).after_ms(u64::MAX), Now(u64::MAX));
    }
}
