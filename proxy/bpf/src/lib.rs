//! Loads the BPF objects, attaches their programs and pins what must outlive the process.
//!
//! Everything here is about getting programs in and numbers out; what a packet means is decided in
//! `ebpf/rules`, and every name comes from `ebpf/abi`. It must not know PostgreSQL, leases or
//! configuration. The order of use: [`Objects`], [`Pins::open`], [`Plane::load`],
//! [`Plane::attach`], [`Plane::guard`]; then [`Keeper`] writes
//! leases. `pgx doctor` asks [`probe()`].

mod attach;
mod counters;
mod destroy;
mod device;
mod diag;
mod error;
mod guard;
mod handover;
mod hooks;
mod keeper;
mod knock;
pub mod lab;
mod links;
mod listener;
mod load;
mod nft;
mod objects;
mod pins;
mod place;
mod plane;
mod probe;
mod rehearse;
mod steer;
mod sys;
mod vips;
mod wire;
mod xdp_features;

pub use attach::{Attachment, Mode};
pub use counters::Counters;
pub use destroy::{Side, destroy};
pub use error::Error;
pub use guard::{Change, Guard, Options};
pub use keeper::{KeepError, Keeper, Role, Stale, Standing, standing};
pub use load::can_load;
pub use nft::{Nftables, Renewal};
pub use objects::Objects;
pub use pgx_abi::{BUCKETS, Counter, Gate, LeaseWord, PIN_BASE, PORT_DEFAULT, Reason};
pub use pins::{BPFFS, Pins, pinned_fence};
pub use place::{At, Hook, Place, Trial};
pub use plane::Plane;
pub use probe::{Feature, probe};
pub use rehearse::{Rehearsal, rehearse};
pub use steer::{Bucket, SteerError, Steering, Table, buckets_in_use};
pub use vips::Vips;
pub use wire::{Wire, link_address};
