//! Tells the log about what repeats: each text once a minute, then counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the same text is only counted after it was logged.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Texts that are remembered; beyond them, the memory is emptied.
const TEXTS_MAX: usize = 128;

/// What was logged lately.
#[derive(Debug, Default)]
pub(super) struct Journal(BTreeMap<String, (Instant, u64)>);

impl Journal {
    /// How often the text was held back since it was logged, if it is to be logged now.
    pub(super) fn is_due(&mut self, text: &str, now: Instant) -> Option<u64> {
        if let Some((logged, repeated)) = self.0.get_mut(text) {
            if now.duration_since(*logged) < LOG_AGAIN {
                *repeated += 1;
                return None;
            }
            let held_back = std::mem::take(repeated);
            *logged = now;
            return Some(held_back);
        }
        if self.0.len() >= TEXTS_MAX {
            self.0.clear();
        }
        self.0.insert(text.to_owned(), (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_text_is_logged_once_a_minute_with_its_count() {
        let mut journal = Journal::default();
        let start = Instant::now();
        assert_eq!(journal.is_due("a", start), Some(0));
        assert_eq!(journal.is_due("a", start), None);
        assert_eq!(journal.is_due("b", start), Some(0));
        assert_eq!(journal.is_due("a", start + LOG_AGAIN), Some(1));
    }
}
