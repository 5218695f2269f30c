//! The walk through a packet's headers, as functions that programs call.
//!
//! Everything else here is inlined. These are not: the verifier follows a global function once, by
//! itself, and takes a call of it for a step that gives an unknown number. Inlined, each of the
//! hundreds of ways through the headers would be followed to the end of the program. For the same
//! reason the offset of the IP header, of which there are few, comes as an argument.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use pgx_rules::{
    Bytes, Facts, Family, Flaw, Kind, Link, Packed, PackedHeading, family, heading_into, link,
    network,
};

use crate::frame::Frame;
use crate::skb::{Linear, Paged, Skb};
use crate::steer_maps::Keys;

/// The frame of an XDP program, and what it is.
#[inline(always)]
pub(crate) fn frame_facts(context: *mut xdp_md) -> (Frame, Result<Facts, Flaw>) {
    let found = behind(link(&Frame::new(context)), |place| walk_frame(context, place));
    // Its bounds anew: the verifier forgets them over a call.
    let frame = Frame::new(context);
    let facts = found.facts(&frame);
    (frame, facts)
}

/// A packet of a flow, as far as steering needs to know it.
pub(crate) struct Place {
    /// All of this in a word.
    pub(crate) packed: u64,
    /// Its keys.
    pub(crate) keys: Keys,
    /// What it is to its flow.
    pub(crate) kind: Kind,
    /// Offset of its IP header.
    pub(crate) ip: usize,
}

/// The frame of an XDP program, and where it is heading; `None` if that is no business of steering.
#[inline(always)]
pub(crate) fn frame_heading(context: *mut xdp_md) -> Option<(Frame, Place)> {
    let Ok(Link::Ip(family, at)) = link(&Frame::new(context)) else { return None };
    Place::of(context, walk_heading(context, place(family, at)))
}

impl Place {
    /// As [`walk_heading`] has packed it, and the frame.
    #[inline(always)]
    pub(crate) fn of(context: *mut xdp_md, packed: u64) -> Option<(Frame, Self)> {
        let keys = Keys::new()?;
        let (kind, ip) = PackedHeading(packed).of_flow(keys.flow())?;
        Some((Frame::new(context), Self { packed, keys, kind, ip }))
    }
}

/// What the packet of a program in traffic control is.
#[inline(always)]
pub(crate) fn skb_facts(packet: &Skb) -> Result<Facts, Flaw> {
    let context = packet.context();
    behind(link(packet), |place| walk_skb(context, place)).facts(packet)
}

/// What the packet of a cgroup's program is, which starts with its IP header.
#[inline(always)]
pub(crate) fn ip_facts(packet: &Skb) -> Result<Facts, Flaw> {
    let context = packet.context();
    let start = family(packet).map(|family| Link::Ip(family, 0));
    behind(start, |place| walk_skb(context, place)).facts(packet)
}

#[inline(always)]
fn behind(start: Result<Link, Flaw>, walk: impl FnOnce(u64) -> u64) -> Packed {
    match start {
        Ok(Link::Ip(family, at)) => Packed(walk(place(family, at))),
        Ok(Link::Arp) => Packed::of(Ok(Facts::Arp)),
        Ok(Link::Tagged) => Packed::of(Ok(Facts::Tagged)),
        Ok(Link::Other) => Packed::of(Ok(Facts::Other)),
        Err(flaw) => Packed::of(Err(flaw)),
    }
}

// Where an IP header is, in one number: its offset, which six bits hold, and its version.
const AT_MASK: u64 = 0x3f;
const V6: u64 = 0x40;

#[inline(always)]
fn place(family: Family, at: usize) -> u64 {
    let version = if matches!(family, Family::V6) { V6 } else { 0 };
    at as u64 & AT_MASK | version
}

#[inline(always)]
fn walk(packet: &impl Bytes, place: u64) -> u64 {
    let family = if place & V6 == 0 { Family::V4 } else { Family::V6 };
    Packed::of(network(packet, family, (place & AT_MASK) as usize)).0
}

#[unsafe(export_name = pgx_abi::name!(walk_frame))]
#[inline(never)]
extern "C" fn walk_frame(context: *mut xdp_md, place: u64) -> u64 {
    walk(&Frame::new(context), place)
}

/// It leaves the keys in their place.
#[unsafe(export_name = pgx_abi::name!(walk_heading))]
#[inline(never)]
extern "C" fn walk_heading(context: *mut xdp_md, place: u64) -> u64 {
    let Some(keys) = Keys::new() else { return PackedHeading::of(None).0 };
    let found = Packed(walk_frame(context, place));
    let frame = Frame::new(context);
    PackedHeading::of(keys.write(|flow| heading_into(&frame, found.facts(&frame), flow))).0
}

/// Nearly always all headers are in the linear part, which is read at once. Where they are not, the
/// kernel is asked for each field.
#[unsafe(export_name = pgx_abi::name!(walk_skb))]
#[inline(never)]
extern "C" fn walk_skb(context: *mut __sk_buff, place: u64) -> u64 {
    let found = walk(&Linear::new(context), place);
    if found == Packed::of(Err(Flaw::Truncated)).0 { walk_paged(context, place) } else { found }
}

#[unsafe(export_name = pgx_abi::name!(walk_paged))]
#[inline(never)]
extern "C" fn walk_paged(context: *mut __sk_buff, place: u64) -> u64 {
    walk(&Paged::new(context), place)
}
