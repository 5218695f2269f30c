//! Tests of the engine and its file together. `power.rs` cuts power at every write, `cluster.rs` is
//! a cluster in one process on simulated disks and a simulated network, and the others use it.

mod checks;
mod cluster;
mod faults;
mod file;
mod members;
mod outage;
mod power;
mod wire;
