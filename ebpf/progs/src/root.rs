//! `pgx_root`, the XDP program that sees every packet first.
//!
//! It classifies, counts and passes. Rules that need a program of their own (the fence, the VIP,
//! steering) are reached from here, after the verdict and before the pass.

use aya_ebpf::bindings::xdp_md;
use pgx_rules::{Bytes as _, Verdict, decide, facts};

use crate::{counters::count, frame::Frame};

/// Context → facts → verdict for one packet.
#[unsafe(export_name = pgx_abi::name!(pgx_root))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn root(context: *mut xdp_md) -> u32 {
    let frame = Frame::new(context);
    match decide(facts(&frame)) {
        Verdict::Pass(reason) => {
            count(reason, frame.size());
            pgx_abi::XDP_PASS
        }
    }
}
