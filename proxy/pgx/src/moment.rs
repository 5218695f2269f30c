//! The clock of the day, in milliseconds since 1970 (UTC), for people and for what they plan.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// What it shows.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time as people read it; any number has one.
pub(crate) fn utc(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX);
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) => {
            format!("{} {:02}:{:02}:{:02} UTC", at.date(), at.hour(), at.minute(), at.second())
        }
        Err(_) => "a time that no calendar has".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar_as_far_as_it_goes() {
        assert_eq!(utc(1_795_849_445_678), "2026-11-28 07:04:05 UTC");
        assert_eq!(utc(u64::MAX), "a time that no calendar has");
    }
}
