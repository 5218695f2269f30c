//! What is known of the directory that is found: whose it is, and whether it is the one that the
//! record tells of.

use std::time::Instant;

use pgx_control::agent::{Agent, Local, Record};
use pgx_control::cluster::State;
use pgx_control::cluster::history::{History, Switch};
use pgx_control::ids::{Epoch, Incarnation, Lsn, SystemId, Timeline};
use tracing::{info, warn};

use super::{Memory, Watcher};
use crate::controller::clock::random;
use crate::limits::control::MISSED_MIN;
use crate::postgres::eyes::nothing;

/// Whether an epoch serves whose primary has another directory: that one has every commit that was
/// acknowledged.
fn goes_on_without(state: &State, directory: Incarnation) -> bool {
    let serves = state.tenure().is_some_and(|tenure| tenure.is_established);
    let is_other = state.established().is_some_and(|epoch| epoch.incarnation != directory);
    serves && is_other && state.sealed().is_none()
}

impl Watcher {
    /// There is no directory: a new node's, or one that somebody has removed. One that is mounted
    /// later is not there yet either, so what commits may depend on is not given up at once, and
    /// never while no other directory is known to have them all.
    pub(super) fn find_nothing(&mut self) {
        self.managed = None;
        let known = self.state.as_ref().and_then(|state| Some((state, state.system()?)));
        let Some((state, system)) = known else {
            return self.say("there is no data directory; it is cloned when the cluster has begun");
        };
        let known = self.memory.as_ref().map(|memory| &memory.record);
        let is_missed = |known: &&Record| {
            known.is_whole
                && (state.needs(known.directory) || state.is_from_before_loss(&known.history))
        };
        if let Some(record) = known.filter(is_missed) {
            let since = *self.missed.get_or_insert_with(Instant::now);
            if !goes_on_without(state, record.directory) || since.elapsed() < MISSED_MIN {
                self.agent = None;
                return self.say(
                    "the data directory is not there, and acknowledged commits may depend on it: \
                     mount its disk, or put it back; it is cloned from a primary that goes on for \
                     long enough, or when nothing depends on it any more",
                );
            }
            warn!("the data directory is still not there, and is given up: it is cloned");
        }
        let memory = self.memory.get_or_insert_with(|| {
            let directory = Incarnation(u128::from_be_bytes(random()));
            let record = Record::new(directory, History::default());
            Memory { system, record: Record { is_whole: false, ..record } }
        });
        let (me, priority) = (self.me, self.priority);
        let record = memory.record.clone();
        let agent = self.agent.get_or_insert_with(|| Agent::new(me, priority, record));
        agent.handle_lost();
        self.local = Some(Local { system, ..nothing() });
    }

    /// The agent of the directory, with the record of earlier lives or a first one.
    pub(super) fn begin(&mut self, system: SystemId, timeline: Timeline) {
        let managed = self.managed.as_ref().map(|managed| managed.directory);
        let memory = self.memory.get_or_insert_with(|| {
            let new = || Incarnation(u128::from_be_bytes(random()));
            info!(system = system.0, "a data directory that nothing is known of: a new record");
            // As a cluster begins with it.
            let first = Switch { timeline, at: Lsn(0), epoch: Epoch(0) };
            let record = Record::new(managed.unwrap_or_else(new), History(vec![first]));
            Memory { system, record }
        });
        let (kept, agent) =
            (memory.clone(), Agent::new(self.me, self.priority, memory.record.clone()));
        if self.persist(kept) {
            self.agent = Some(agent);
        }
    }

    /// Whether what was found is what is known of.
    pub(super) fn check(&self, local: &Local) -> Result<(), String> {
        let Some(Memory { system, record }) = &self.memory else { return Ok(()) };
        if *system != local.system {
            return Err(format!(
                "the directory is of another database system ({}) than {} tells of; it is left out",
                local.system.0,
                self.path.display()
            ));
        }
        let found = self.managed.as_ref().map(|managed| managed.directory);
        if found.is_some_and(|found| !record.may_be(found)) {
            return Err(format!(
                "somebody has put another directory into the place of the one that {} tells of; \
                 it is left out: put that one back, or remove this one and it is cloned anew",
                self.path.display()
            ));
        }
        Ok(())
    }

    /// A copy that was made gets its name and its history.
    pub(super) fn end_copy(&mut self, local: &Local) {
        if !matches!(self.copying, Some((_, Some(_)))) {
            return;
        }
        let Some((state, Some(directory))) = self.copying.take() else { return };
        let (Some(tenure), Some(agent)) = (state.tenure(), &mut self.agent) else { return };
        let recorded = state.established().filter(|_| tenure.is_established);
        let mut history = recorded.map_or(&tenure.history, |recorded| &recorded.history).clone();
        let known = history.0.last().map(|switch| switch.timeline);
        if !tenure.is_established && known < Some(local.timeline) {
            // That of the epoch, which nobody has recorded yet.
            let (timeline, at, epoch) = (local.timeline, local.switch, tenure.epoch);
            history.0.push(Switch { timeline, at, epoch });
        }
        agent.handle_rebuilt(directory, history, tenure.epoch);
        if let Some(memory) = &mut self.memory {
            memory.system = local.system;
        }
    }
}
