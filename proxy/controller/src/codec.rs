//! How entries, states, facts, lease messages and requests are written: a version of one byte, then
//! `MessagePack` with named fields.
//!
//! Names make the form robust: a reader skips fields that it does not know and takes the default of
//! those that are missing, so releases N and N + 1 read each other. What is not skipped is an entry
//! of a kind that the reader does not know, since skipping it would let states drift apart: such an
//! entry gets a higher version, and is proposed only when every node says that it can read it
//! ([`Facts::entries_read_max`](pgx_control::facts::Facts)).

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that this build writes.
pub const VERSION: u8 = 1;

/// The highest version of an entry in the log that this build reads.
pub const ENTRIES_READ_MAX: u16 = 3;

/// Why bytes were not understood.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// There is nothing.
    #[error("an empty message")]
    Empty,
    /// A later release wrote them, in a way that this one must not guess at.
    #[error("written in version {found}, this pgx reads up to {VERSION}; upgrade it")]
    Version {
        /// What it says.
        found: u8,
    },
    /// They are damaged, or of another kind.
    #[error("does not decode: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
}

/// Writes a value.
///
/// # Panics
/// When the value has a form that `MessagePack` cannot hold, such as a sequence of unknown length;
/// none of ours has.
#[must_use]
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let body = rmp_serde::to_vec_named(value).expect("our types have forms that can be written");
    bytes.extend(body);
    bytes
}

/// Reads a value.
///
/// # Errors
/// When the bytes are of a later version, damaged, or of another kind.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Empty),
        Some((&VERSION, body)) => Ok(rmp_serde::from_slice(body)?),
        Some((&found, _)) => Err(CodecError::Version { found }),
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
