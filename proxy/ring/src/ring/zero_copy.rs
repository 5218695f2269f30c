//! Sends without a copy, and what the kernel reads until they are over.
//!
//! Such a send answers twice: at once, with the count or an error as all sends, and by a notice when
//! nothing reads its memory any more, which for TCP is when the peer has acknowledged it. Until then
//! its pieces are kept here, whatever becomes of the socket.

use io_uring::{IoUring, Probe, opcode};

use super::token::{Kind, pack};
use crate::output::Piece;
use crate::pool::Pool;
use crate::table::Key;

pub(super) struct ZeroCopy {
    /// Sends of at least so many bytes are not copied.
    bytes_min: usize,
    /// What sends of which no notice has come read, by their numbers.
    kept: Vec<Vec<Piece>>,
    /// Numbers that are not in use.
    free: Vec<u32>,
}

impl ZeroCopy {
    /// For sends of at least so many bytes; for none if that is zero or the kernel cannot do it.
    pub(super) fn new(ring: &IoUring, bytes_min: u32) -> Self {
        let mut probe = Probe::new();
        let can_do = bytes_min > 0
            && ring.submitter().register_probe(&mut probe).is_ok()
            && probe.is_supported(opcode::SendMsgZc::CODE)
            && probe.is_supported(opcode::SendZc::CODE);
        let bytes_min = if can_do { bytes_min as usize } else { usize::MAX };
        Self { bytes_min, kept: Vec::new(), free: Vec::new() }
    }

    pub(super) fn takes(&self, bytes: usize) -> bool {
        bytes >= self.bytes_min
    }

    /// A number for a send that stands at this place in the turn's list, and its token.
    pub(super) fn begin(&mut self, place: u32) -> (u32, u64) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.kept.push(Vec::new());
            u32::try_from(self.kept.len() - 1).expect("one for each send that is not over")
        });
        (number, pack(Kind::Uncopied, Key { slot: number, generation: place }))
    }

    pub(super) fn keep(&mut self, number: u32, pieces: Vec<Piece>) {
        self.kept[number as usize] = pieces;
    }

    /// Nothing reads its memory any more.
    pub(super) fn end(&mut self, number: u32, pool: &mut Pool) {
        for piece in std::mem::take(&mut self.kept[number as usize]) {
            piece.release(pool);
        }
        self.free.push(number);
    }

    /// The kernel could still read it, so it must stay.
    pub(super) fn keep_for_ever(&mut self) {
        std::mem::take(&mut self.kept).leak();
    }
}
