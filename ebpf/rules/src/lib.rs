//! What becomes of a packet: bytes → facts → verdict, without I/O, state or unsafe code.
//!
//! The same code runs in the kernel, over the bounds-checked accessor of `ebpf/progs`, and in the
//! tests below it, over a slice. It must not know BPF: no maps, no helpers, no contexts. Start at
//! [`facts()`], then [`decide`]; the fence
//! is [`subject`], then [`fence()`], then [`reset()`]; steering is [`heading()`], then [`hash`],
//! then [`steer()`] or [`direct`]; the reasons themselves are in `ebpf/abi`.

#![no_std]
#![forbid(unsafe_code)]

mod bytes;
mod facts;
mod fence;
mod heading;
mod limits;
mod neighbour;
mod packed;
mod reset;
mod steer;
mod verdict;

pub use bytes::Bytes;
pub use facts::{
    Facts, Family, Flaw, Link, Ports, Segment, Transport, UNTAGGED, facts, facts_of_ip, family,
    link, network, plain,
};
pub use fence::{Address, Direction, Fence, Lease, Subject, fence, is_socket_probe, subject};
pub use heading::{Heading, Kind, hash, hash_of, heading, heading_into};
pub use limits::{EXTENSION_HEADERS_MAX, VLAN_TAGS_MAX};
pub use neighbour::{
    ADVERTISEMENT_FRAME, ARP_FRAME, Mac, Question, advertisement, arp_answer, question,
};
pub use packed::{Packed, PackedHeading};
pub use reset::{RESET_IPV4, RESET_IPV6, Reset, reset, reset_v4, reset_v6};
pub use steer::{Choice, Hops, Limit, Server, Steer, direct, hop_limit, set_hop_limit, steer};
pub use verdict::{Verdict, decide};
