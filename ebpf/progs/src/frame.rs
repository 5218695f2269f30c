//! The bounds-checked accessor: the only place where an XDP program reads or writes packet bytes.

use core::ptr;

use aya_ebpf::bindings::xdp_md;
use pgx_rules::Bytes;

/// The linear part of the packet that an XDP program was started for.
pub(crate) struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    /// The frame of the context that the kernel handed to the program.
    ///
    /// The verifier knows how far a pointer was compared only of that very pointer, so the compiler
    /// must not carry over what it knows from one place to another that computes it anew. Where
    /// that matters, a second frame is asked for: its bounds are read again.
    #[inline(always)]
    pub(crate) fn new(context: *mut xdp_md) -> Self {
        // SAFETY: the kernel gave us the context, which lives as long as the program runs.
        let (start, end) = unsafe {
            let start = ptr::read_volatile(&raw const (*context).data);
            (start, ptr::read_volatile(&raw const (*context).data_end))
        };
        Self { start: start as usize, end: end as usize }
    }
}

/// Bytes of two link addresses.
const ADDRESSES: usize = 12;

impl Frame {
    /// Where N bytes are, for a helper that reads them; `None` if they are not all there. It is
    /// valid until a helper is called that moves the packet.
    #[inline(always)]
    pub(crate) fn at<const N: usize>(&self, offset: usize) -> Option<*mut u8> {
        let from = self.start + offset;
        (from + N <= self.end).then_some(from as *mut u8)
    }

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
