//! Takes virtual addresses when their lease comes, tells the network, and lets them go by its
//! deadline.
//!
//! It must not know who gives leases, nor PostgreSQL: a test and the control plane write to the
//! same [`Holder`]. What a question for an address meets is decided in `ebpf/rules`, by the map
//! that `pgx_bpf::Vips` writes. Start at [`Holder`]; when what is done is in `duty.rs`.
#![forbid(unsafe_code)]

mod announce;
mod clock;
mod command;
mod duty;
mod error;
mod holder;
mod limits;
mod loopback;
mod means;
mod netlink;
mod record;
mod settings;

pub use clock::boot_ns;
pub use error::{Error, Refused};
pub use holder::{Holder, LeaseStatus, LoopbackStatus};
pub use limits::{ADDRESSES_MAX, LEASES_MAX};
pub use netlink::interfaces_with;
pub use settings::{Choice, Lease, LeaseId, Mode, Program, Role, Settings, choose};

/// The interface that is on every host.
pub(crate) const LOOPBACK: &str = "lo";
