//! The bounds-checked accessor: the only place where a program reads packet bytes.

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
