//! `pgx_fence_in` and `pgx_fence_out`, the fence in the traffic-control hooks (tcx).
//!
//! Out guards what leaves by any interface, loopback included; in guards loopback and interfaces
//! where XDP is not to be had.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_redirect, bpf_skb_change_tail};
use pgx_abi::{Reason, TC_NEXT, TC_SHOT};
use pgx_rules::{
    Bytes as _, Direction, Facts, Fence, Packed, Transport, fence, reset_v4, reset_v6, subject,
};

use crate::counters::count;
use crate::maps;
use crate::skb::Skb;
use crate::walk::skb_facts;

/// One packet that comes in.
#[unsafe(export_name = pgx_abi::name!(fence_in))]
#[unsafe(link_section = pgx_abi::name!(section classifier))]
extern "C" fn fence_in(context: *mut __sk_buff) -> i32 {
    guard(context, Direction::In)
}

/// One packet that leaves.
#[unsafe(export_name = pgx_abi::name!(fence_out))]
#[unsafe(link_section = pgx_abi::name!(section classifier))]
extern "C" fn fence_out(context: *mut __sk_buff) -> i32 {
    guard(context, Direction::Out)
}

#[inline(always)]
fn guard(context: *mut __sk_buff, direction: Direction) -> i32 {
    let packet = Skb::new(context);
    let whose = subject(skb_facts(&packet), direction, maps::port());
    let judged = fence(&packet, whose, direction, maps::gate, maps::is_peer, maps::is_fenced);
    match judged {
        Fence::Ignore => TC_NEXT,
        Fence::Pass(reason) => {
            count(reason, packet.size());
            TC_NEXT
        }
        Fence::Drop(reason) => {
            count(reason, packet.size());
            TC_SHOT
        }
        Fence::Reset(_) => {
            count(Reason::FenceReset, packet.size());
            answer(context, OUT_AGAIN)
        }
        Fence::Refuse(_) => {
            count(Reason::FencedReset, packet.size());
            answer(context, IN)
        }
    }
}

/// Sent out of the interface: on loopback that is the way back to its sender.
const OUT_AGAIN: u64 = 0;
/// `BPF_F_INGRESS`: as if the interface had received it; its sender is this host.
const IN: u64 = 1;

/// Functions of their own, because the answers take much of the stack. Who is answered waits for
/// nothing else, so the headers may be walked once more.
#[unsafe(export_name = pgx_abi::name!(answer))]
#[inline(never)]
extern "C" fn answer(context: *mut __sk_buff, way: u64) -> i32 {
    match skb_facts(&Skb::new(context)) {
        Ok(Facts::Ipv4(Transport::Tcp(segment))) => {
            answer_v4(context, Packed::of_segment(&segment).0, way)
        }
        Ok(Facts::Ipv6(Transport::Tcp(segment))) => {
            answer_v6(context, Packed::of_segment(&segment).0, way)
        }
        _ => TC_SHOT,
    }
}

#[unsafe(export_name = pgx_abi::name!(answer_v4))]
#[inline(never)]
extern "C" fn answer_v4(context: *mut __sk_buff, segment: u64, way: u64) -> i32 {
    let packet = Skb::new(context);
    let asked = Packed(segment).segment(&packet);
    match asked.and_then(|asked| Some((asked.ip, reset_v4(&packet, &asked)?))) {
        Some((ip, bytes)) => send_back(&packet, ip, &bytes, way),
        None => TC_SHOT,
    }
}

#[unsafe(export_name = pgx_abi::name!(answer_v6))]
#[inline(never)]
extern "C" fn answer_v6(context: *mut __sk_buff, segment: u64, way: u64) -> i32 {
    let packet = Skb::new(context);
    let asked = Packed(segment).segment(&packet);
    match asked.and_then(|asked| Some((asked.ip, reset_v6(&packet, &asked)?))) {
        Some((ip, bytes)) => send_back(&packet, ip, &bytes, way),
        None => TC_SHOT,
    }
}

/// Makes the packet end behind `bytes`, puts them behind its link header and sends it that way
/// by the interface that it came by.
#[inline(always)]
fn send_back<const N: usize>(packet: &Skb, ip: usize, bytes: &[u8; N], way: u64) -> i32 {
    let Ok(length) = u32::try_from(ip + N) else { return TC_SHOT };
    // SAFETY: the context is the kernel's, and no pointer into the packet is kept.
    if unsafe { bpf_skb_change_tail(packet.context(), length, 0) } != 0 {
        return TC_SHOT;
    }
    let done = packet.exchange_link_addresses().and_then(|()| packet.put(ip, bytes));
    if done.is_none() {
        return TC_SHOT;
    }
    // SAFETY: it reads the interface of the context that the kernel gave us.
    let action = unsafe { bpf_redirect(packet.interface(), way) };
    i32::try_from(action).unwrap_or(TC_SHOT)
}
