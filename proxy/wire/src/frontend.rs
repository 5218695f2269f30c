//! Messages that a client sends: their tags, and readers of the bodies that a proxy looks into.
//!
//! What comes before the first message is in [`crate::startup`]. Parameters of Bind, arguments of
//! function calls and copy data pass unread. What a proxy sends in a client's place is written by
//! [`mod@write`].

pub mod write;

use alloc::vec::Vec;

use crate::body::{BodyError, Reader, split_string};

/// First bytes of a client's messages.
pub mod tag {
    /// `Query`.
    pub const QUERY: u8 = b'Q';
    /// `Parse`.
    pub const PARSE: u8 = b'P';
    /// `Bind`.
    pub const BIND: u8 = b'B';
    /// `Describe`.
    pub const DESCRIBE: u8 = b'D';
    /// `Execute`.
    pub const EXECUTE: u8 = b'E';
    /// `Close`.
    pub const CLOSE: u8 = b'C';
    /// `Sync`.
    pub const SYNC: u8 = b'S';
    /// `Flush`.
    pub const FLUSH: u8 = b'H';
    /// `FunctionCall`.
    pub const FUNCTION_CALL: u8 = b'F';
    /// `Terminate`.
    pub const TERMINATE: u8 = b'X';
    /// `PasswordMessage`, `SASLInitialResponse`, `SASLResponse`: which one, only the state tells.
    pub const PASSWORD: u8 = b'p';
    /// `CopyData`.
    pub const COPY_DATA: u8 = b'd';
    /// `CopyDone`.
    pub const COPY_DONE: u8 = b'c';
    /// `CopyFail`.
    pub const COPY_FAIL: u8 = b'f';
}

/// Describe and Close mean a prepared statement.
pub const STATEMENT: u8 = b'S';
/// Describe and Close mean a portal.
pub const PORTAL: u8 = b'P';

/// Reads `Query`: the text, of one statement or of several.
///
/// # Errors
/// When it is not exactly one string.
pub fn query(body: &[u8]) -> Result<&[u8], BodyError> {
    one_string("Query", "text", body)
}

/// A statement to prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// What the client calls it; empty for the one that has no name.
    pub name: &'a [u8],
    /// Its text.
    pub text: &'a [u8],
    /// Object ids of parameter types as they came, four bytes each, without their count.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads `Parse`.
    ///
    /// # Errors
    /// When there are not two strings, a count, and as many types.
    pub fn read(body: &'a [u8]) -> Result<Self, BodyError> {
        let mut reader = Reader::new("Parse", body);
        let (name, text) = (reader.string("name")?, reader.string("text")?);
        let count = usize::from(reader.u16("count of types")?);
        let types = reader.bytes(4 * count, "types")?;
        reader.end()?;
        Ok(Self { name, text, types })
    }
}

/// The two names at the front of `Bind`. What follows them, the values, may be large and goes on
/// unread from where it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindHead<'a> {
    /// What the client calls the portal; empty for the one that has no name.
    pub portal: &'a [u8],
    /// The statement that it is of.
    pub statement: &'a [u8],
    /// Where in the body the rest begins.
    pub rest_at: usize,
}

impl<'a> BindHead<'a> {
    /// Reads the names from the first bytes of a body, as many as have arrived; `None` when these
    /// end before both names do.
    #[must_use]
    pub fn read(prefix: &'a [u8]) -> Option<Self> {
        let (portal, after) = split_string(prefix)?;
        let (statement, rest) = split_string(after)?;
        Some(Self { portal, statement, rest_at: prefix.len() - rest.len() })
    }
}

/// What a whole `Bind` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal.
    pub portal: &'a [u8],
    /// The statement.
    pub statement: &'a [u8],
    /// How many values it has.
    pub values: u16,
    /// In which form columns are to be sent: one for all, one for each, or none for text.
    pub formats: Vec<u16>,
}

impl<'a> Bind<'a> {
    /// Reads all of a body.
    ///
    /// # Errors
    /// When it ends within a field, or goes on behind the last.
    pub fn read(body: &'a [u8]) -> Result<Self, BodyError> {
        let mut reader = Reader::new("Bind", body);
        let (portal, statement) = (reader.string("portal")?, reader.string("statement")?);
        let count = usize::from(reader.u16("count of formats")?);
        reader.bytes(2 * count, "formats")?;
        let values = reader.u16("count of values")?;
        for _ in 0..values {
            let length = reader.u32("length of a value")?;
            if length != u32::MAX {
                reader.bytes(usize::try_from(length).unwrap_or(usize::MAX), "value")?;
            }
        }
        let count = reader.u16("count of result formats")?;
        let formats = (0..count).map(|_| reader.u16("result format")).collect::<Result<_, _>>()?;
        reader.end()?;
        Ok(Self { portal, statement, values, formats })
    }
}

/// Reads `Describe` or `Close`: [`STATEMENT`] or [`PORTAL`], and its name.
///
/// # Errors
/// When the kind is neither, or not exactly one string follows.
pub fn target(body: &[u8]) -> Result<(u8, &[u8]), BodyError> {
    let mut reader = Reader::new("Describe or Close", body);
    let kind = reader.byte("kind")?;
    if !matches!(kind, STATEMENT | PORTAL) {
        return Err(reader.value("kind", u32::from(kind)));
    }
    let name = reader.string("name")?;
    reader.end()?;
    Ok((kind, name))
}

/// Reads `Execute`: the portal, and how many rows at most; zero or less for all.
///
/// # Errors
/// When there are not exactly a string and a word.
pub fn execute(body: &[u8]) -> Result<(&[u8], i32), BodyError> {
    let mut reader = Reader::new("Execute", body);
    let portal = reader.string("portal")?;
    let rows_max = reader.array("row limit").map(i32::from_be_bytes)?;
    reader.end()?;
    Ok((portal, rows_max))
}

/// Reads `PasswordMessage`: a password as it is, or its digest.
///
/// # Errors
/// When it is not exactly one string.
pub fn password(body: &[u8]) -> Result<&[u8], BodyError> {
    one_string("PasswordMessage", "password", body)
}

/// Reads `SASLInitialResponse`: the mechanism that the client chose, and its first message unless
/// it waits to be asked for one.
///
/// # Errors
/// When the message is not as long as it says.
pub fn sasl_initial(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), BodyError> {
    let mut reader = Reader::new("SASLInitialResponse", body);
    let mechanism = reader.string("mechanism")?;
    let length = reader.u32("length of response")?;
    let data = match usize::try_from(length) {
        _ if length == u32::MAX => None,
        Ok(bytes) => Some(reader.bytes(bytes, "response")?),
        Err(_) => return Err(reader.short("response")),
    };
    reader.end()?;
    Ok((mechanism, data))
}

/// Reads `SASLResponse`: the mechanism's next message, which is the whole body.
#[must_use]
pub fn sasl_response(body: &[u8]) -> &[u8] {
    body
}

/// Reads `CopyFail`: why the client breaks off.
///
/// # Errors
/// When it is not exactly one string.
pub fn copy_fail(body: &[u8]) -> Result<&[u8], BodyError> {
    one_string("CopyFail", "reason", body)
}

fn one_string<'a>(
    message: &'static str,
    field: &'static str,
    body: &'a [u8],
) -> Result<&'a [u8], BodyError> {
    let mut reader = Reader::new(message, body);
    let string = reader.string(field)?;
    reader.end()?;
    Ok(string)
}

#[cfg(test)]
#[path = "frontend_tests.rs"]
mod tests;
