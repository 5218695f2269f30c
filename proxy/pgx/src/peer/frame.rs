//! Messages on a connection: a length of 32 bits (big end first), a channel of 8 bits, the bytes.
//! The length counts the bytes alone. What the bytes mean is the business of whoever takes the
//! channel.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::cause::Cause;
use crate::limits::peer::{CONTROL_BYTES_MAX, LEASE_BYTES_MAX, OBSERVE_BYTES_MAX, RAFT_BYTES_MAX};

/// Bytes before those of the message.
pub(super) const HEADER_BYTES: usize = 5;

/// How many bytes of a message are asked of the system at once. Memory grows with what has come,
/// not with what was announced.
const READ_BYTES: usize = 64 * 1024;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Channel {
    /// Raft's messages.
    Raft,
    /// Requests for leases, and promises.
    Lease,
    /// What nodes see of each other.
    Observe,
    /// What nodes know, and operators' requests with their answers.
    Control,
}

impl Channel {
    /// Every channel.
    pub(crate) const ALL: [Self; 4] = [Self::Raft, Self::Lease, Self::Observe, Self::Control];

    /// Its number on the wire.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Raft => 1,
            Self::Lease => 2,
            Self::Observe => 3,
            Self::Control => 4,
        }
    }

    /// The connection that carries it.
    pub(super) const fn class(self) -> Class {
        match self {
            Self::Lease => Class::Lease,
            Self::Raft | Self::Observe | Self::Control => Class::Bulk,
        }
    }

    /// Longest message on it, in bytes.
    pub(crate) const fn bytes_max(self) -> usize {
        match self {
            Self::Raft => RAFT_BYTES_MAX,
            Self::Lease => LEASE_BYTES_MAX,
            Self::Observe => OBSERVE_BYTES_MAX,
            Self::Control => CONTROL_BYTES_MAX,
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Raft => "raft",
            Self::Lease => "lease",
            Self::Observe => "observe",
            Self::Control => "control",
        })
    }
}

/// Kinds of connections: what must not wait has one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Small and urgent.
    Lease,
    /// Everything else.
    Bulk,
}

impl Class {
    /// Every class.
    pub(super) const ALL: [Self; 2] = [Self::Lease, Self::Bulk];

    /// Its number in a hello.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Lease => 1,
            Self::Bulk => 2,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Lease => "lease",
            Self::Bulk => "bulk",
        })
    }
}

/// The header of a message that is within its bounds.
pub(super) fn header(channel: Channel, bytes: &Bytes) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(bytes.len()).expect("a message was checked when it was queued");
    let [a, b, c, d] = length.to_be_bytes();
    [a, b, c, d, channel.code()]
}

/// Reads one message from a connection of this class.
///
/// # Errors
/// When it is longer than its channel allows, on a channel of another class, or the connection
/// ends.
pub(super) async fn read<R>(from: &mut R, class: Class) -> Result<(Channel, Bytes), Cause>
where
    R: AsyncRead + Unpin,
{
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).await?;
    let (channel, length) = parse(header, class)?;
    let mut bytes = BytesMut::with_capacity(length.min(READ_BYTES));
    while bytes.len() < length {
        let missing = length - bytes.len();
        let mut part = (&mut bytes).limit(missing.min(READ_BYTES));
        if from.read_buf(&mut part).await? == 0 {
            return Err(Cause::Closed);
        }
    }
    Ok((channel, bytes.freeze()))
}

fn parse(header: [u8; HEADER_BYTES], class: Class) -> Result<(Channel, usize), Cause> {
    let [a, b, c, d, code] = header;
    let channel = Channel::ALL.into_iter().find(|channel| channel.code() == code);
    let Some(channel) = channel.filter(|channel| channel.class() == class) else {
        return Err(Cause::WrongChannel { code, class });
    };
    let found = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let expected = channel.bytes_max();
    if found > expected {
        return Err(Cause::TooLong { channel, found, expected });
    }
    Ok((channel, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(mut wire: &[u8], class: Class) -> Result<(Channel, Bytes), Cause> {
        read(&mut wire, class).await
    }

    #[tokio::test]
    async fn messages_are_read_as_they_are_written() {
        for channel in Channel::ALL {
            for length in [0, 1, channel.bytes_max()] {
                let bytes = Bytes::from(vec![7; length]);
                let wire = [&header(channel, &bytes)[..], &bytes].concat();
                let read = read_all(&wire, channel.class()).await.unwrap();
                assert_eq!(read, (channel, bytes));
            }
        }
    }

    #[tokio::test]
    async fn message_over_the_bound_is_refused_before_its_bytes_are_read() {
        let found = read_all(&[0, 0, 0x10, 1, 2], Class::Lease).await.unwrap_err();
        assert!(matches!(found, Cause::TooLong { found: 4097, expected: 4096, .. }), "{found}");
    }

    #[tokio::test]
    async fn channel_of_another_class_or_of_nobody_is_refused() {
        for (code, class) in [(1, Class::Lease), (2, Class::Bulk), (0, Class::Bulk)] {
            let found = read_all(&[0, 0, 0, 0, code], class).await.unwrap_err();
            assert!(matches!(found, Cause::WrongChannel { .. }), "{found}");
        }
    }

    #[tokio::test]
    async fn message_that_ends_early_is_none() {
        let found = read_all(&[0, 0, 0, 9, 1, 1, 2, 3], Class::Bulk).await.unwrap_err();
        assert!(matches!(found, Cause::Closed), "{found}");
    }
}
