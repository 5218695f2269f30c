//! What must hold in every run, checked at each step: one coordinator a term, and one history that
//! every node's is a prefix of.

use std::collections::BTreeMap;

use crate::{Action, NodeId, ProposalId};

/// A state machine whose state is a digest of all it has applied, so that equal states mean equal
/// histories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) index: u64,
    pub(super) chain: u64,
    pub(super) last: Option<ProposalId>,
}

impl Machine {
    pub(super) fn of(index: u64, state: &[u8]) -> Self {
        let Some((chain, last)) = state.split_first_chunk() else {
            return Self { index, ..Self::default() };
        };
        let last = last.try_into().ok().map(|last| ProposalId(u64::from_be_bytes(last)));
        Self { index, chain: u64::from_be_bytes(*chain), last }
    }

    pub(super) fn state(&self) -> Vec<u8> {
        let mut state = self.chain.to_be_bytes().to_vec();
        state.extend(self.last.into_iter().flat_map(|last| last.0.to_be_bytes()));
        state
    }

    pub(super) fn apply(&mut self, index: u64, term: u64, proposal: ProposalId, data: &[u8]) {
        assert!(index > self.index, "entry {index} comes after entry {}", self.index);
        self.index = index;
        self.last = Some(proposal);
        for number in [index, term, proposal.0] {
            self.chain = digest(self.chain, &number.to_be_bytes());
        }
        self.chain = digest(self.chain, data);
    }
}

#[derive(Default)]
pub(super) struct Checks {
    coordinators: BTreeMap<u64, NodeId>,
    /// The state after each entry that anybody applied.
    history: BTreeMap<u64, u64>,
    /// A digest of everything that any engine asked for, in order.
    pub(super) outputs: u64,
    pub(super) outputs_count: u64,
}

impl Checks {
    pub(super) fn trace(&mut self, id: NodeId, action: &Action) {
        self.outputs = digest(self.outputs, &id.get().to_be_bytes());
        self.outputs = match action {
            Action::Send { to, bytes } => {
                digest(digest(self.outputs, &to.get().to_be_bytes()), bytes)
            }
            Action::Event(event) => digest(self.outputs, format!("{event:?}").as_bytes()),
        };
        self.outputs_count += 1;
    }

    pub(super) fn coordinates(&mut self, coordinator: NodeId, term: u64) {
        let known = *self.coordinators.entry(term).or_insert(coordinator);
        assert_eq!(known, coordinator, "two coordinators in term {term}");
    }

    pub(super) fn applied(&mut self, id: NodeId, index: u64, machine: &Machine) {
        let newest = self.history.last_key_value().map_or(0, |(last, _)| *last);
        let is_known = self.history.contains_key(&index);
        assert!(index > newest || is_known, "{id} applied entry {index}, which others left out");
        let known = *self.history.entry(index).or_insert(machine.chain);
        assert_eq!(known, machine.chain, "{id} has another history up to entry {index}");
    }

    pub(super) fn restored(&self, id: NodeId, index: u64, machine: &Machine) {
        let known = self.history.range(..=index).next_back().map_or(0, |(_, chain)| *chain);
        assert_eq!(known, machine.chain, "{id} was restored to another history at entry {index}");
    }

    /// Whether that node ever coordinated.
    pub(super) fn coordinated(&self, id: NodeId) -> bool {
        self.coordinators.values().any(|coordinator| *coordinator == id)
    }

    /// How many terms had a coordinator.
    pub(super) fn elections(&self) -> usize {
        self.coordinators.len()
    }

    /// How many entries were committed.
    pub(super) fn committed(&self) -> usize {
        self.history.len()
    }

    /// Who coordinated first.
    pub(super) fn first_coordinator(&self) -> Option<NodeId> {
        self.coordinators.first_key_value().map(|(_, node)| *node)
    }
}

/// FNV-1a; only equality matters.
fn digest(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start ^ 0xcbf2_9ce4_8422_2325, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
