//! The bounds of the probe of this host's PostgreSQL, and how they hang together.

use std::time::Duration;

/// How often each part is asked at most: a process that the server forks, a query, a write to each
/// disk. Where the cluster's `hung_ms_max` is short, it is asked more often.
pub(crate) const EVERY_MAX: Duration = Duration::from_secs(1);

/// How long a try may be silent at most before a second one is made beside it.
pub(crate) const PATIENCE_MAX: Duration = Duration::from_secs(5);

/// How often the thread that asks the server says that it is awake.
pub(crate) const BEAT: Duration = Duration::from_millis(250);

/// When nobody was awake for so long, the process was held, and nobody else is to blame.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(1);

/// How long two silent tries of one kind are waited for before both are given up and made anew;
/// until then a frozen server collects no more connections of ours.
pub(crate) const ABANDON: Duration = Duration::from_secs(60);

/// How soon a login is tried again that was refused; each refusal doubles it.
pub(crate) const AGAIN_MIN: Duration = Duration::from_secs(1);

/// The longest such wait.
pub(crate) const AGAIN_MAX: Duration = Duration::from_secs(64);

const _: () = assert!(BEAT.as_millis() * 2 < STALL_MAX.as_millis());
const _: () = assert!(super::control::LOOK_EVERY.as_millis() < STALL_MAX.as_millis());
const _: () = assert!(AGAIN_MIN.as_millis() < AGAIN_MAX.as_millis());
