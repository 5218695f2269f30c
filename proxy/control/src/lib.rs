//! What the cluster decides and what an operator may ask, without I/O.
//!
//! It holds the request and reply types of the admin socket ([`admin`]); leases, quorum rules and
//! the failover decision have their home here too. It must not know bytes of PostgreSQL's
//! protocol, sockets or clocks: it deals in facts.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod admin;
pub mod limits;
