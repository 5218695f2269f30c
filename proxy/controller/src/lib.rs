//! One node's part in the control plane.
//!
//! [`Controller`] joins the engine of `pgx-quorum` with the state and the decisions of
//! `pgx-control`: it applies the log, says what this node knows, and, where it coordinates,
//! decides. It must not know clocks, threads, sockets or files but the engine's own: a run is a
//! function of its inputs. Two drivers use it: the process and the simulator. Leases run beside it,
//! in a thread that never waits for a disk ([`pgx_control::lease::Station`]).
//!
//! Read on in `controller.rs`; [`codec`] is what goes over the wire and into the log.
#![forbid(unsafe_code)]

pub mod codec;
mod controller;
pub mod limits;
mod request;

pub use controller::{Controller, Note, Output};
pub use request::{Answer, Rehearsal, Request, Unanswered};

#[cfg(test)]
mod attack_tests;
