//! The object `lab`: what test hosts attach and the product never does.
//!
//! A frame that native XDP sends back out of a veth (`XDP_TX`) is lost without a trace unless the
//! peer has an XDP program too. `lab_pass` is that program. The others are for measuring: what an
//! empty program costs, and one that rewrites its packets.

#![no_std]
#![no_main]

mod object;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_skb_change_tail, bpf_skb_store_bytes, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
    bpf_xdp_store_bytes,
};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::ffi::c_void;
use pgx_abi::{CGROUP_PASS, LAB_FRAME_BYTES_MAX, LabFrame, TC_NEXT, TC_SHOT, XDP_DROP};

#[unsafe(export_name = pgx_abi::name!(lab_frame))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static FRAME: Array<LabFrame> = Array::with_max_entries(1, 0);

#[unsafe(export_name = pgx_abi::name!(lab_next))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[unsafe(export_name = pgx_abi::name!(lab_next_tc))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static NEXT_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Passes every packet.
#[unsafe(export_name = pgx_abi::name!(lab_pass))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn lab_pass(_context: *mut xdp_md) -> u32 {
    pgx_abi::XDP_PASS
}

/// Passes every packet.
#[unsafe(export_name = pgx_abi::name!(lab_pass_tc))]
#[unsafe(link_section = pgx_abi::name!(section classifier))]
extern "C" fn lab_pass_tc(_context: *mut __sk_buff) -> i32 {
    TC_NEXT
}

/// Passes every packet.
#[unsafe(export_name = pgx_abi::name!(lab_pass_cgroup))]
#[unsafe(link_section = pgx_abi::name!(section cgroup_in))]
extern "C" fn lab_pass_cgroup(_context: *mut __sk_buff) -> i32 {
    CGROUP_PASS
}

/// Makes the packet what it was, and goes on.
#[unsafe(export_name = pgx_abi::name!(lab_again))]
#[unsafe(link_section = pgx_abi::name!(section xdp))]
extern "C" fn lab_again(context: *mut xdp_md) -> u32 {
    let Some((length, bytes)) = frame() else { return XDP_DROP };
    // SAFETY: the context is the kernel's, and `bytes` points to so many readable ones.
    unsafe {
        let now = bpf_xdp_get_buff_len(context) as u32;
        if bpf_xdp_adjust_tail(context, length.cast_signed() - now.cast_signed()) != 0
            || bpf_xdp_store_bytes(context, 0, bytes, length) != 0
        {
            return XDP_DROP;
        }
        let _ = NEXT.tail_call(&XdpContext::new(context), 0);
    }
    XDP_DROP
}

/// Makes the packet what it was, and goes on.
#[unsafe(export_name = pgx_abi::name!(lab_again_tc))]
#[unsafe(link_section = pgx_abi::name!(section classifier))]
extern "C" fn lab_again_tc(context: *mut __sk_buff) -> i32 {
    let Some((length, bytes)) = frame() else { return TC_SHOT };
    // SAFETY: as above.
    unsafe {
        if bpf_skb_change_tail(context, length, 0) != 0
            || bpf_skb_store_bytes(context, 0, bytes, length, 0) != 0
        {
            return TC_SHOT;
        }
        let _ = NEXT_TC.tail_call(&TcContext::new(context), 0);
    }
    TC_SHOT
}

#[inline(always)]
fn frame() -> Option<(u32, *mut c_void)> {
    let frame = FRAME.get_ptr_mut(0)?;
    // SAFETY: the kernel gave us the address of a slot, which holds a frame for as long as the map
    // exists; nobody writes it while packets run.
    let (length, bytes) = unsafe { ((*frame).length, (&raw mut (*frame).bytes).cast()) };
    // In a form from which the verifier learns the bounds.
    let length = length & LAB_FRAME_BYTES_MAX as u32;
    (length != 0).then_some((length, bytes))
}
