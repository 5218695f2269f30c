//! Raft and its durable log behind a narrow adapter.
//!
//! [`Quorum`] takes ticks, peers' messages and proposals, and hands out [`Action`]s; [`Store`] is
//! its one file. It must not know clocks, randomness, threads or sockets: a run is a function of
//! its inputs, so one seed replays it. What the entries mean is the controller's. Guarantees and
//! what happens when are in `docs/QUORUM.md`; read on in `quorum/mod.rs`.
#![forbid(unsafe_code)]

mod action;
mod body;
mod bytes;
mod consensus;
mod envelope;
mod error;
mod ids;
pub mod limits;
mod membership;
mod mirror;
mod quorum;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod store;
#[cfg(test)]
mod tests;
mod timing;

pub use action::{Action, Event, Fate};
pub use consensus::ConsensusLog;
pub use envelope::{
    EnvelopeError, PROTOCOL_VERSION, PROTOCOL_VERSION_READ_MAX, PROTOCOL_VERSION_READ_MIN,
};
pub use error::{
    ChangeError, MessageError, OpenError, ProposeError, SnapshotError, TransferError, Unsound,
    Unusable,
};
pub use ids::{ClusterId, Identity, Incarnation, NodeId, ProposalId};
pub use membership::{Change, Member, Membership, Misfit, Role, replacement_step};
pub use quorum::{Peer, Quorum, Status};
pub use store::{
    Damage, Expected, Founding, Probe, RecoverError, Recovered, STORE_FORMAT, Store, StoreError,
    recover_alone,
};
