//! What a snapshot carries: the membership as of its index, then the driver's state.

use raft::eraftpb::Snapshot;

use crate::bytes::Reader;
use crate::ids::NodeId;
use crate::membership::Membership;
use crate::store::Position;

/// A snapshot as of `position`.
pub(crate) fn snapshot(membership: &Membership, state: &[u8], position: Position) -> Snapshot {
    let mut body = Vec::new();
    membership.encode(&mut body);
    body.extend(state);
    let mut snapshot = Snapshot { data: body.into(), ..Snapshot::default() };
    let meta = snapshot.mut_metadata();
    meta.index = position.index;
    meta.term = position.term;
    let conf_state = meta.mut_conf_state();
    conf_state.voters = membership.voters().map(NodeId::get).collect();
    conf_state.learners = membership.learners().map(NodeId::get).collect();
    snapshot
}

/// Membership and driver's state of a snapshot; `None` when it does not decode, or when what it
/// says to Raft differs from what it says to us.
pub(crate) fn decode(snapshot: &Snapshot) -> Option<(Membership, Vec<u8>)> {
    let mut reader = Reader(&snapshot.data);
    let membership = Membership::decode(&mut reader)?;
    let mut conf_state = snapshot.get_metadata().get_conf_state().clone();
    conf_state.voters.sort_unstable();
    conf_state.learners.sort_unstable();
    let same = conf_state.voters.iter().copied().eq(membership.voters().map(NodeId::get))
        && conf_state.learners.iter().copied().eq(membership.learners().map(NodeId::get))
        && conf_state.voters_outgoing.is_empty()
        && conf_state.learners_next.is_empty();
    same.then(|| (membership, reader.0.to_vec()))
}
