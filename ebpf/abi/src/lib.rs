//! What the kernel programs and the processes that load them must agree on.
//!
//! Names, indices, sizes and layouts live here and nowhere else: the programs (`ebpf/progs`) and
//! the loader (`proxy/bpf`) both read them from this crate, so that neither can drift. It must not
//! know how a packet is judged (that is `ebpf/rules`) nor how an object is loaded.

#![no_std]

mod counter;
mod names;
mod reason;

pub use counter::{COUNTER_SLOTS, Counter};
pub use names::{
    LAB_OBJECT, LAB_PASS, OBJECTS, PGX_OBJECT, PGX_ROOT, PIN_BASE, PIN_VERSION, REASONS,
};
pub use reason::Reason;

/// The kernel's `XDP_PASS`: the packet goes on to the network stack (`enum xdp_action` in
/// `linux/bpf.h`).
pub const XDP_PASS: u32 = 2;
