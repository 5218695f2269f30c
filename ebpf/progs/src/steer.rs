//! `pgx_steer`, the XDP program that sends flows to virtual addresses where they belong, and
//! `pgx_steer_away`, the same for packets that must not stay.
//!
//! The last of the chain. The second one is for what the fence would answer with a reset: a packet
//! to PostgreSQL's port, which here is shut, may be meant for another host. It lets nothing pass.

use core::cmp::Ordering;

use aya_ebpf::bindings::xdp_md;
use pgx_abi::{FlowKey, Gate, Program, Reason, ServiceWord, XDP_DROP, XDP_PASS, XDP_TX};
use pgx_rules::{
    Bytes as _, Hops, Kind, Limit, Mac, Steer, direct, hop_limit, set_hop_limit, steer,
};

use crate::counters::count;
use crate::frame::Frame;
use crate::maps;
use crate::steer_maps::{self, Row};
use crate::walk::{Place, frame_heading};

/// Context → facts → verdict for one packet that may stay.
#[unsafe(export_name = pgx_abi::name!(steer))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn steer_xdp(context: *mut xdp_md) -> u32 {
    handle(context, |_| true).unwrap_or(XDP_PASS)
}

/// Context → facts → verdict for one packet that may not.
#[unsafe(export_name = pgx_abi::name!(steer_away))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn steer_away(context: *mut xdp_md) -> u32 {
    match handle(context, ServiceWord::is_direct) {
        Some(XDP_TX) => XDP_TX,
        Some(_) => XDP_DROP,
        None => {
            count(Reason::FenceReset, Frame::new(context).size());
            maps::go_to(context, Program::Refuse);
            XDP_DROP
        }
    }
}

/// `None` for what steering has no opinion on.
#[inline(always)]
fn handle(context: *mut xdp_md, is_ours: impl FnOnce(ServiceWord) -> bool) -> Option<u32> {
    let (frame, place) = frame_heading(context)?;
    let service = steer_maps::service(&place.keys).filter(|one| is_ours(*one))?;
    let own = maps::link_address(context)?;
    // A frame for somebody else, seen by an interface that listens to all of them.
    let [to, from]: [Mac; 2] = split(frame.array(0)?);
    if to != own {
        return None;
    }
    let limit = hop_limit(&frame, place.ip)?;
    let hops = Hops::of(limit, steer_maps::is_hop(from));
    let judged = judge(context, &frame, &place, service, hops);
    Some(act(context, &frame, &place, own, judged))
}

#[inline(always)]
fn judge(
    context: *mut xdp_md,
    frame: &Frame,
    place: &Place,
    service: ServiceWord,
    hops: Hops,
) -> Steer {
    let (choice, epoch) = match steer_maps::row(service, &place.keys) {
        Row::Choice(choice, epoch) => (choice, epoch),
        Row::Torn => return Steer::Drop(Reason::SteerTorn),
    };
    let has_socket = || steer_maps::has_socket(context, place);
    if !service.is_direct() {
        return steer(place.kind, hops, choice, has_socket);
    }
    let begun = steer_maps::begun(place.keys.flow(), epoch);
    let is_open = || maps::gate() == Gate::Open;
    let judged = direct(place.kind, hops, choice.owner, begun, is_open, has_socket);
    let goes_on = matches!(judged, Steer::Pass(_) | Steer::Send { .. });
    if goes_on && matches!(place.kind, Kind::Opening(_)) {
        note(frame, place.keys.flow(), begun, epoch);
    }
    judged
}

/// Remembers in which epoch a flow begins.
#[inline(always)]
fn note(frame: &Frame, flow: &FlowKey, begun: Option<Ordering>, epoch: u32) {
    if !steer_maps::begin(flow, begun, epoch) {
        count(Reason::SteerFlood, frame.size());
    }
}

#[inline(always)]
fn act(context: *mut xdp_md, frame: &Frame, place: &Place, own: Mac, judged: Steer) -> u32 {
    match judged {
        Steer::Pass(reason) => {
            count(reason, frame.size());
            XDP_PASS
        }
        Steer::Drop(reason) => {
            count(reason, frame.size());
            XDP_DROP
        }
        Steer::Reset(reason) => {
            count(reason, frame.size());
            maps::go_to(context, Program::Refuse);
            XDP_DROP
        }
        Steer::Send { to, limit, reason } => {
            count(reason, frame.size());
            match send(&Frame::new(context), place.ip, to, own, limit) {
                Some(()) => XDP_TX,
                None => XDP_DROP,
            }
        }
    }
}

/// Gives the frame its new link addresses and hop limit.
#[inline(always)]
fn send(frame: &Frame, ip: usize, to: Mac, own: Mac, limit: u8) -> Option<()> {
    match set_hop_limit(frame, ip, limit)? {
        Limit::Ipv4(at, bytes) => frame.put(at, &bytes)?,
        Limit::Ipv6(at, bytes) => frame.put(at, &bytes)?,
    }
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (to, own);
    frame.put(0, &[a, b, c, d, e, f, g, h, i, j, k, l])
}

#[inline(always)]
fn split([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]) -> [Mac; 2] {
    [[a, b, c, d, e, f], [g, h, i, j, k, l]]
}
