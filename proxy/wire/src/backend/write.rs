//! Messages that a proxy says in a server's place, appended to a buffer.
//!
//! Errors are in [`crate::error_response`]. A text never carries a NUL: it ends there.

use alloc::vec::Vec;

use super::{Status, code, tag};
use crate::body::{empty, message, string, word};
use crate::error_response::{SqlState, field};

/// A type of columns, for the admin console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `bigint`.
    Int8,
    /// `text`.
    Text,
}

impl Type {
    /// Its object id, and its size in bytes; negative for no fixed one.
    fn oid_and_size(self) -> (u32, i16) {
        match self {
            Self::Int8 => (20, 8),
            Self::Text => (25, -1),
        }
    }
}

/// `AuthenticationOk`: the client is in.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, code::OK, &[]);
}

/// Asks for the password as it is.
pub fn authentication_clear_text(out: &mut Vec<u8>) {
    authentication(out, code::CLEAR_TEXT, &[]);
}

/// Asks for the password's digest with this salt.
pub fn md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    authentication(out, code::MD5, &salt);
}

/// Offers SASL mechanisms, the preferred one first.
pub fn sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    message(out, tag::AUTHENTICATION, |out| {
        out.extend_from_slice(&code::SASL.to_be_bytes());
        for mechanism in mechanisms {
            string(out, mechanism.as_bytes());
        }
        out.push(0);
    });
}

/// The SASL mechanism's next message.
pub fn sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, code::SASL_CONTINUE, data);
}

/// The SASL mechanism's last message; `AuthenticationOk` follows.
pub fn sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, code::SASL_FINAL, data);
}

fn authentication(out: &mut Vec<u8>, code: u32, data: &[u8]) {
    message(out, tag::AUTHENTICATION, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// `BackendKeyData`: what the client must show to cancel. Protocol 3.0 has keys of four bytes only.
pub fn backend_key(out: &mut Vec<u8>, process_id: u32, key: &[u8]) {
    message(out, tag::BACKEND_KEY, |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// `ParameterStatus`: the value that a setting now has.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    message(out, tag::PARAMETER_STATUS, |out| {
        string(out, name);
        string(out, value);
    });
}

/// `ReadyForQuery`.
pub fn ready(out: &mut Vec<u8>, status: Status) {
    out.extend_from_slice(&[tag::READY, 0, 0, 0, 5, status.byte()]);
}

/// `NegotiateProtocolVersion`: the newest minor version that is spoken here, and which of the
/// client's protocol options are not known. The version is written as PostgreSQL does, with the
/// major one, which is how libpq reads it.
pub fn negotiate_protocol(out: &mut Vec<u8>, minor: u32, unknown: &[&[u8]]) {
    message(out, tag::NEGOTIATE, |out| {
        out.extend_from_slice(&(0x0003_0000 | (minor & 0xffff)).to_be_bytes());
        word(out, unknown.len());
        for option in unknown {
            string(out, option);
        }
    });
}

/// `CommandComplete`: what was done, for example `ROLLBACK`.
pub fn command_complete(out: &mut Vec<u8>, done: &[u8]) {
    message(out, tag::COMMAND_COMPLETE, |out| string(out, done));
}

/// `ParseComplete`.
pub fn parse_complete(out: &mut Vec<u8>) {
    empty(out, tag::PARSE_COMPLETE);
}

/// `BindComplete`.
pub fn bind_complete(out: &mut Vec<u8>) {
    empty(out, tag::BIND_COMPLETE);
}

/// `CloseComplete`.
pub fn close_complete(out: &mut Vec<u8>) {
    empty(out, tag::CLOSE_COMPLETE);
}

/// `NoData`: the statement returns no rows.
pub fn no_data(out: &mut Vec<u8>) {
    empty(out, tag::NO_DATA);
}

/// `EmptyQueryResponse`.
pub fn empty_query(out: &mut Vec<u8>) {
    empty(out, tag::EMPTY_QUERY);
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Notice,
    /// Something is probably not as meant.
    Warning,
}

/// `NoticeResponse`: said beside the answer, never instead of it.
pub fn notice(out: &mut Vec<u8>, level: Level, state: SqlState, text: &str) {
    notice_with(out, level, state, text, "");
}

/// The same with a detail; empty for none.
pub fn notice_with(out: &mut Vec<u8>, level: Level, state: SqlState, text: &str, detail: &str) {
    let severity: &[u8] = match level {
        Level::Notice => b"NOTICE",
        Level::Warning => b"WARNING",
    };
    message(out, tag::NOTICE, |out| {
        field(out, b'S', severity);
        field(out, b'V', severity);
        field(out, b'C', state.code());
        field(out, b'M', text.as_bytes());
        if !detail.is_empty() {
            field(out, b'D', detail.as_bytes());
        }
        out.push(0);
    });
}

/// `ParameterDescription` of a statement without parameters.
pub fn no_parameters(out: &mut Vec<u8>) {
    message(out, tag::PARAMETER_DESCRIPTION, |out| count(out, 0));
}

/// `RowDescription` of columns by their names and types, for the admin console. `is_binary` tells
/// which are sent in the type's binary form.
pub fn row_description(
    out: &mut Vec<u8>,
    columns: &[(&str, Type)],
    is_binary: impl Fn(usize) -> bool,
) {
    message(out, tag::ROW_DESCRIPTION, |out| {
        count(out, columns.len());
        for (place, (column, kind)) in columns.iter().enumerate() {
            let (oid, size) = kind.oid_and_size();
            string(out, column.as_bytes());
            // Of no table, and no column of one.
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&oid.to_be_bytes());
            out.extend_from_slice(&size.to_be_bytes());
            // Without a modifier.
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            out.extend_from_slice(&u16::from(is_binary(place)).to_be_bytes());
        }
    });
}

/// `DataRow`; `None` is NULL.
pub fn data_row(out: &mut Vec<u8>, values: &[Option<&[u8]>]) {
    message(out, tag::DATA_ROW, |out| {
        count(out, values.len());
        for value in values {
            match value {
                Some(value) => {
                    word(out, value.len());
                    out.extend_from_slice(value);
                }
                None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
            }
        }
    });
}

/// PostgreSQL has no tables near as wide as this word can say.
fn count(out: &mut Vec<u8>, columns: usize) {
    out.extend_from_slice(&u16::try_from(columns).unwrap_or(u16::MAX).to_be_bytes());
}
