//! Leases: who may do what until when, held from a majority of voters.
//!
//! One protocol for all kinds. The [`Holder`] reads its clock before it asks; a [`Voter`] promises
//! until a moment by its own clock that lies later, whatever the two clocks' rates within the
//! drift; with promises from a majority the holder may act until `t0 + lease` by its own clock. A
//! voter that wants somebody else to have the lease first lets its promise run out, then refuses
//! for ever, durably, and only then says so. `docs/FAILOVER.md` argues why no two can hold at once.
//!
//! Neither side does I/O or reads a clock. Read [`Settings`] for the inequality that all stands on.

mod holder;
mod settings;
mod station;
mod voter;

pub use holder::{Ask, Holder};
pub use settings::{
    DRIFT_PERCENT_MAX, DRIFT_PERCENT_MIN, LEASE_MS_MAX, LEASE_MS_MIN, MARGIN_MS_MAX,
    RENEWALS_PER_LEASE_MIN, Settings, SettingsError,
};
pub use station::{Message, Output, Station, Wants};
pub use voter::{Action, Promise, Refusal, Refusals, Voter};

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Incarnation, NodeId, VipId};

/// What a lease is about. Leases of different kinds do not exclude one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// May serve writes.
    Primary,
    /// This standby may serve reads.
    Member(NodeId),
    /// This proxy may send clients to backends.
    Route(NodeId),
    /// May answer ARP and neighbour discovery for this address.
    Vip(VipId),
}

/// One right to be held: a kind, the number that orders its holders, and the holder.
///
/// The number is the epoch for [`Kind::Primary`], counts an address's holders for [`Kind::Vip`],
/// and is the holder's registration for the others: a node that was given up may come back under a
/// new registration in the same epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Right {
    /// What it is about.
    pub kind: Kind,
    /// Grows with each holder; a right of a lower number never comes back.
    pub number: u64,
    /// Who holds it.
    pub holder: NodeId,
    /// Which data directory or, where none is involved, which installation of the holder.
    pub incarnation: Incarnation,
}

impl Right {
    /// The right to be primary in an epoch.
    #[must_use]
    pub fn primary(epoch: Epoch, holder: NodeId, incarnation: Incarnation) -> Self {
        Self { kind: Kind::Primary, number: epoch.0, holder, incarnation }
    }
}

/// More than half of the voters.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}
