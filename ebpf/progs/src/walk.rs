//! The walk through a packet's headers, so that the verifier follows each part of it once.
//!
//! Everything is inlined, because a call with its return takes as long as reading the headers of a
//! usual packet. So the verifier would follow each of the hundreds of ways through the headers to
//! the end of the program. What a part has found is therefore packed into one word of which the
//! verifier then knows nothing any more ([`forget`]): all ways look alike from there.

use core::ptr;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use pgx_rules::{
    Bytes, Facts, Family, Flaw, Kind, Link, Packed, PackedHeading, Transport, UNTAGGED, family,
    heading_into, link, network, plain,
};

use crate::frame::Frame;
use crate::maps::may_be_steered;
use crate::skb::{Linear, Paged, Skb};
use crate::steer_maps::Keys;

/// The frame of an XDP program, and what it is.
#[inline(always)]
pub(crate) fn frame_facts(context: *mut xdp_md) -> (Frame, Result<Facts, Flaw>) {
    let first = Frame::new(context);
    let start = link(&first);
    let found = match plain_of(&first, start) {
        Some(facts) => Ok(facts),
        None => {
            let forget = |word| forget(word, || queue(context));
            let found = behind(start, forget, |place| walk(&Frame::new(context), place));
            found.facts(&Frame::new(context))
        }
    };
    // Its bounds anew, for the same reason.
    (Frame::new(context), found)
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
    let (frame, found) = frame_facts(context);
    if let Ok(Facts::Ipv4(Transport::Tcp(segment)) | Facts::Ipv6(Transport::Tcp(segment))) = found
        && !may_be_steered(segment.ports.destination)
    {
        return None;
    }
    let (kind, ip) = Keys::new()?.write(|flow| heading_into(&frame, found, flow))?;
    Place::of(context, forget(PackedHeading::of(kind, ip).0, || queue(context)))
}

impl Place {
    /// As it was packed, and the frame.
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
    skb(packet, link(packet))
}

/// What the packet of a cgroup's program is, which starts with its IP header.
#[inline(always)]
pub(crate) fn ip_facts(packet: &Skb) -> Result<Facts, Flaw> {
    skb(packet, family(packet).map(|family| Link::Ip(family, 0)))
}

/// Nearly always all headers are in the linear part. Where they are not, the kernel is asked for
/// each field.
#[inline(always)]
fn skb(packet: &Skb, start: Result<Link, Flaw>) -> Result<Facts, Flaw> {
    let context = packet.context();
    if let Some(facts) = plain_of(&Linear::new(context), start) {
        return Ok(facts);
    }
    let forget = |word| forget(word, || length(context));
    let walk = |place| match walk(&Linear::new(context), place) {
        CUT => walk_paged(context, place),
        found => found,
    };
    behind(start, forget, walk).facts(packet)
}

/// Packets of the usual kind are seen to first: the rest takes ten nanoseconds more.
#[inline(always)]
fn plain_of(packet: &impl Bytes, start: Result<Link, Flaw>) -> Option<Facts> {
    match start {
        Ok(Link::Ip(family, at @ (0 | UNTAGGED))) => plain(packet, family, at),
        _ => None,
    }
}

/// [`Flaw::Truncated`], packed: a header ends early, or lies outside of what can be read at once.
const CUT: u64 = 0;

#[inline(always)]
fn behind(
    start: Result<Link, Flaw>,
    forget: impl Fn(u64) -> u64,
    walk: impl FnOnce(u64) -> u64,
) -> Packed {
    let found = match start {
        Ok(Link::Ip(family, at)) => walk(forget(place(family, at))),
        Ok(Link::Arp) => Packed::of(Ok(Facts::Arp)).0,
        Ok(Link::Tagged) => Packed::of(Ok(Facts::Tagged)).0,
        Ok(Link::Other) => Packed::of(Ok(Facts::Other)).0,
        Err(flaw) => Packed::of(Err(flaw)).0,
    };
    Packed(forget(found))
}

// Where an IP header is, in one word: its offset, which six bits hold, and its version.
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

#[unsafe(export_name = pgx_abi::name!(walk_paged))]
#[inline(never)]
extern "C" fn walk_paged(context: *mut __sk_buff, place: u64) -> u64 {
    walk(&Paged::new(context), place)
}

/// The word, of which neither compiler nor verifier knows anything any more: it is mixed with
/// something unknown, and that is taken out again. `unknown` is read twice, from where nobody
/// writes meanwhile.
///
/// Not by way of a map: a cgroup's program may be interrupted by another packet's.
#[inline(always)]
fn forget(word: u64, unknown: impl Fn() -> u32) -> u64 {
    let wide = || {
        let unknown = u64::from(unknown());
        unknown << 32 | unknown
    };
    word ^ wide() ^ wide()
}

/// The length of a packet. The first field, because the compiler computes the address of another
/// one in advance, and the verifier does not let a context's address be changed.
#[inline(always)]
fn length(context: *mut __sk_buff) -> u32 {
    // SAFETY: the kernel gave us the context, which lives as long as the program runs.
    unsafe { ptr::read_volatile(&raw const (*context).len) }
}

/// The number of the queue that a frame came by.
#[inline(always)]
fn queue(context: *mut xdp_md) -> u32 {
    // SAFETY: the kernel gave us the context, which lives as long as the program runs.
    unsafe { ptr::read_volatile(&raw const (*context).rx_queue_index) }
}
