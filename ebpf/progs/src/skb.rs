//! The accessors for packets that the network stack has made. What lies in the linear part, as
//! headers nearly always do, is read there; for the rest the kernel is asked, which costs more than
//! all other reads of a packet together.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes};
use core::ffi::c_void;
use core::ptr;
use pgx_rules::Bytes;

/// Bytes of two link addresses.
const ADDRESSES: usize = 12;

/// The packet that a program was started for.
pub(crate) struct Skb {
    context: *mut __sk_buff,
}

impl Skb {
    /// The packet of the context that the kernel handed to the program.
    #[inline(always)]
    pub(crate) fn new(context: *mut __sk_buff) -> Self {
        Self { context }
    }

    /// The context.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut __sk_buff {
        self.context
    }

    /// The interface that it is on.
    #[inline(always)]
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: the kernel gave us the context, which lives as long as the program runs.
        unsafe { (*self.context).ifindex }
    }

    /// Writes bytes at an offset.
    #[inline(always)]
    pub(crate) fn put<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        let (offset, length) = (u32::try_from(offset).ok()?, u32::try_from(N).ok()?);
        let from = bytes.as_ptr().cast::<c_void>();
        // SAFETY: `from` points to N readable bytes; the kernel checks the offset.
        let failed = unsafe { bpf_skb_store_bytes(self.context, offset, from, length, 0) };
        (failed == 0).then_some(())
    }

    /// Lets the packet go back to who sent it.
    #[inline(always)]
    pub(crate) fn exchange_link_addresses(&self) -> Option<()> {
        let old: [u8; ADDRESSES] = self.array(0)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = old;
        self.put(0, &[g, h, i, j, k, l, a, b, c, d, e, f])
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn size(&self) -> usize {
        size(self.context)
    }

    #[inline(always)]
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        Linear::new(self.context).array(offset).or_else(|| Paged::new(self.context).array(offset))
    }
}

/// A packet of which only the linear part is read.
pub(crate) struct Linear {
    start: usize,
    end: usize,
    size: usize,
}

impl Linear {
    /// That of the packet in hand.
    #[inline(always)]
    pub(crate) fn new(context: *mut __sk_buff) -> Self {
        // SAFETY: the kernel gave us the context, which lives as long as the program runs. Volatile
        // for the reason that `Frame::new` has.
        let (start, end) = unsafe {
            let start = ptr::read_volatile(&raw const (*context).data);
            (start, ptr::read_volatile(&raw const (*context).data_end))
        };
        Self { start: start as usize, end: end as usize, size: size(context) }
    }
}

impl Bytes for Linear {
    #[inline(always)]
    fn size(&self) -> usize {
        self.size
    }

    #[inline(always)]
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let from = self.start + offset;
        if from + N > self.end {
            return None;
        }
        // SAFETY: `start` and `end` are the kernel's bounds of the linear part, and the comparison
        // above keeps all N bytes below `end`. The verifier proves the same, and lets no pointer
        // live on over a helper that might move the packet. Bytes need no alignment.
        Some(unsafe { *(from as *const [u8; N]) })
    }
}

/// A packet of which the kernel is asked for each field.
pub(crate) struct Paged {
    context: *mut __sk_buff,
}

impl Paged {
    /// That in hand.
    #[inline(always)]
    pub(crate) fn new(context: *mut __sk_buff) -> Self {
        Self { context }
    }
}

impl Bytes for Paged {
    #[inline(always)]
    fn size(&self) -> usize {
        size(self.context)
    }

    #[inline(always)]
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0_u8; N];
        let (offset, length) = (u32::try_from(offset).ok()?, u32::try_from(N).ok()?);
        let to = bytes.as_mut_ptr().cast::<c_void>();
        // SAFETY: `to` points to N writable bytes; the kernel checks the offset and writes all of
        // them or fails.
        let failed = unsafe { bpf_skb_load_bytes(self.context.cast(), offset, to, length) };
        (failed == 0).then_some(bytes)
    }
}

#[inline(always)]
fn size(context: *mut __sk_buff) -> usize {
    // SAFETY: the kernel gave us the context, which lives as long as the program runs.
    unsafe { (*context).len as usize }
}
