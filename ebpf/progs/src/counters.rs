//! The counters: one slot per reason and CPU.

use aya_ebpf::maps::PerCpuArray;
use pgx_abi::{COUNTER_SLOTS, Counter, Reason};

#[unsafe(export_name = pgx_abi::name!(reasons))]
#[unsafe(link_section = pgx_abi::name!(section maps))]
static REASONS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);

/// Counts one packet of `bytes` bytes for `reason`.
#[inline(always)]
pub(crate) fn count(reason: Reason, bytes: usize) {
    let Some(slot) = REASONS.get_ptr_mut(reason.index()) else {
        return;
    };
    // SAFETY: the kernel gave us this CPU's slot of the map, which holds a `Counter` for as long
    // as the map exists. XDP runs to its end on one CPU with softirqs off, so nobody else writes
    // the slot meanwhile; user space only reads it.
    unsafe {
        (*slot).packets += 1;
        (*slot).bytes += bytes as u64;
    }
}
