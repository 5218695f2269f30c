//! Benchmarks live in `examples/`, so that what only they need is a dependency of nothing else.
//!
//! `examples/forwarder` passes bytes on, on one engine or another; `cargo xtask bench engines`
//! drives it.
