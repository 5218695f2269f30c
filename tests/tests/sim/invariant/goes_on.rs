//! When all faults have ended, everything goes on within a bound: one primary serves, every other
//! directory streams from it, and clients' writes are acknowledged.

use pgx_control::cluster::Entry;
use pgx_control::ids::{Epoch, NodeId};

use crate::event::{SECOND, Time};
use crate::host::Host;
use crate::world::World;

pub(crate) const NAME: &str = "goes on";

/// How long healing may take: an establishment that fails late, one that succeeds, and standbys
/// that are rebuilt.
const HEALING_MAX: Time = 90 * SECOND;

/// Commits after the healing that show that clients are served.
const COMMITS_MIN: u64 = 5;

impl World {
    pub(crate) fn check_goes_on(&mut self) {
        let Some(healed_at) = self.healed_at else { return };
        if self.now < healed_at + HEALING_MAX || self.is_over() {
            return;
        }
        let what = match self.serving() {
            None => "nobody serves".to_owned(),
            Some(primary) => {
                let apart: Vec<_> = self
                    .hosts
                    .values()
                    .filter(|host| !self.is_with(host, primary))
                    .map(|host| host.id.0)
                    .collect();
                format!("node {primary} serves; nodes {apart:?} do not stream from it")
            }
        };
        self.fail(NAME, format!("{} s after all faults ended: {what}", HEALING_MAX / SECOND));
    }

    /// Whether the cluster has healed.
    pub(crate) fn is_over(&mut self) -> bool {
        let Some(healed_at) = self.healed_at else { return false };
        if self.counters.commits < self.checks.commits_before_healing + COMMITS_MIN {
            return false;
        }
        let Some(primary) = self.serving() else { return false };
        if self.is_somebody_leaving()
            || !self.hosts.values().all(|host| self.is_with(host, primary))
        {
            return false;
        }
        let healing = self.now - healed_at;
        self.counters.healing_max = healing;
        self.counters.healing_sum = healing;
        self.check_commits(primary);
        true
    }

    fn is_with(&self, host: &Host, primary: NodeId) -> bool {
        let Some(serving) = self.hosts.get(&primary) else { return false };
        host.is_gone
            || host.id == primary
            || serving.streamed_to().contains(&host.directory.incarnation)
                && host.process.is_some()
                && host.postgres.is_some()
    }

    /// Who holds an epoch, as any node knows it.
    pub(crate) fn holder_of(&self, epoch: Epoch) -> Option<(Epoch, NodeId)> {
        let processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        let controllers = processes.filter_map(|process| process.controller.as_ref());
        let mut tenures = controllers.filter_map(|controller| controller.state().tenure());
        let tenure = tenures.find(|tenure| tenure.epoch == epoch)?;
        Some((tenure.epoch, tenure.holder))
    }

    /// Counts what an entry means, and lets trouble follow upon it.
    pub(crate) fn count(&mut self, entry: &Entry) {
        let counters = &mut self.counters;
        match entry {
            Entry::NewEpoch { holder, accept_loss, .. } => {
                counters.losses_accepted += u64::from(*accept_loss);
                let before = self.last_holder.replace(*holder);
                if before == Some(*holder) {
                    counters.re_elections += 1;
                } else {
                    counters.failovers += 1;
                }
                counters.switchovers_done += u64::from(self.switching_to == Some(*holder));
                self.switching_to = None;
                self.provoke();
            }
            Entry::Switchover { to, .. } => {
                counters.switchovers += 1;
                self.switching_to = Some(*to);
                self.provoke();
            }
            Entry::SwitchoverCancelled { .. } => {
                counters.switchovers_cancelled += 1;
                self.switching_to = None;
            }
            Entry::Seal { .. } | Entry::RuleJoint { .. } => self.provoke(),
            Entry::Established { .. } => counters.established += 1,
            Entry::RuleSettled { .. } => counters.rule_changes += 1,
            Entry::Membership(_) => counters.memberships += 1,
            Entry::GiveVip { .. } => counters.addresses += 1,
            Entry::Retire { .. } => counters.retired += 1,
            _ => {}
        }
    }
}
