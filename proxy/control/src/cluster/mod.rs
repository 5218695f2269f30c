//! What the quorum has agreed on: the replicated state, and the entries that change it.
//!
//! Every entry is checked again when it is applied, by the same code on every node and in the
//! order of the log. A proposer that was wrong or late changes nothing: its entry is void. So the
//! rules that keep acknowledged commits do not depend on who coordinates.
//!
//! Read [`State::apply`] for the rules, [`sync`] for when reports are enough, [`history`] for which
//! reports count.

mod apply;
mod entry;
pub mod history;
mod membership;
mod policy;
mod state;
mod steering;
pub mod sync;
#[cfg(test)]
pub(crate) mod testing;

pub use entry::{Durability, Entry, Report, Role, Stage, Void};
pub use membership::Membership;
pub use policy::{Policy, PolicyError};
pub use state::{Established, Member, Node, Registration, Scheduled, State, Tenure, Unserved};
pub use steering::{Proxy, Sharer, Steering};
