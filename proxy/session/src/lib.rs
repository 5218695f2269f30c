//! What a session does next, decided without I/O.
//!
//! Inputs are facts with the time they were seen at, outputs are plain values; a driver in `pgx`
//! does the reading and writing. It must not know sockets, clocks or how the cluster decides who
//! is primary: it is told by a [`route::Snapshot`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod attrs;
mod client;
pub mod config;
mod exchange;
mod flow;
mod guesses;
pub mod ids;
pub mod limits;
mod login;
pub mod net;
pub mod note;
mod options;
pub mod permits;
mod pool;
mod replay;
pub mod route;
mod scan;
pub mod secret;
mod server;
mod settings;
mod sql;
mod stand_in;
mod statements;
pub mod stats;
pub mod strict;
pub mod time;
pub mod worker;
