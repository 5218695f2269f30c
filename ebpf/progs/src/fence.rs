//! `pgx_fence`, the XDP program that guards PostgreSQL's port.
//!
//! Called by the root program. What comes while the gate is shut is answered here, before the
//! network stack has seen it.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_tail;
use pgx_abi::{Program, Reason, XDP_DROP, XDP_PASS, XDP_TX};
use pgx_rules::{
    Bytes as _, Direction, Facts, Fence, Flaw, Reset, Segment, Transport, fence, reset, subject,
};

use crate::counters::count;
use crate::frame::Frame;
use crate::maps;
use crate::walk::frame_facts;

/// Context → facts → verdict for one packet that comes in.
#[unsafe(export_name = pgx_abi::name!(fence))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn fence_xdp(context: *mut xdp_md) -> u32 {
    let (frame, found) = frame_facts(context);
    let whose = subject(found, Direction::In, maps::port());
    let judged = fence(&frame, whose, Direction::In, maps::gate, maps::is_peer, maps::is_fenced);
    match judged {
        Fence::Ignore => go_on(context, found),
        Fence::Pass(reason) => {
            count(reason, frame.size());
            go_on(context, found)
        }
        Fence::Drop(reason) => {
            count(reason, frame.size());
            XDP_DROP
        }
        // What comes in is from a backend, and has been dropped.
        Fence::Refuse(_) => XDP_DROP,
        Fence::Reset(segment) => {
            // Another host may be meant, and this one only be asked first. It never comes in here.
            maps::go_to(context, Program::SteerAway);
            count(Reason::FenceReset, frame.size());
            answer(context, &frame, &segment)
        }
    }
}

/// To the next program that has to do with such packets, or on to the stack. A segment asks for no
/// address, and most are to ports that are not steered.
#[inline(always)]
fn go_on(context: *mut xdp_md, found: Result<Facts, Flaw>) -> u32 {
    match found {
        Ok(Facts::Ipv4(Transport::Tcp(segment)) | Facts::Ipv6(Transport::Tcp(segment))) => {
            if !maps::may_be_steered(segment.ports.destination) {
                return XDP_PASS;
            }
        }
        _ => maps::go_to(context, Program::Vip),
    }
    maps::go_to(context, Program::Steer);
    XDP_PASS
}

/// Answers a segment with a reset.
#[inline(always)]
pub(crate) fn answer(context: *mut xdp_md, frame: &Frame, segment: &Segment) -> u32 {
    match reset(frame, segment) {
        Some(Reset::Ipv4(bytes)) => send_back(context, frame, segment.ip, &bytes),
        Some(Reset::Ipv6(bytes)) => send_back(context, frame, segment.ip, &bytes),
        None => XDP_DROP,
    }
}

/// Makes the frame end behind `bytes`, puts them behind its link header and sends it back.
#[inline(always)]
fn send_back<const N: usize>(
    context: *mut xdp_md,
    frame: &Frame,
    ip: usize,
    bytes: &[u8; N],
) -> u32 {
    let Ok(shrink) = i32::try_from(frame.size() - (ip + N)) else { return XDP_DROP };
    // SAFETY: the context is the kernel's. All pointers into the packet are void from here on, and
    // none of them is used again.
    if unsafe { bpf_xdp_adjust_tail(context, -shrink) } != 0 {
        return XDP_DROP;
    }
    let frame = Frame::new(context);
    let done = frame.exchange_link_addresses().and_then(|()| frame.put(ip, bytes));
    if done.is_some() { XDP_TX } else { XDP_DROP }
}
