//! A PostgreSQL for the agent's tests to start from.

use super::{Local, Process};
use crate::ids::{BootTime, Lsn, SystemId, Timeline};

pub(crate) const NOW: BootTime = BootTime(100_000_000_000);

/// On the first timeline up to 100, answering now, not replayed to the end, and receiving from
/// nobody.
pub(crate) fn local(process: Process) -> Local {
    Local {
        system: SystemId(1),
        process,
        answered: NOW,
        upstream: None,
        is_streaming: false,
        is_drained: false,
        end: Lsn(100),
        timeline: Timeline(1),
        switch: Lsn(0),
        recovery_end: None,
        runs_rule: None,
        rule_flushed: Lsn(0),
        rule_since: Lsn(0),
        was_primary: false,
        is_busy: false,
        lacks_log: false,
        shut_down: None,
    }
}
