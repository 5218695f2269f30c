//! io_uring: what this machine allows, and later the engine on it.
//!
//! One of the three homes of `unsafe`. It must not know PostgreSQL, sessions or decisions.

mod probe;

pub use probe::{Missing, Support, probe};
