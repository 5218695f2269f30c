//! A copy of a batch, which is sent once more if the tables of its statement have changed since a
//! server prepared it.
//!
//! Only what nothing was said of to the client can be sent again, and only what tells the client
//! itself how its rows look: it may know them from before.

use alloc::vec::Vec;

use pgx_wire::Frames;
use pgx_wire::frontend::{self, BindHead, PORTAL, STATEMENT, tag};

use crate::limits::REPLAY_BYTES_MAX;
use crate::statements;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is no batch that could be sent again.
    #[default]
    Off,
    /// It has begun.
    Open,
    /// It has ended, and nothing was sent behind it.
    Whole,
}

/// The copy. Its memory is used again for the next.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    state: State,
    bytes: Vec<u8>,
    /// What the server has said before it looked at the tables; the client gets it with the rest.
    held: Vec<u8>,
}

impl Replay {
    /// A batch begins with what is sent next.
    pub(crate) fn begin(&mut self) {
        self.state = State::Open;
        self.bytes.clear();
    }

    /// This is sent.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        if self.state == State::Open {
            if self.bytes.len() + bytes.len() > REPLAY_BYTES_MAX {
                return self.stop();
            }
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The batch has ended.
    pub(crate) fn end(&mut self) {
        if self.state == State::Open {
            self.state = State::Whole;
        }
    }

    /// Something is sent behind it.
    pub(crate) fn is_followed(&mut self) {
        if self.state == State::Whole {
            self.stop();
        }
    }

    /// It is not to be sent again.
    pub(crate) fn stop(&mut self) {
        self.state = State::Off;
        self.bytes.clear();
    }

    /// Whether it may be sent again, as far as that is known before an error comes.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::Whole
    }

    /// The batch.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Keeps what the client gets with the server's next message.
    pub(crate) fn hold(&mut self, message: Vec<u8>) {
        self.held = message;
    }

    /// What was kept.
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.held)
    }

    /// The number of the statement that the batch begins with, if the batch is safe to be sent once
    /// more: before anything is run it describes what the statement gives, and it does not say how
    /// each column is to be written, of which there may be more now.
    pub(crate) fn statement(&self) -> Option<u64> {
        if self.state != State::Whole {
            return None;
        }
        let mut frames = Frames::new(&self.bytes);
        let first = frames.next_frame().ok()??;
        let (called, portal) = match (first.tag, frontend::target(first.body)) {
            (tag::BIND, _) => {
                let head = BindHead::read(first.body)?;
                (head.statement, Some(head.portal))
            }
            (tag::DESCRIBE, Ok((STATEMENT, called))) => (called, None),
            _ => return None,
        };
        let mut is_described = false;
        let mut frames = Frames::new(&self.bytes);
        while let Some(frame) = frames.next_frame().ok()? {
            match frame.tag {
                tag::BIND => {
                    let head = BindHead::read(frame.body)?;
                    if head.statement == called && formats(&frame.body[head.rest_at..])? > 1 {
                        return None;
                    }
                }
                tag::DESCRIBE => {
                    let (kind, name) = frontend::target(frame.body).ok()?;
                    let of_portal = kind == PORTAL && portal == Some(name);
                    is_described |= of_portal || kind == STATEMENT && name == called;
                }
                tag::EXECUTE if !is_described => return None,
                _ => {}
            }
        }
        is_described.then(|| statements::number(called))?
    }
}

/// For how many columns a Bind says how they are to be written; `rest` is what is behind its names.
fn formats(rest: &[u8]) -> Option<u16> {
    let count = |rest: &[u8]| rest.first_chunk().map(|count| u16::from_be_bytes(*count));
    let mut rest = rest.get(2 + 2 * usize::from(count(rest)?)..)?;
    let values = count(rest)?;
    rest = &rest[2..];
    for _ in 0..values {
        let bytes = i32::from_be_bytes(*rest.first_chunk()?);
        rest = rest.get(4 + usize::try_from(bytes).unwrap_or(0)..)?;
    }
    count(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Bind of one value, with this many formats of columns.
    fn bind(portal: &[u8], called: &[u8], formats: u16) -> Vec<u8> {
        let mut rest = b"\0\x01\0\x01\0\x02\0\0\0\x03abc\xff\xff\xff\xff".to_vec();
        rest.extend_from_slice(&formats.to_be_bytes());
        rest.resize(rest.len() + 2 * usize::from(formats), 0);
        let mut out = Vec::new();
        frontend::write::bind_head(&mut out, portal, called, rest.len());
        [out, rest].concat()
    }

    fn describe(kind: u8, name: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frontend::write::describe(&mut out, kind, name);
        out
    }

    fn execute(portal: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frontend::write::execute(&mut out, portal, 0);
        out
    }

    fn number(messages: &[Vec<u8>]) -> Option<u64> {
        let mut replay = Replay::default();
        replay.begin();
        messages.iter().for_each(|message| replay.add(message));
        assert_eq!(replay.statement(), None, "it has not ended");
        replay.end();
        let number = replay.statement();
        replay.is_followed();
        assert_eq!(replay.statement(), None, "something is sent behind it");
        number
    }

    #[test]
    fn batch_that_describes_what_it_gives_before_it_runs_is_safe() {
        let (a, p) = (b"pgx_1f", b"p");
        for safe in [
            &[bind(b"", a, 0), describe(PORTAL, b""), execute(b"")][..],
            &[bind(p, a, 1), describe(PORTAL, p), execute(p)],
            &[describe(STATEMENT, a)],
            &[describe(STATEMENT, a), bind(b"", a, 1), execute(b"")],
            &[bind(b"", a, 1), describe(STATEMENT, a), execute(b""), bind(b"", b"pgx_2", 3)],
        ] {
            assert_eq!(number(safe), Some(0x1f), "{safe:?}");
        }
        for unsafe_ in [
            &[bind(b"", a, 0), execute(b"")][..],
            &[bind(b"", a, 0)],
            &[bind(b"", a, 0), execute(b""), describe(PORTAL, b"")],
            &[bind(b"", a, 2), describe(PORTAL, b""), execute(b"")],
            &[bind(b"", a, 0), describe(PORTAL, p), execute(b"")],
            &[bind(b"", a, 0), describe(STATEMENT, b"pgx_2"), execute(b"")],
            &[bind(b"", b"other", 0), describe(PORTAL, b""), execute(b"")],
            &[execute(b"")],
            &[],
        ] {
            assert_eq!(number(unsafe_), None, "{unsafe_:?}");
        }
    }

    #[test]
    fn batch_that_is_too_large_is_not_kept() {
        let mut replay = Replay::default();
        replay.begin();
        replay.add(&describe(STATEMENT, b"pgx_1"));
        replay.add(&[0; REPLAY_BYTES_MAX]);
        replay.end();
        assert!(!replay.is_whole() && replay.bytes().is_empty());
    }
}
