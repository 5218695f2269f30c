//! The texts of an exchange: attributes between commas, read one after the other (RFC 5802,
//! section 7).

use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{KEY_BYTES, Key, ScramError};
use crate::limits::{SASL_MESSAGE_BYTES_MAX, SCRAM_ITERATIONS_MAX, SCRAM_ITERATIONS_MIN};

/// The flag of a client that binds to the channel, by the server's certificate.
pub(super) const FLAG_END_POINT: &[u8] = b"p=tls-server-end-point";

/// Takes one attribute after the other from the front of a message.
pub(super) struct Attributes<'a> {
    message: &'static str,
    whole: &'a [u8],
    /// Where the next attribute begins; behind the end once the last was taken.
    at: usize,
}

impl<'a> Attributes<'a> {
    /// # Errors
    /// When the message is longer than any that is needed.
    pub(super) fn new(message: &'static str, bytes: &'a [u8]) -> Result<Self, ScramError> {
        match bytes.len() {
            0..=SASL_MESSAGE_BYTES_MAX => Ok(Self { message, whole: bytes, at: 0 }),
            bytes => Err(ScramError::TooLong { message, bytes }),
        }
    }

    /// The next bytes up to a comma or the end; `None` behind the end.
    pub(super) fn next_part(&mut self) -> Option<&'a [u8]> {
        let rest = self.whole.get(self.at..)?;
        let bytes = rest.iter().position(|&byte| byte == b',').unwrap_or(rest.len());
        self.at += bytes + 1;
        Some(&rest[..bytes])
    }

    /// The value of the next attribute, which must have this name.
    pub(super) fn value(
        &mut self,
        name: u8,
        attribute: &'static str,
    ) -> Result<&'a [u8], ScramError> {
        match self.next_part() {
            Some([b'm', b'=', ..]) => Err(ScramError::Extension),
            Some([found, b'=', value @ ..]) if *found == name => Ok(value),
            _ => Err(self.malformed(attribute)),
        }
    }

    /// A nonce: printable, and not empty.
    pub(super) fn nonce(&mut self) -> Result<&'a [u8], ScramError> {
        let nonce = self.value(b'r', "nonce")?;
        let is_printable = nonce.iter().all(u8::is_ascii_graphic);
        if nonce.is_empty() || !is_printable { Err(self.malformed("nonce")) } else { Ok(nonce) }
    }

    /// What has not been taken yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.whole.get(self.at..).unwrap_or_default()
    }

    /// What was taken, without the comma behind it.
    pub(super) fn taken(&self) -> &'a [u8] {
        &self.whole[..self.at.saturating_sub(1).min(self.whole.len())]
    }

    pub(super) fn malformed(&self, attribute: &'static str) -> ScramError {
        ScramError::Malformed { message: self.message, attribute }
    }
}

/// Reads a key of 32 bytes.
pub(super) fn key(text: &[u8]) -> Option<Key> {
    // The decoder wants room for whole groups of three.
    let mut room = Zeroizing::new([0; KEY_BYTES + 1]);
    let bytes = STANDARD.decode_slice(text, &mut *room).ok()?;
    let key: [u8; KEY_BYTES] = room.get(..bytes)?.try_into().ok()?;
    Some(Key::from(key))
}

/// Reads an iteration count: digits, within our bounds.
pub(super) fn iterations(text: &[u8]) -> Result<u32, ScramError> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        let message = "server-first-message";
        return Err(ScramError::Malformed { message, attribute: "iteration count" });
    }
    let found = text
        .iter()
        .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    let in_bounds = |count: &u32| (SCRAM_ITERATIONS_MIN..=SCRAM_ITERATIONS_MAX).contains(count);
    u32::try_from(found).ok().filter(in_bounds).ok_or(ScramError::Iterations { found })
}

/// The `c=` attribute: what the client bound itself to. `flag` is the first part of its first
/// message, `data` what the channel is known by.
pub(super) fn channel(flag: &[u8], data: &[u8]) -> Vec<u8> {
    let input = [flag, b",,", data].concat();
    [b"c=", STANDARD.encode(input).as_bytes()].concat()
}

/// What both sides sign: the messages of the exchange, without the proof.
pub(super) fn signed(first: &[u8], challenge: &[u8], answer: &[u8]) -> Vec<u8> {
    [first, challenge, answer].join(&b',')
}
