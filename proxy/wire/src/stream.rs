//! Walks a stream of messages that arrives in pieces, without copying it.
//!
//! A piece ends wherever the network ended it: within a body, within a header. [`Walker`] yields
//! what each piece has of each message, with the message's tag and size; only a header that
//! straddles two pieces is kept, and handed out with the first share of its body.

use core::ops::Range;

use crate::frame::{FrameError, header};
use crate::limits::HEADER_BYTES;

/// What a piece has of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// What kind of message it is.
    pub tag: u8,
    /// Bytes of the whole body.
    pub body_bytes: usize,
    /// Where in the piece it is. It begins with the header, if the header is whole in this piece.
    pub range: Range<usize>,
    /// The header, when it straddled pieces: it stands before `range` on the wire.
    pub straddled: Option<[u8; HEADER_BYTES]>,
    /// Whether the message begins here.
    pub is_first: bool,
    /// Whether the message ends here.
    pub is_last: bool,
}

impl Share {
    /// Where the share of the body is in the piece.
    #[must_use]
    pub fn body(&self) -> Range<usize> {
        let has_header = self.is_first && self.straddled.is_none();
        let header = if has_header { HEADER_BYTES } else { 0 };
        self.range.start + header..self.range.end
    }

    /// Whether all of the message is in this piece, its header apart.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_first && self.is_last
    }
}

/// Where a stream stands between two pieces.
#[derive(Clone, Debug, Default)]
pub struct Walker {
    carry: [u8; HEADER_BYTES],
    carried: u8,
    /// The message that has begun, and how much of its body is to come.
    open: Option<(u8, usize, usize)>,
}

impl Walker {
    /// Whether the stream stands between two messages.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.open.is_none() && self.carried == 0
    }

    /// Bytes of the open message's body that are still to come.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.open.map_or(0, |(_, _, missing)| missing)
    }

    /// The next share in `piece` from `at` on, which is moved behind it. `None` when the piece is
    /// used up; what is left of it then is the beginning of a header, which is kept.
    ///
    /// # Errors
    /// When a header cannot be one: the stream has no next message.
    pub fn next(&mut self, piece: &[u8], at: &mut usize) -> Result<Option<Share>, FrameError> {
        if let Some((tag, body_bytes, missing)) = self.open {
            if *at == piece.len() {
                return Ok(None);
            }
            return Ok(Some(self.share(piece, at, tag, body_bytes, missing, None, false)));
        }
        let rest = piece.get(*at..).unwrap_or_default();
        if self.carried > 0 || rest.len() < HEADER_BYTES {
            return self.straddle(piece, at);
        }
        let Some((tag, body_bytes)) = header(rest)? else { return Ok(None) };
        let start = *at;
        *at += HEADER_BYTES;
        let mut share = self.share(piece, at, tag, body_bytes, body_bytes, None, true);
        share.range.start = start;
        Ok(Some(share))
    }

    /// Keeps the bytes of a header that is not whole; once it is, the message begins.
    fn straddle(&mut self, piece: &[u8], at: &mut usize) -> Result<Option<Share>, FrameError> {
        while usize::from(self.carried) < HEADER_BYTES {
            let Some(byte) = piece.get(*at) else { return Ok(None) };
            self.carry[usize::from(self.carried)] = *byte;
            self.carried += 1;
            *at += 1;
        }
        let carry = self.carry;
        let Some((tag, body_bytes)) = header(&carry)? else { return Ok(None) };
        self.carried = 0;
        Ok(Some(self.share(piece, at, tag, body_bytes, body_bytes, Some(carry), true)))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a share, in one place")]
    fn share(
        &mut self,
        piece: &[u8],
        at: &mut usize,
        tag: u8,
        body_bytes: usize,
        missing: usize,
        straddled: Option<[u8; HEADER_BYTES]>,
        is_first: bool,
    ) -> Share {
        let start = *at;
        let taken = missing.min(piece.len() - start);
        *at = start + taken;
        let left = missing - taken;
        self.open = (left > 0).then_some((tag, body_bytes, left));
        let range = start..*at;
        Share { tag, body_bytes, range, straddled, is_first, is_last: left == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const STREAM: &[u8] = b"D\0\0\0\x0babcdefgZ\0\0\0\x05IS\0\0\0\x04T\0\0\0\x06xy";

    /// What a forwarder would send on, and the messages that it saw.
    fn walk(pieces: &[&[u8]]) -> (Vec<u8>, Vec<(u8, usize)>) {
        let (mut walker, mut sent, mut seen) = (Walker::default(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut at = 0;
            while let Some(share) = walker.next(piece, &mut at).unwrap() {
                if share.is_first {
                    seen.push((share.tag, share.body_bytes));
                }
                sent.extend(share.straddled.iter().flatten());
                sent.extend(&piece[share.range.clone()]);
            }
            assert_eq!(at, piece.len());
        }
        assert!(walker.is_between());
        (sent, seen)
    }

    #[test]
    fn stream_cut_at_any_two_places_is_sent_on_whole_and_read_alike() {
        let whole = walk(&[STREAM]);
        assert_eq!(whole.0, STREAM);
        assert_eq!(whole.1, [(b'D', 7), (b'Z', 1), (b'S', 0), (b'T', 2)]);
        for first in 0..=STREAM.len() {
            for second in first..=STREAM.len() {
                let pieces = [&STREAM[..first], &STREAM[first..second], &STREAM[second..]];
                assert_eq!(walk(&pieces), whole, "cut after {first} and {second} bytes");
            }
        }
    }

    #[test]
    fn stream_that_comes_byte_by_byte_is_read_alike() {
        let pieces: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(walk(&pieces), walk(&[STREAM]));
    }

    #[test]
    fn share_says_where_its_body_is() {
        let mut walker = Walker::default();
        let (mut at, piece) = (0, &STREAM[..8]);
        let share = walker.next(piece, &mut at).unwrap().unwrap();
        assert_eq!((share.body(), share.is_whole()), (5..8, false));
        assert_eq!(walker.missing(), 4);
        let share = walker.next(&STREAM[8..], &mut { 0 }).unwrap().unwrap();
        assert_eq!((share.body(), share.is_first, share.is_last), (0..4, false, true));
    }

    #[test]
    fn header_that_cannot_be_ends_the_walk_wherever_it_is_cut() {
        let bad = b"Q\0\0\0\x03";
        for cut in 0..bad.len() {
            let mut walker = Walker::default();
            assert_eq!(walker.next(&bad[..cut], &mut { 0 }), Ok(None));
            assert!(walker.next(&bad[cut..], &mut { 0 }).is_err(), "cut after {cut} bytes");
        }
    }
}
