//! What becomes of a packet: bytes → facts → verdict, without I/O, state or unsafe code.
//!
//! The same code runs in the kernel, over the bounds-checked accessor of `ebpf/progs`, and in the
//! tests below it, over a slice. It must not know BPF: no maps, no helpers, no contexts. Start at
//! [`facts()`], then [`decide`]; the reasons themselves are in `ebpf/abi`.

#![no_std]
#![forbid(unsafe_code)]

mod bytes;
mod facts;
mod limits;
mod verdict;

pub use bytes::Bytes;
pub use facts::{Facts, Flaw, Ports, Transport, facts};
pub use limits::EXTENSION_HEADERS_MAX;
pub use verdict::{Verdict, decide};
