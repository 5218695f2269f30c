//! What the agent wants of the gate of PostgreSQL's port, and what is said of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use pgx_control::agent::{Local, Process};
use pgx_control::cluster::State;
use pgx_control::ids::Epoch;
use pgx_control::lease::{Right, Wants};
use tracing::warn;

use super::Watcher;
use crate::controller::{lease, spawn};
use crate::fence::gate::{Gate, Width};
use crate::limits::control::MEMBERS_EVERY;

/// Tells the gate where the members are.
pub(super) struct Members {
    hosts: BTreeSet<String>,
    sender: Sender<BTreeSet<String>>,
}

impl Members {
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(gate: Gate) -> Result<Self, String> {
        let (sender, inbox) = channel();
        spawn("pgx-members", move || look_up(&gate, &inbox))?;
        Ok(Self { hosts: BTreeSet::new(), sender })
    }
}

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

    /// Has the gate told of the members; of this one, too, whose proxy comes by its address.
    pub(super) fn see_members(&mut self, state: &State) {
        let Some(members) = &mut self.members else { return };
        let nodes = state.nodes().iter().filter(|(node, _)| !state.is_gone(**node));
        let hosts: BTreeSet<_> = nodes
            .filter_map(|(_, named)| named.address.rsplit_once(':'))
            .map(|(host, _)| host.trim_start_matches('[').trim_end_matches(']').to_owned())
            .collect();
        if members.hosts != hosts {
            members.hosts.clone_from(&hosts);
            // The thread lives as long as this one.
            let _ = members.sender.send(hosts);
        }
    }
}

/// Looks the hosts of members up, now and again: names may come to mean other addresses.
fn look_up(gate: &Gate, inbox: &Receiver<BTreeSet<String>>) {
    let mut hosts = BTreeSet::new();
    let mut known: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut told = BTreeSet::new();
    loop {
        match inbox.recv_timeout(MEMBERS_EVERY) {
            Ok(newer) => hosts = newer,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        known.retain(|host, _| hosts.contains(host));
        let mut names = Vec::new();
        for host in &hosts {
            match host.parse() {
                Ok(address) => drop(known.insert(host.clone(), vec![address])),
                Err(_) => names.push(host),
            }
        }
        let all = |known: &BTreeMap<String, Vec<IpAddr>>| -> BTreeSet<_> {
            known.values().flatten().copied().collect()
        };
        // A name may take long to look up, or fail.
        gate.set_peers(&all(&known), names.is_empty());
        for host in names {
            match (host.as_str(), 0).to_socket_addrs() {
                Ok(found) => {
                    known.insert(host.clone(), found.map(|address| address.ip()).collect());
                }
                Err(error) if told.insert(host.clone()) => {
                    warn!(host, %error, "a member's address is not known; it is not let in while \
                        PostgreSQL is open to members only");
                }
                // It is where it was.
                Err(_) => {}
            }
        }
        gate.set_peers(&all(&known), hosts.iter().all(|host| known.contains_key(host)));
    }
}
