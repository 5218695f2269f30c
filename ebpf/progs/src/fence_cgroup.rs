//! `pgx_fence_cin` and `pgx_fence_cout`, the fence around the sockets of PostgreSQL's cgroup.
//!
//! They see packets on every interface, loopback and those without a link header included. They
//! cannot answer, only drop: who is dropped here was let through by no other program.

use aya_ebpf::bindings::__sk_buff;
use pgx_abi::{CGROUP_DROP, CGROUP_PASS, Reason};
use pgx_rules::{Bytes as _, Direction, Fence, fence, is_socket_probe, subject};

use crate::counters::count;
use crate::maps;
use crate::skb::Skb;
use crate::walk::ip_facts;

/// One packet that a socket is to receive.
#[unsafe(export_name = pgx_abi::name!(fence_cgroup_in))]
#[unsafe(link_section = pgx_abi::name!(section cgroup_in))]
extern "C" fn fence_cgroup_in(context: *mut __sk_buff) -> i32 {
    guard(context, Direction::In)
}

/// One packet that a socket sends.
#[unsafe(export_name = pgx_abi::name!(fence_cgroup_out))]
#[unsafe(link_section = pgx_abi::name!(section cgroup_out))]
extern "C" fn fence_cgroup_out(context: *mut __sk_buff) -> i32 {
    guard(context, Direction::Out)
}

#[inline(always)]
fn guard(context: *mut __sk_buff, direction: Direction) -> i32 {
    let packet = Skb::new(context);
    let whose = subject(ip_facts(&packet), direction, maps::port());
    if matches!(direction, Direction::In) && is_socket_probe(whose) {
        count(Reason::FenceProbe, packet.size());
        return CGROUP_DROP;
    }
    let judged = fence(&packet, whose, direction, maps::gate, maps::is_peer, maps::is_fenced);
    let (reason, verdict) = match judged {
        Fence::Ignore => return CGROUP_PASS,
        Fence::Pass(reason) => (reason, CGROUP_PASS),
        Fence::Drop(reason) => (reason, CGROUP_DROP),
        // To a fenced backend. Where it leaves, its sender is told at once; from here it would wait
        // in vain. By an interface that nobody guards it goes, and what comes back is dropped.
        Fence::Refuse(_) => return CGROUP_PASS,
        Fence::Reset(_) => (Reason::FenceDropIn, CGROUP_DROP),
    };
    count(reason, packet.size());
    verdict
}
