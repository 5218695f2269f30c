//! The few shapes that all bodies are made of: words, strings that end in NUL, and lists of them.
//!
//! Reads never trust a length before the bytes are there. It must not know any message; those are
//! in [`crate::backend`] and [`crate::frontend`].

use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt;

/// Why a body is not what its tag says. The sender is at fault; the next message can still be
/// found, since the header was sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The body ends within a field.
    Short {
        /// PostgreSQL's name of the message.
        message: &'static str,
        /// The field that is cut off.
        field: &'static str,
    },
    /// Bytes are left behind the last field.
    Long {
        /// PostgreSQL's name of the message.
        message: &'static str,
        /// How many bytes are left.
        bytes: usize,
    },
    /// A field has a value that it cannot have.
    Value {
        /// PostgreSQL's name of the message.
        message: &'static str,
        /// The field.
        field: &'static str,
        /// The value found.
        found: u32,
    },
}

impl fmt::Display for BodyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { message, field } => write!(out, "{message} ends within its {field}"),
            Self::Long { message, bytes } => {
                write!(out, "{message} has {bytes} bytes behind its last field")
            }
            Self::Value { message, field, found } => {
                write!(out, "{message} has {field} {found}, which it cannot have")
            }
        }
    }
}

impl core::error::Error for BodyError {}

/// Takes one field after the other from the front of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    message: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'static str, body: &'a [u8]) -> Self {
        Self { message, rest: body }
    }

    pub(crate) fn byte(&mut self, field: &'static str) -> Result<u8, BodyError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, BodyError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, BodyError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], BodyError> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(self.short(field))?;
        self.rest = rest;
        Ok(*array)
    }

    pub(crate) fn bytes(
        &mut self,
        count: usize,
        field: &'static str,
    ) -> Result<&'a [u8], BodyError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(self.short(field))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn string(&mut self, field: &'static str) -> Result<&'a [u8], BodyError> {
        let (string, rest) = split_string(self.rest).ok_or(self.short(field))?;
        self.rest = rest;
        Ok(string)
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Succeeds if nothing is left.
    pub(crate) fn end(self) -> Result<(), BodyError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(BodyError::Long { message: self.message, bytes }),
        }
    }

    pub(crate) fn value(self, field: &'static str, found: u32) -> BodyError {
        BodyError::Value { message: self.message, field, found }
    }

    pub(crate) fn short(self, field: &'static str) -> BodyError {
        BodyError::Short { message: self.message, field }
    }
}

/// Strings that end in NUL each, one behind the other; ends with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (string, rest) = split_string(self.0)?;
        self.0 = rest;
        Some(string)
    }
}

/// The string at the front without its NUL, and what follows; `None` when there is no NUL.
pub(crate) fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    // The standard library looks for NUL a word at a time.
    let string = CStr::from_bytes_until_nul(bytes).ok()?;
    bytes.split_at_checked(string.count_bytes()).map(|(string, rest)| (string, &rest[1..]))
}

/// Appends a message whose body is written by `write`.
pub(crate) fn message(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    packet(out, write);
}

/// Appends a message of so few bytes that no body has to be measured.
pub(crate) fn empty(out: &mut Vec<u8>, tag: u8) {
    out.extend_from_slice(&[tag, 0, 0, 0, 4]);
}

/// Appends a length word and what `write` puts behind it.
pub(crate) fn packet(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a string and its NUL. A NUL within the text ends it early, since the protocol has no
/// way to carry one and what follows it would be read as another field.
pub(crate) fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(split_string(text).map_or(text, |(text, _)| text));
    out.push(0);
}

/// Appends a count or length word.
pub(crate) fn word(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_ends_at_its_first_nul_and_one_without_is_none() {
        assert_eq!(split_string(b"ab\0c\0"), Some((&b"ab"[..], &b"c\0"[..])));
        assert_eq!(split_string(b"\0"), Some((&b""[..], &b""[..])));
        assert_eq!(split_string(b"ab"), None);
        assert_eq!(split_string(b""), None);
    }

    #[test]
    fn a_nul_within_a_text_that_is_written_cannot_begin_another_field() {
        let mut out = Vec::new();
        string(&mut out, b"user\0superuser");
        assert_eq!(out, b"user\0");
    }

    #[test]
    fn what_an_error_says_names_message_field_and_number() {
        use alloc::string::ToString;
        let reader = Reader::new("Execute", b"abc");
        assert_eq!(reader.short("row limit").to_string(), "Execute ends within its row limit");
        let long = "Execute has 3 bytes behind its last field";
        assert_eq!(reader.end().unwrap_err().to_string(), long);
        let value = "Execute has kind 7, which it cannot have";
        assert_eq!(reader.value("kind", 7).to_string(), value);
    }
}
