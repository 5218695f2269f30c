//! What the kernel programs and the processes that load them must agree on.
//!
//! Names, indices, sizes and layouts live here and nowhere else: the programs (`ebpf/progs`) and
//! the loader (`proxy/bpf`) both read them from this crate, so that neither can drift. It must not
//! know how a packet is judged (that is `ebpf/rules`) nor how an object is loaded.

#![no_std]

mod counter;
mod lab;
mod lease;
mod names;
mod program;
mod reason;
mod steer;
mod vip;

pub use counter::{COUNTER_SLOTS, Counter};
pub use lab::{LAB_FRAME_BYTES_MAX, LabFrame};
pub use lease::{
    EPOCH_MAX, FENCED_MAX, Gate, LEASE_SLOTS, LeaseWord, PEERS_MAX, PORT_DEFAULT, PROBE_IN,
    PROBE_OUT, PROBE_PORT, Slot,
};
pub use names::{
    FENCE, FENCE_CGROUP_IN, FENCE_CGROUP_OUT, FENCE_IN, FENCE_OUT, FENCED, LAB_AGAIN, LAB_AGAIN_TC,
    LAB_FRAME, LAB_NEXT, LAB_NEXT_TC, LAB_OBJECT, LAB_PASS, LAB_PASS_CGROUP, LAB_PASS_TC, LEASES,
    LINKS, OBJECTS, PEERS, PGX_OBJECT, PGX_ROOT, PIN_BASE, PIN_VERSION, PROGRAMS, REASONS, VIP,
    VIPS,
};
pub use names::{
    REFUSE, STEER, STEER_AWAY, STEER_BUCKETS, STEER_FLOWS, STEER_HOPS, STEER_INFLOW, STEER_NOTE,
    STEER_SERVERS, STEER_SERVICES, STEER_TABLES,
};
pub use program::{PROGRAM_SLOTS, Program};
pub use reason::Reason;
pub use steer::{
    BUCKET_SLOTS, BUCKETS, BucketWord, FLOWS_MAX, FLOWS_NEW_PER_S_MAX, FlowKey, HOPS_MAX,
    HeadingNote, Inflow, SERVER_SLOTS, SERVERS_MAX, SERVICES_MAX, ServerWord, ServiceKey,
    ServiceWord, TABLES_MAX, TableWord, bucket_slot, port_bit, server_slot,
};
pub use vip::{LINKS_MAX, LinkAddress, VIPS_MAX, Vip};

/// The kernel's `XDP_DROP`: the packet goes nowhere (`enum xdp_action` in `linux/bpf.h`).
pub const XDP_DROP: u32 = 1;
/// The kernel's `XDP_TX`: the packet, as changed, leaves by the interface that it came by.
pub const XDP_TX: u32 = 3;
/// The kernel's `TC_ACT_UNSPEC`, for tcx "next": the packet goes on (`linux/pkt_cls.h`).
pub const TC_NEXT: i32 = -1;
/// The kernel's `TC_ACT_SHOT`: the packet goes nowhere.
pub const TC_SHOT: i32 = 2;
/// What a cgroup program returns to let a packet pass.
pub const CGROUP_PASS: i32 = 1;
/// What a cgroup program returns to drop a packet.
pub const CGROUP_DROP: i32 = 0;

/// The kernel's `XDP_PASS`: the packet goes on to the network stack (`enum xdp_action` in
/// `linux/bpf.h`).
pub const XDP_PASS: u32 = 2;
