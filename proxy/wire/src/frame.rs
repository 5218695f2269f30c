//! Walks the headers of messages in a byte slice.
//!
//! A message is a tag byte, a length word (big-endian, counting itself but not the tag), and a
//! body. The walker looks at headers only, so its cost does not grow with the size of bodies.

use core::fmt;

use crate::limits::{HEADER_BYTES, MESSAGE_BYTES_MAX};

/// One whole message, borrowed from the bytes it arrived in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What kind of message it is, for example `b'Z'`.
    pub tag: u8,
    /// The message without its header.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes that the message takes on the wire, header included.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

/// Why bytes cannot be a stream of messages. The sender is at fault; a retry of the same bytes
/// cannot help, since the position of the next message is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length word counts itself and so cannot be below four.
    LengthTooSmall {
        /// Tag of the message.
        tag: u8,
        /// The length found, in bytes.
        length: u32,
    },
    /// No PostgreSQL sends or accepts a message this large.
    LengthTooLarge {
        /// Tag of the message.
        tag: u8,
        /// The length found, in bytes.
        length: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LengthTooSmall { tag, length } => {
                write!(out, "message {tag:#04x} has length {length}, expected 4 or more")
            }
            Self::LengthTooLarge { tag, length } => write!(
                out,
                "message {tag:#04x} has length {length}, expected at most {MESSAGE_BYTES_MAX}"
            ),
        }
    }
}

impl core::error::Error for FrameError {}

/// The header at the start of `bytes`: tag and length of the body in bytes. `None` when fewer
/// than five bytes are there.
///
/// # Errors
/// When the length word is outside what the protocol allows.
pub fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    if length < 4 {
        return Err(FrameError::LengthTooSmall { tag, length });
    }
    match usize::try_from(length) {
        Ok(bytes) if bytes <= MESSAGE_BYTES_MAX => Ok(Some((tag, bytes - 4))),
        _ => Err(FrameError::LengthTooLarge { tag, length }),
    }
}

/// Yields the whole messages at the start of a slice; what is left is [`Frames::rest`].
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Walks `bytes`, which must begin at a message's tag.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes behind the last message that was yielded: an incomplete message, or nothing.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next whole message, or `None` when more bytes are needed for one.
    ///
    /// # Errors
    /// When the next header cannot be one; every later call then gives the same error.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'a>>, FrameError> {
        let Some((tag, body_bytes)) = header(self.rest)? else {
            return Ok(None);
        };
        let Some((message, rest)) = self.rest.split_at_checked(HEADER_BYTES + body_bytes) else {
            return Ok(None);
        };
        self.rest = rest;
        Ok(Some(Frame { tag, body: &message[HEADER_BYTES..] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"Z\0\0\0\x05IS\0\0\0\x04";

    #[test]
    fn whole_messages_come_out_in_order() {
        let mut frames = Frames::new(TWO);

        assert_eq!(frames.next_frame(), Ok(Some(Frame { tag: b'Z', body: b"I" })));
        assert_eq!(frames.next_frame(), Ok(Some(Frame { tag: b'S', body: b"" })));
        assert_eq!(frames.next_frame(), Ok(None));
        assert!(frames.rest().is_empty());
    }

    #[test]
    fn a_stream_cut_at_any_byte_gives_the_same_messages() {
        for cut in 0..=TWO.len() {
            let mut first = Frames::new(&TWO[..cut]);
            let mut tags = alloc::vec::Vec::new();
            while let Ok(Some(frame)) = first.next_frame() {
                tags.push(frame.tag);
            }
            let taken = cut - first.rest().len();
            let mut second = Frames::new(&TWO[taken..]);
            while let Ok(Some(frame)) = second.next_frame() {
                tags.push(frame.tag);
            }
            assert_eq!(tags, b"ZS", "cut after {cut} bytes");
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error_every_time() {
        let mut frames = Frames::new(b"Q\0\0\0\x03");
        let error = Err(FrameError::LengthTooSmall { tag: b'Q', length: 3 });
        assert_eq!(frames.next_frame(), error);
        assert_eq!(frames.next_frame(), error);

        let huge = header(b"Q\xff\xff\xff\xff");
        assert_eq!(huge, Err(FrameError::LengthTooLarge { tag: b'Q', length: u32::MAX }));
    }

    #[test]
    fn the_largest_message_postgresql_sends_is_accepted_and_one_byte_more_is_not() {
        assert_eq!(header(b"d\x3f\xff\xff\xff"), Ok(Some((b'd', MESSAGE_BYTES_MAX - 4))));
        assert!(header(b"d\x40\0\0\0").is_err());
    }

    #[test]
    fn messages_of_another_implementation_are_framed_alike() {
        let mut written = bytes::BytesMut::new();
        postgres_protocol::message::frontend::query("select 1", &mut written).unwrap();
        postgres_protocol::message::frontend::sync(&mut written);

        let mut frames = Frames::new(&written);

        let query = frames.next_frame().unwrap().unwrap();
        assert_eq!((query.tag, query.body), (b'Q', &b"select 1\0"[..]));
        assert_eq!(frames.next_frame().unwrap().unwrap().tag, b'S');
    }
}
