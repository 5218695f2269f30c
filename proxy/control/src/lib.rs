//! What the cluster decides and what an operator may ask, without I/O.
//!
//! [`lease`] is who may act until when, [`cluster`] what the quorum has agreed on and the rules by
//! which that changes, [`admin`] the requests and replies of the admin socket. It must not know
//! bytes of PostgreSQL's protocol, sockets or clocks: it deals in facts.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod admin;
pub mod agent;
pub mod chronicle;
pub mod cluster;
pub mod decide;
pub mod detect;
pub mod facts;
pub mod ids;
pub mod lease;
pub mod limits;
pub mod steer;
pub mod survey;
