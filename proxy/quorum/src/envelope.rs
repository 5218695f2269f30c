//! What stands around a Raft message on its way between nodes: version, cluster, sender, receiver.
//!
//! Layout, numbers big-endian: magic (4), version (2), length of this header (2), cluster (16),
//! sender (8), its incarnation (8), receiver (8), its incarnation as the sender knows it (8, zero
//! when not known); then the message in Raft's own protobuf encoding.
//!
//! Version N talks to N + 1: a newer version adds fields to the end of the header, and protobuf
//! fields that may be ignored. Anything else takes two versions. It must not know what a message
//! means; `inbound.rs` checks that.

use crate::bytes::Reader;
use crate::ids::{ClusterId, NodeId};
use crate::limits::MESSAGE_BYTES_MAX;

/// The version that is written.
pub const PROTOCOL_VERSION: u16 = 1;
/// The newest version that is read.
pub const PROTOCOL_VERSION_READ_MAX: u16 = PROTOCOL_VERSION + 1;
/// The oldest version that is read.
pub const PROTOCOL_VERSION_READ_MIN: u16 =
    if PROTOCOL_VERSION > 1 { PROTOCOL_VERSION - 1 } else { 1 };

const MAGIC: [u8; 4] = *b"PGXQ";
const HEADER_BYTES: u16 = 56;

/// A message with its envelope taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) cluster: ClusterId,
    pub(crate) from: NodeId,
    /// Never zero in a message that decodes.
    pub(crate) from_incarnation: u64,
    pub(crate) to: NodeId,
    /// Zero when the sender does not know it.
    pub(crate) to_incarnation: u64,
    pub(crate) payload: &'a [u8],
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Longer than any message.
    #[error("a message of {0} bytes, at most {MESSAGE_BYTES_MAX} are taken")]
    TooLong(usize),
    /// Not made by this protocol, or cut off.
    #[error("bytes that are no message of the quorum's protocol")]
    Malformed,
    /// Too old or too new.
    #[error(
        "protocol version {0}, versions {PROTOCOL_VERSION_READ_MIN} to \
         {PROTOCOL_VERSION_READ_MAX} are understood; upgrade one version at a time"
    )]
    Version(u16),
}

impl<'a> Envelope<'a> {
    /// The bytes for the wire.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(usize::from(HEADER_BYTES) + self.payload.len());
        out.extend(MAGIC);
        out.extend(PROTOCOL_VERSION.to_be_bytes());
        out.extend(HEADER_BYTES.to_be_bytes());
        out.extend(self.cluster.0.to_be_bytes());
        out.extend(self.from.get().to_be_bytes());
        out.extend(self.from_incarnation.to_be_bytes());
        out.extend(self.to.get().to_be_bytes());
        out.extend(self.to_incarnation.to_be_bytes());
        out.extend(self.payload);
        out
    }

    /// Takes bytes from the wire apart.
    ///
    /// # Errors
    /// When they are none of ours, or of a version that is not understood.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(EnvelopeError::TooLong(bytes.len()));
        }
        let mut reader = Reader(bytes);
        let malformed = EnvelopeError::Malformed;
        if reader.array().ok_or(malformed)? != MAGIC {
            return Err(malformed);
        }
        let version = reader.u16().ok_or(malformed)?;
        if !(PROTOCOL_VERSION_READ_MIN..=PROTOCOL_VERSION_READ_MAX).contains(&version) {
            return Err(EnvelopeError::Version(version));
        }
        Self::decode_body(reader).ok_or(malformed)
    }

    fn decode_body(mut reader: Reader<'a>) -> Option<Self> {
        let header_bytes = reader.u16()?;
        let cluster = ClusterId(reader.u128()?);
        let from = NodeId::new(reader.u64()?)?;
        let from_incarnation = reader.u64().filter(|number| *number != 0)?;
        let to = NodeId::new(reader.u64()?)?;
        let to_incarnation = reader.u64()?;
        // What a newer version added at the end of its header is skipped.
        reader.take(usize::from(header_bytes.checked_sub(HEADER_BYTES)?))?;
        let payload = reader.0;
        Some(Self { cluster, from, from_incarnation, to, to_incarnation, payload })
    }
}

const _: () = assert!(HEADER_BYTES == 4 + 2 + 2 + 16 + 4 * 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(payload: &[u8]) -> Envelope<'_> {
        Envelope {
            cluster: ClusterId(7),
            from: NodeId::new(1).unwrap(),
            from_incarnation: 11,
            to: NodeId::new(2).unwrap(),
            to_incarnation: 0,
            payload,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = envelope(b"abc").encode();
        assert_eq!(Envelope::decode(&bytes), Ok(envelope(b"abc")));
    }

    #[test]
    fn next_version_with_a_longer_header_is_read() {
        let mut bytes = envelope(b"abc").encode();
        bytes[4..6].copy_from_slice(&(PROTOCOL_VERSION + 1).to_be_bytes());
        bytes[6..8].copy_from_slice(&(HEADER_BYTES + 3).to_be_bytes());
        let end = usize::from(HEADER_BYTES);
        bytes.splice(end..end, *b"new");
        assert_eq!(Envelope::decode(&bytes), Ok(envelope(b"abc")));
    }

    #[test]
    fn version_after_the_next_is_refused() {
        let mut bytes = envelope(b"abc").encode();
        bytes[4..6].copy_from_slice(&(PROTOCOL_VERSION + 2).to_be_bytes());
        let refused = EnvelopeError::Version(PROTOCOL_VERSION + 2);
        assert_eq!(Envelope::decode(&bytes), Err(refused));
    }

    #[test]
    fn every_cut_header_is_malformed() {
        let bytes = envelope(b"").encode();
        for length in 0..bytes.len() {
            let decoded = Envelope::decode(&bytes[..length]);
            assert_eq!(decoded, Err(EnvelopeError::Malformed), "{length}");
        }
    }
}
