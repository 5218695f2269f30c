//! `pgx_vip`, the XDP program that answers for virtual addresses.
//!
//! Called by the fence, or by the root program where there is none. It answers while this host has
//! the address's lease and stops by the kernel's clock; the network stack never hears the question.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_tail;
use pgx_abi::{Program, Reason, XDP_DROP, XDP_PASS, XDP_TX};
use pgx_rules::{Bytes as _, Question, advertisement, arp_answer, question};

use crate::counters::count;
use crate::frame::Frame;
use crate::maps::{self, Holding};

/// Context → facts → verdict for one packet that comes in.
#[unsafe(export_name = pgx_abi::name!(vip))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn vip(context: *mut xdp_md) -> u32 {
    let frame = Frame::new(context);
    let Some(asked) = question(&frame) else {
        maps::go_to(context, Program::Steer);
        return XDP_PASS;
    };
    let (reason, own) = match maps::holding(&asked.target()) {
        Holding::NotOurs => return XDP_PASS,
        // The address stands on this host's loopback, so the stack might answer for it.
        Holding::Elsewhere => (Reason::VipNotHeld, None),
        Holding::Here => (Reason::VipAnswered, maps::link_address(context)),
    };
    count(reason, frame.size());
    let Some(own) = own else { return XDP_DROP };
    match asked {
        Question::Arp { target, asker, link } => {
            send(context, &frame, &arp_answer(target, asker, link, own))
        }
        Question::Solicitation { target, asker, link } => {
            send(context, &frame, &advertisement(target, asker, link, own))
        }
    }
}

/// Makes the frame these bytes, whatever its length was, and sends it back.
#[inline(always)]
fn send<const N: usize>(context: *mut xdp_md, frame: &Frame, bytes: &[u8; N]) -> u32 {
    let (Ok(wanted), Ok(found)) = (i32::try_from(N), i32::try_from(frame.size())) else {
        return XDP_DROP;
    };
    // SAFETY: the context is the kernel's. All pointers into the packet are void from here on, and
    // none of them is used again.
    if unsafe { bpf_xdp_adjust_tail(context, wanted - found) } != 0 {
        return XDP_DROP;
    }
    match Frame::new(context).put(0, bytes) {
        Some(()) => XDP_TX,
        None => XDP_DROP,
    }
}
