//! What the agent wants of the gate of PostgreSQL's port, and what is said of it.

use pgx_control::agent::{Local, Process};
use pgx_control::cluster::State;
use pgx_control::ids::Epoch;
use pgx_control::lease::{Right, Wants};

use super::Watcher;
use crate::controller::lease;
use crate::fence::gate::Width;

impl Watcher {
    /// Opens the gate as far as the agent wants it open for a primary, as things stand.
    pub(super) fn open(&self, opens: Option<(Epoch, Width)>, process: Process) {
        let Some(gate) = &self.outlets.gate else { return };
        match opens {
            Some((epoch, width)) => gate.open_primary(epoch, width),
            // One that is to end lets finish who is inside; its lease bounds that.
            None if process == Process::Primary => {}
            None => gate.shut_primary(),
        }
    }

    /// Opens the gate of a standby. One that has lost its primary is read from on: until its lease
    /// is over, or a primary is found in its place.
    pub(super) fn open_to_readers(&self, wants: &Wants) {
        let Some(gate) = &self.outlets.gate else { return };
        let is_primary = self.local.as_ref().is_some_and(|local| local.process == Process::Primary);
        match wants.member {
            Some((epoch, _)) => gate.open_member(epoch),
            None if is_primary || self.agent.is_none() => gate.shut_member(),
            None => {}
        }
        if self.agent.is_none() {
            gate.shut_primary();
        }
    }

    /// Shuts the gate for good in what was this node's to serve, and tells the voters that it has
    /// given its epoch up: only of one that it holds, and when nobody can go on with it any more,
    /// because the gate is shut wherever packets come and go, or nobody is there.
    pub(super) fn close(&mut self, epoch: Epoch, state: &State, local: &Local) {
        let Some(tenure) = state.tenure() else { return };
        let holds = tenure.epoch == epoch && tenure.holder == self.me;
        let gate = self.outlets.gate.as_ref();
        let is_shut = gate.is_some_and(|gate| gate.close(epoch, holds));
        let runs = matches!(local.process, Process::Standby | Process::Primary);
        if !is_shut && (runs || self.postmaster.is_some()) {
            return;
        }
        if self.closed >= Some(epoch) || !holds {
            return;
        }
        let right = Right::primary(epoch, self.me, tenure.incarnation);
        if self.outlets.lease.send(lease::Input::Closed(right)).is_ok() {
            self.closed = Some(epoch);
        }
    }
}
