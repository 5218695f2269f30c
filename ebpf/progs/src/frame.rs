//! The bounds-checked accessor: the only place where an XDP program reads or writes packet bytes.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use pgx_rules::Bytes;

/// The linear part of the packet that an XDP program was started for.
pub(crate) struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame of the context that the kernel handed to the program.
    #[inline(always)]
    pub(crate) fn new(context: *mut xdp_md) -> Self {
        let context = XdpContext::new(context);
        Self { start: context.data(), end: context.data_end() }
    }
}

/// Bytes of two link addresses.
const ADDRESSES: usize = 12;

impl Frame {
    /// Writes bytes at an offset; `None` if they do not fit.
    #[inline(always)]
    pub(crate) fn put<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        let from = self.start + offset;
        if from + N > self.end {
            return None;
        }
        // SAFETY: as for reading; XDP may write packet memory, and nobody else has the packet.
        unsafe { *(from as *mut [u8; N]) = *bytes };
        Some(())
    }

    /// Lets the frame go back to who sent it.
    #[inline(always)]
    pub(crate) fn exchange_link_addresses(&self) -> Option<()> {
        let old: [u8; ADDRESSES] = self.array(0)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = old;
        self.put(0, &[g, h, i, j, k, l, a, b, c, d, e, f])
    }
}

impl Bytes for Frame {
    #[inline(always)]
    fn size(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let from = self.start + offset;
        if from + N > self.end {
            return None;
        }
        // SAFETY: `start` and `end` are the kernel's bounds of readable packet memory, which lives
        // as long as the program runs, and the comparison above keeps all N bytes below `end`. The
        // verifier proves the same before it lets the program load. Bytes need no alignment.
        Some(unsafe { *(from as *const [u8; N]) })
    }
}
