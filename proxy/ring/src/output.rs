//! What waits to be sent on one socket, in order, as pieces of receive buffers and of the heap.
//!
//! It must not know sockets. Pieces of receive buffers are sent from where they arrived; `spill`
//! copies them to the heap, so that a socket that is stuck holds no buffer.

use std::collections::VecDeque;

use crate::limits::{PIECE_BYTES_MAX, PIECE_BYTES_MIN, PIECES_KEPT, PIECES_MAX};
use crate::pool::Pool;

/// A part of what is sent.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A part of a receive buffer, to which this is a reference.
    Shared { buffer: u16, start: u32, end: u32 },
    /// Bytes of our own, from `start` on.
    Owned { bytes: Vec<u8>, start: usize },
}

impl Piece {
    fn length(&self) -> usize {
        match self {
            Self::Shared { start, end, .. } => (*end - *start) as usize,
            Self::Owned { bytes, start } => bytes.len() - *start,
        }
    }

    /// Gives its buffer back, if it is part of one.
    pub(crate) fn release(self, pool: &mut Pool) {
        if let Self::Shared { buffer, .. } = self {
            pool.release(buffer);
        }
    }
}

/// A queue of output.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a part of a buffer, without copying it.
    pub(crate) fn share(&mut self, pool: &mut Pool, buffer: u16, start: u32, end: u32) {
        if start >= end {
            return;
        }
        self.bytes += (end - start) as usize;
        if let Some(Piece::Shared { buffer: last, end: until, .. }) = self.pieces.back_mut()
            && *last == buffer
            && *until == start
        {
            *until = end;
            return;
        }
        pool.retain(buffer);
        self.pieces.push_back(Piece::Shared { buffer, start, end });
    }

    /// Adds a copy.
    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len();
        if let Some(Piece::Owned { bytes: last, .. }) = self.pieces.back_mut()
            && last.len() + bytes.len() <= PIECE_BYTES_MAX
        {
            last.extend_from_slice(bytes);
            return;
        }
        let mut piece = Vec::with_capacity(bytes.len().max(PIECE_BYTES_MIN));
        piece.extend_from_slice(bytes);
        self.pieces.push_back(Piece::Owned { bytes: piece, start: 0 });
    }

    /// Adds bytes without copying them, unless they are few.
    pub(crate) fn own(&mut self, bytes: Vec<u8>) {
        if bytes.len() <= PIECE_BYTES_MIN {
            self.copy(&bytes);
            return;
        }
        self.bytes += bytes.len();
        self.pieces.push_back(Piece::Owned { bytes, start: 0 });
    }

    /// The first pieces, as many as one send takes.
    pub(crate) fn slices<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a [u8]> {
        self.pieces.iter().take(PIECES_MAX).map(|piece| match piece {
            Piece::Shared { buffer, start, end } => {
                pool.bytes(*buffer, *start as usize, *end as usize)
            }
            Piece::Owned { bytes, start } => &bytes[*start..],
        })
    }

    /// The kernel has taken this many bytes.
    pub(crate) fn advance(&mut self, pool: &mut Pool, mut taken: usize) {
        assert!(taken <= self.bytes, "the kernel took {taken} bytes of {}", self.bytes);
        self.bytes -= taken;
        while taken > 0 {
            let piece = self.pieces.front_mut().expect("as many bytes as are counted");
            let length = piece.length();
            if taken < length {
                match piece {
                    // Smaller than the piece, which a u32 measures.
                    #[allow(clippy::cast_possible_truncation, reason = "smaller than a u32")]
                    Piece::Shared { start, .. } => *start += taken as u32,
                    Piece::Owned { start, .. } => *start += taken,
                }
                return;
            }
            taken -= length;
            if let Some(piece) = self.pieces.pop_front() {
                piece.release(pool);
            }
        }
        if self.pieces.is_empty() && self.pieces.capacity() > PIECES_KEPT {
            self.pieces = VecDeque::new();
        }
    }

    /// The kernel has taken this many bytes and goes on reading them: whoever gets the pieces keeps
    /// them until it has said that it is done.
    pub(crate) fn advance_and_keep(&mut self, pool: &mut Pool, mut taken: usize) -> Vec<Piece> {
        assert!(taken <= self.bytes, "the kernel took {taken} bytes of {}", self.bytes);
        self.bytes -= taken;
        let mut kept = Vec::new();
        while taken > 0 {
            let piece = self.pieces.pop_front().expect("as many bytes as are counted");
            if taken < piece.length() {
                self.pieces.push_front(match &piece {
                    #[allow(clippy::cast_possible_truncation, reason = "smaller than a u32")]
                    Piece::Shared { buffer, start, end } => {
                        pool.retain(*buffer);
                        Piece::Shared { buffer: *buffer, start: *start + taken as u32, end: *end }
                    }
                    // What comes later may be added to the rest, which could move the bytes.
                    Piece::Owned { bytes, start } => {
                        Piece::Owned { bytes: bytes[*start + taken..].to_vec(), start: 0 }
                    }
                });
            }
            taken = taken.saturating_sub(piece.length());
            kept.push(piece);
        }
        kept
    }

    /// Copies what is in receive buffers to the heap and gives the buffers back. Returns how many
    /// bytes were copied.
    pub(crate) fn spill(&mut self, pool: &mut Pool) -> usize {
        if !self.pieces.iter().any(|piece| matches!(piece, Piece::Shared { .. })) {
            return 0;
        }
        let mut copied = 0;
        let pieces = std::mem::take(&mut self.pieces);
        self.bytes = 0;
        for piece in pieces {
            match piece {
                Piece::Shared { buffer, start, end } => {
                    let (start, end) = (start as usize, end as usize);
                    self.copy(pool.bytes(buffer, start, end));
                    pool.release(buffer);
                    copied += end - start;
                }
                Piece::Owned { bytes, start } => {
                    self.bytes += bytes.len() - start;
                    self.pieces.push_back(Piece::Owned { bytes, start });
                }
            }
        }
        copied
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        for piece in std::mem::take(&mut self.pieces) {
            piece.release(pool);
        }
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Size;

    fn all(output: &Output, pool: &Pool) -> Vec<u8> {
        output.slices(pool).flatten().copied().collect()
    }

    /// A pool whose first buffer, with one reference, counts from 0 on.
    fn pool() -> (Pool, u16) {
        let mut pool = Pool::new((2, 4096), (0, 0)).unwrap();
        let buffer = pool.acquire(Size::Small).unwrap();
        for (byte, value) in pool.writable(buffer).iter_mut().zip(0..=255) {
            *byte = value;
        }
        (pool, buffer)
    }

    #[test]
    fn pieces_keep_their_order_whatever_they_are_made_of() {
        let (mut pool, buffer) = pool();
        let mut output = Output::default();
        output.copy(b"ab");
        output.share(&mut pool, buffer, 1, 3);
        output.own(vec![9; 300]);
        output.share(&mut pool, buffer, 5, 6);
        output.share(&mut pool, buffer, 6, 8);
        let mut expected = b"ab\x01\x02".to_vec();
        expected.extend([9; 300]);
        expected.extend([5, 6, 7]);
        assert_eq!(all(&output, &pool), expected);
        assert_eq!(output.pieces.len(), 4, "neighbours in a buffer are one piece");

        for byte in expected {
            assert_eq!(output.slices(&pool).next().unwrap()[0], byte);
            output.advance(&mut pool, 1);
        }
        assert!(output.is_empty());
    }

    #[test]
    fn spilled_output_holds_no_buffer_and_is_the_same() {
        let (mut pool, buffer) = pool();
        let mut output = Output::default();
        output.share(&mut pool, buffer, 0, 4);
        output.copy(b"xy");
        output.share(&mut pool, buffer, 4, 9);
        output.advance(&mut pool, 2);
        let before = all(&output, &pool);
        pool.release(buffer);
        assert_eq!(output.spill(&mut pool), 7);
        assert_eq!(pool.acquire(Size::Small), Some(buffer), "the buffer is free again");
        assert_eq!(all(&output, &pool), before);
        assert_eq!(output.bytes(), 9);
        output.clear(&mut pool);
        assert!(output.is_empty());
    }

    #[test]
    fn what_the_kernel_goes_on_reading_stays_where_it_is() {
        let (mut pool, buffer) = pool();
        let mut output = Output::default();
        output.own(vec![1; 300]);
        output.share(&mut pool, buffer, 0, 8);
        pool.release(buffer);
        let sent = output.slices(&pool).next().unwrap().as_ptr();
        let kept = output.advance_and_keep(&mut pool, 200);
        output.copy(&[2; 5_000]);
        let rest = [&[1; 100][..], &[0, 1, 2, 3, 4, 5, 6, 7], &[2; 5_000]].concat();
        assert_eq!(all(&output, &pool), rest);
        assert!(matches!(&kept[..], [Piece::Owned { bytes, .. }] if bytes.as_ptr() == sent));

        let more = output.advance_and_keep(&mut pool, 103);
        assert_eq!(all(&output, &pool), rest[103..]);
        output.clear(&mut pool);
        assert_ne!(pool.acquire(Size::Small), Some(buffer), "the kernel reads from it");
        more.into_iter().for_each(|piece| piece.release(&mut pool));
        assert_eq!(pool.acquire(Size::Small), Some(buffer));
    }

    #[test]
    fn emptied_queue_keeps_little_memory() {
        let (mut pool, _) = pool();
        let mut output = Output::default();
        for _ in 0..100 {
            output.own(vec![1; PIECE_BYTES_MIN + 1]);
        }
        output.advance(&mut pool, 100 * (PIECE_BYTES_MIN + 1));
        assert!(output.pieces.capacity() <= PIECES_KEPT);
    }
}
