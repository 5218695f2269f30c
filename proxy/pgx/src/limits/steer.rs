//! The bounds of the thread that steers.

use std::time::Duration;

/// How soon it tries again what failed; each time it waits twice as long, up to [`IDLE`].
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// How soon it looks first whether old flows have ended; each time it waits twice as long, up to
/// the other: the kernel lists every connection of the host for that.
pub(crate) const LOOK_MIN: Duration = Duration::from_secs(1);
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(30);

/// The longest it sleeps when there is nothing to do.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

/// How long the kernel's table may be newer than the agreed one before it counts as another
/// cluster's: a node that was away has read the log by then.
pub(crate) const STALE_MAX: Duration = Duration::from_secs(30);
