//! What the quorum agrees on: every node applies the same at the same place, epochs grow by one,
//! none begins to serve once it is sealed, and no node goes back, whatever it went through.

use std::collections::BTreeMap;

use pgx_control::cluster::{Entry, State};
use pgx_control::ids::{Attempt, Epoch, NodeId};

use crate::control::show;
use crate::world::World;

pub(crate) const NAME: &str = "epochs grow";

/// What was applied where.
#[derive(Default)]
pub(crate) struct Epochs {
    applied: BTreeMap<u64, (Entry, bool)>,
    newest: Option<Epoch>,
    sealed: Option<Epoch>,
    /// Whether loss was accepted in the election of the newest epoch.
    lossy: bool,
    of_node: BTreeMap<NodeId, (Epoch, Option<Attempt>)>,
}

impl World {
    /// A node has another state.
    pub(crate) fn note_state(&mut self, node: NodeId, state: &State) {
        let Some(tenure) = state.tenure() else {
            if let Some((epoch, _)) = self.checks.epochs.of_node.get(&node) {
                let what = format!("node {node} was in epoch {} and forgot it", epoch.0);
                self.fail(NAME, what);
            }
            return;
        };
        let now = (tenure.epoch, state.sealed());
        let before = self.checks.epochs.of_node.insert(node, now);
        if let Some(before) = before.filter(|before| now < *before) {
            self.fail(NAME, format!("node {node} went back from {before:?} to {now:?}"));
        }
    }

    /// Whether nobody has applied anything at this place before.
    pub(crate) fn note_applied_once(&self, index: u64) -> bool {
        !self.checks.epochs.applied.contains_key(&index)
    }

    /// A node has applied an entry, or found it void.
    pub(crate) fn note_applied(&mut self, node: NodeId, index: u64, entry: &Entry, holds: bool) {
        if let Some((known, held)) = self.checks.epochs.applied.get(&index) {
            if known != entry || *held != holds {
                let what = format!(
                    "at {index} node {node} has {} ({holds}), another one {} ({held})",
                    show(entry),
                    show(known)
                );
                self.fail(NAME, what);
            }
            return;
        }
        self.checks.epochs.applied.insert(index, (entry.clone(), holds));
        if !holds {
            return;
        }
        self.note(&format!("applied at {index}: {}", show(entry)));
        match entry {
            Entry::NewEpoch { epoch, holder, accept_loss, .. } => {
                self.checks.epochs.lossy = *accept_loss;
                if *accept_loss {
                    self.note_given_up(*holder);
                }
                let newest = self.checks.epochs.newest.replace(*epoch);
                if *epoch != newest.map_or(Epoch(1), Epoch::next) {
                    self.fail(NAME, format!("epoch {} follows upon {newest:?}", epoch.0));
                }
            }
            Entry::Seal { epoch, .. } => self.checks.epochs.sealed = Some(*epoch),
            Entry::Established { epoch, .. } => {
                if self.checks.epochs.sealed == Some(*epoch) {
                    self.fail(NAME, format!("epoch {} serves and was sealed before", epoch.0));
                }
                // One look for each epoch, when it begins to serve.
                if let Some((_, holder)) = self.holder_of(*epoch) {
                    if self.checks.epochs.lossy {
                        self.forget_lost(holder);
                    }
                    self.checks.epochs.lossy = false;
                    self.forget_given_up(holder);
                    self.check_commits(holder);
                }
            }
            _ => {}
        }
        self.count(entry);
    }
}
