//! What a session does next, decided without I/O.
//!
//! Inputs are facts with the time they were seen at, outputs are plain values; a driver in `pgx`
//! does the reading and writing. It must not know sockets, clocks or how the cluster decides who
//! is primary: it is told by a [`route::Snapshot`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod limits;
pub mod route;
pub mod time;
