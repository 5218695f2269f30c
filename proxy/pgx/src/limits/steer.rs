//! The bounds of the thread that steers.

use std::time::Duration;

/// How soon it tries again what failed; each time it waits twice as long, up to the other.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long it may fail before this host takes no part: what is agreed on must not name one that
/// does not go by it.
pub(crate) const FAIL_MAX: Duration = Duration::from_secs(5);

/// How soon it looks first whether old flows have ended; each time it waits twice as long, up to
/// the other: the kernel lists every connection of the host for that.
pub(crate) const LOOK_MIN: Duration = Duration::from_secs(1);
pub(crate) const LOOK_MAX: Duration = Duration::from_secs(30);

/// The longest it sleeps: how late it may notice that its card has another link address.
pub(crate) const IDLE: Duration = Duration::from_secs(2);

/// How long the kernel's table may be newer than the agreed one before it counts as lost: a node
/// that was away has read the log by then.
pub(crate) const STALE_MAX: Duration = Duration::from_secs(30);
