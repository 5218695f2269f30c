//! The first bytes after the handshake: which versions of the peer protocol each side speaks, and
//! what the connection is for.
//!
//! `pgxp`, a length of 16 bits, then that many bytes: lowest and highest version (16 bits each, big
//! end first) and the class (8 bits). Readers skip what a later version appends. The side that
//! accepted speaks first, so that one which refuses a certificate has nothing unread, and its alert
//! reaches the other side.

use std::fmt;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::cause::Cause;
use super::frame::Class;
use crate::limits::peer::HELLO_BYTES_MAX;

const MAGIC: [u8; 4] = *b"pgxp";

/// Bytes after the length that every version has.
const KNOWN_BYTES: usize = 5;

/// What one side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(super) version_min: u16,
    pub(super) version_max: u16,
    /// Zero from the side that accepted: the other one says what the connection is for.
    class: u8,
}

impl Hello {
    /// What this build says of a connection; `None` on the accepting side.
    pub(super) const fn ours(class: Option<Class>) -> Self {
        let class = match class {
            Some(class) => class.code(),
            None => 0,
        };
        Self { version_min: 1, version_max: 1, class }
    }

    /// The highest version that both sides speak.
    pub(super) fn agree(self, theirs: Self) -> Result<u16, Cause> {
        let highest = self.version_max.min(theirs.version_max);
        let lowest = self.version_min.max(theirs.version_min);
        if lowest > highest {
            return Err(Cause::Version { ours: self, theirs });
        }
        Ok(highest)
    }

    /// What the side that connected wants the connection for.
    pub(super) fn class(self) -> Result<Class, Cause> {
        let found = Class::ALL.into_iter().find(|class| class.code() == self.class);
        found.ok_or(Cause::NoHello)
    }

    /// Sends it.
    ///
    /// # Errors
    /// When the connection ends.
    pub(super) async fn write<W>(self, to: &mut W) -> Result<(), Cause>
    where
        W: AsyncWrite + Unpin,
    {
        to.write_all(&self.to_bytes()).await?;
        to.flush().await?;
        Ok(())
    }

    /// Reads the other side's.
    ///
    /// # Errors
    /// When something else comes, or the connection ends.
    pub(super) async fn read<R>(from: &mut R) -> Result<Self, Cause>
    where
        R: AsyncRead + Unpin,
    {
        let mut head = [0; 6];
        from.read_exact(&mut head).await?;
        let [a, b, c, d, length @ ..] = head;
        let length = usize::from(u16::from_be_bytes(length));
        if [a, b, c, d] != MAGIC || !(KNOWN_BYTES..=HELLO_BYTES_MAX).contains(&length) {
            return Err(Cause::NoHello);
        }
        let mut rest = vec![0; length];
        from.read_exact(&mut rest).await?;
        let &[e, f, g, h, class, ..] = &*rest else { return Err(Cause::NoHello) };
        let (version_min, version_max) = (u16::from_be_bytes([e, f]), u16::from_be_bytes([g, h]));
        if version_min > version_max {
            return Err(Cause::NoHello);
        }
        Ok(Self { version_min, version_max, class })
    }

    fn to_bytes(self) -> Vec<u8> {
        let length = u16::try_from(KNOWN_BYTES).expect("a hello is short").to_be_bytes();
        let (low, high) = (self.version_min.to_be_bytes(), self.version_max.to_be_bytes());
        [&MAGIC[..], &length, &low, &high, &[self.class]].concat()
    }
}

impl fmt::Display for Hello {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} to {}", self.version_min, self.version_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What release 0.1.0 sends when it opens a bulk connection. Later releases must go on
    /// understanding it for as long as they speak version 1, so it is never rewritten.
    const RECORDED_1: &[u8] = b"pgxp\x00\x05\x00\x01\x00\x01\x02";

    #[tokio::test]
    async fn recorded_hello_of_version_1_is_understood() {
        let theirs = Hello::read(&mut &*RECORDED_1).await.unwrap();
        assert_eq!(theirs.class().unwrap(), Class::Bulk);
        assert_eq!(Hello::ours(None).agree(theirs).unwrap(), 1);
        assert_eq!(Hello::ours(Some(Class::Bulk)).to_bytes(), RECORDED_1);
    }

    #[tokio::test]
    async fn what_a_later_version_appends_is_skipped() {
        let wire = b"pgxp\x00\x07\x00\x01\x00\x09\x01\xff\xffrest";
        let mut rest = &wire[..];
        let theirs = Hello::read(&mut rest).await.unwrap();
        assert_eq!(Hello::ours(None).agree(theirs).unwrap(), 1);
        assert_eq!(rest, b"rest");
    }

    #[test]
    fn highest_common_version_is_chosen() {
        let range = |version_min, version_max| Hello { version_min, version_max, class: 0 };
        assert_eq!(range(1, 3).agree(range(2, 5)).unwrap(), 3);
        assert_eq!(range(2, 5).agree(range(1, 2)).unwrap(), 2);
        let refused = range(1, 2).agree(range(3, 4)).unwrap_err().to_string();
        assert!(refused.contains("3 to 4") && refused.contains("1 to 2"), "{refused}");
    }

    #[tokio::test]
    async fn anything_else_is_no_hello() {
        let huge = b"pgxp\xff\xff\x00\x01\x00\x01\x02";
        let short = b"pgxp\x00\x04\x00\x01\x00\x01\x02";
        let inverted = b"pgxp\x00\x05\x00\x02\x00\x01\x02";
        for wire in [b"GET / HTTP/1.1", &huge[..], short, inverted] {
            let found = Hello::read(&mut &*wire).await.unwrap_err();
            assert!(matches!(found, Cause::NoHello), "{found}");
        }
        assert!(Hello::ours(None).class().is_err());
    }
}
