//! Waiting for a named condition with a deadline: the only way in which tests wait.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a condition is looked at; short against what tests measure, long against its cost.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Errors
/// When it did not hold within `limit`; the error names it.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    wait_for_some(what, limit, || condition().then_some(()))
}

/// Waits until `condition` gives a value.
///
/// # Errors
/// When it gave none within `limit`; the error names it.
pub fn wait_for_some<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {:.1} s in vain for: {what}", start.elapsed().as_secs_f64());
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::{wait_for, wait_for_some};
    use std::time::Duration;

    #[test]
    fn condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        wait_for("third look", Duration::from_secs(5), || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }

    #[test]
    fn error_of_a_wait_names_its_condition() {
        let error = wait_for_some::<()>("pigs fly", Duration::ZERO, || None).unwrap_err();
        assert!(error.to_string().ends_with("in vain for: pigs fly"), "{error}");
    }
}
