//! The one way to read a packet: a copy of a few bytes, or nothing if they are not all there.

/// A frame that can be read with bounds checks.
///
/// Small on purpose. Whoever implements it for the kernel writes one comparison that the verifier
/// understands, and every parser above it is safe by construction.
pub trait Bytes {
    /// Bytes in the frame.
    fn size(&self) -> usize;

    /// The `N` bytes that start `offset` bytes into the frame, or `None` if it ends before them.
    ///
    /// Two at least: the compiler turns the comparison for a single byte into one from which the
    /// verifier learns nothing.
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn size(&self) -> usize {
        self.len()
    }

    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn a_read_past_the_end_gives_nothing() {
        let frame: &[u8] = &[1, 2, 3];
        assert_eq!(frame.array(1), Some([2, 3]));
        assert_eq!(frame.array::<2>(2), None);
        assert_eq!(frame.array::<1>(4), None);
        assert_eq!(frame.array::<1>(usize::MAX), None);
    }
}
