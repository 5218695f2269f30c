//! No client waits without end at a server that is let answer and does not: it answers again, or
//! its gate shuts, by which the client is reset.
//!
//! A commit that waits for standbys under strict durability is not meant: it waits for as long as
//! none has it, and what `goes_on` demands ends that too.

use std::collections::BTreeMap;

use pgx_control::ids::NodeId;

use crate::event::{SECOND, Time};
use crate::world::World;

pub(crate) const NAME: &str = "waits end";

/// How long a client may wait: the longest `hung_ms_max`, lateness of each thread that has a part
/// in the seal, and a lease that runs out.
const WAIT_MAX: Time = 60 * SECOND;

/// Since when a client waits at a node, for the run of the server that it has asked.
#[derive(Default)]
pub(crate) struct Waits(BTreeMap<NodeId, (u64, Time)>);

impl World {
    /// A client has asked a server that does not answer.
    pub(crate) fn note_wait(&mut self, node: NodeId, run: u64) {
        let now = self.now;
        let known = self.checks.waits.0.entry(node).or_insert((run, now));
        if known.0 != run {
            *known = (run, now);
        }
    }

    pub(crate) fn check_waits_end(&mut self) {
        if self.checks.waits.0.is_empty() {
            return;
        }
        // While operators have paused failover they answer for it.
        let is_paused = self.is_paused_anywhere();
        let now = self.now;
        let hosts = &self.hosts;
        self.checks.waits.0.retain(|node, (run, since)| {
            let host = hosts.get(node).filter(|host| host.has_power);
            let server = host.and_then(|host| host.postgres.as_ref());
            let is_stuck =
                server.is_some_and(|server| server.id == *run && now < server.hung_until);
            *since = if is_paused { now } else { *since };
            is_stuck && host.is_some_and(|host| host.can_write(now))
        });
        let late = self.checks.waits.0.iter().find(|(_, (_, since))| now > since + WAIT_MAX);
        if let Some((node, _)) = late {
            let what = format!(
                "a client waits for {} s at node {node}, which is open and does not answer",
                WAIT_MAX / SECOND
            );
            self.fail(NAME, what);
        }
    }
}
