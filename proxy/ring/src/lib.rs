//! The I/O engine of the proxy: sockets, buffers and one loop per thread, on io_uring or epoll.
//!
//! One of the homes of `unsafe`. It must not know PostgreSQL, sessions or decisions. Start with
//! [`Engine`], [`Io`] and [`Handler`]; `ring/mod.rs` says how io_uring is used.

mod deliver;
mod engine;
mod epoll;
mod handler;
mod io;
pub mod limits;
mod output;
mod pool;
mod probe;
mod ring;
mod socket;
mod sys;
mod table;
mod wake;

pub use engine::{Choice, Driven, Engine, Found, Setup, UnknownEngine};
pub use handler::{Address, End, Handler, Peer, Received};
pub use io::{Counters, Io};
pub use probe::{Missing, Support, probe};
pub use sys::now_ns;
pub use table::Key;
pub use wake::Waker;
