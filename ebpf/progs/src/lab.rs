//! The object `lab`: what test hosts attach and the product never does.
//!
//! A frame that native XDP sends back out of a veth (`XDP_TX`) is lost without a trace unless the
//! peer has an XDP program too. `lab_pass` is that program.

#![no_std]
#![no_main]

mod object;

use aya_ebpf::bindings::xdp_md;

/// Passes every packet.
#[unsafe(export_name = pgx_abi::name!(lab_pass))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn lab_pass(_context: *mut xdp_md) -> u32 {
    pgx_abi::XDP_PASS
}
