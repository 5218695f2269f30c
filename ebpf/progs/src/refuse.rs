//! `pgx_refuse`, the XDP program that answers a segment with a reset.
//!
//! Steering goes on to it when a flow must end. A program of its own, because both have much on the
//! stack, of which a program has 512 bytes. The reason is counted by whoever calls it.

use aya_ebpf::bindings::xdp_md;
use pgx_abi::XDP_DROP;
use pgx_rules::{Facts, Transport};

use crate::fence::answer;
use crate::walk::frame_facts;

/// Context → facts → verdict for one packet that is refused.
#[unsafe(export_name = pgx_abi::name!(refuse))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn refuse(context: *mut xdp_md) -> u32 {
    let (frame, found) = frame_facts(context);
    match found {
        Ok(Facts::Ipv4(Transport::Tcp(segment)) | Facts::Ipv6(Transport::Tcp(segment))) => {
            answer(context, &frame, &segment)
        }
        _ => XDP_DROP,
    }
}
