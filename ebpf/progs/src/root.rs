//! `pgx_root`, the XDP program that sees every packet first.
//!
//! It classifies and counts, then hands the packet to the fence, that one what asks for an address
//! to the VIP's program, and both the rest to steering. Each stands in the program array, where it
//! can be replaced without a gap; an empty place is passed over.

use aya_ebpf::bindings::xdp_md;
use pgx_abi::Program;
use pgx_rules::{Bytes as _, Verdict, decide};

use crate::{counters::count, maps::go_to, walk::frame_facts};

/// Context → facts → verdict for one packet.
#[unsafe(export_name = pgx_abi::name!(pgx_root))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn root(context: *mut xdp_md) -> u32 {
    let (frame, found) = frame_facts(context);
    match decide(found) {
        Verdict::Pass(reason) => {
            count(reason, frame.size());
            go_to(context, Program::Fence);
            go_to(context, Program::Vip);
            go_to(context, Program::Steer);
            pgx_abi::XDP_PASS
        }
    }
}
