//! Messages that a proxy sends in a client's place, appended to a buffer.
//!
//! A text never carries a NUL: it ends there.

use alloc::vec::Vec;

use super::tag;
use crate::body::{empty, message, packet, string, word};
use crate::limits::HEADER_BYTES;
use crate::startup::{CODE_CANCEL, VERSION_MAJOR};

/// The start-up packet. A parameter without a name would end the list and is left out.
pub fn startup<'a>(
    out: &mut Vec<u8>,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) {
    packet(out, |out| {
        out.extend_from_slice(&VERSION_MAJOR.to_be_bytes());
        out.extend_from_slice(&minor.to_be_bytes());
        for (name, value) in parameters.into_iter().filter(|(name, _)| !name.is_empty()) {
            string(out, name);
            string(out, value);
        }
        out.push(0);
    });
}

/// `CancelRequest`, on a connection of its own.
pub fn cancel(out: &mut Vec<u8>, process_id: u32, key: &[u8]) {
    packet(out, |out| {
        out.extend_from_slice(&CODE_CANCEL.to_be_bytes());
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// `PasswordMessage`: a password as it is, or its digest.
pub fn password(out: &mut Vec<u8>, password: &[u8]) {
    message(out, tag::PASSWORD, |out| string(out, password));
}

/// `SASLInitialResponse`: the mechanism, and its first message.
pub fn sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    message(out, tag::PASSWORD, |out| {
        string(out, mechanism.as_bytes());
        word(out, data.len());
        out.extend_from_slice(data);
    });
}

/// `SASLResponse`: the mechanism's next message.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    message(out, tag::PASSWORD, |out| out.extend_from_slice(data));
}

/// `Query`.
pub fn query(out: &mut Vec<u8>, text: &[u8]) {
    message(out, tag::QUERY, |out| string(out, text));
}

/// `Parse`; its types are object ids of four bytes each, at most 65,535 of them. Only whole ones
/// are written.
pub fn parse(out: &mut Vec<u8>, name: &[u8], text: &[u8], types: &[u8]) {
    message(out, tag::PARSE, |out| {
        string(out, name);
        string(out, text);
        let count = u16::try_from(types.len() / 4).unwrap_or(u16::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&types[..4 * usize::from(count)]);
    });
}

/// The front of `Bind`: header and names. The caller sends the `rest_bytes` of the body that follow
/// from where they arrived.
pub fn bind_head(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest_bytes: usize) {
    let at = out.len();
    message(out, tag::BIND, |out| {
        string(out, portal);
        string(out, statement);
    });
    let length = u32::try_from(out.len() - at - 1 + rest_bytes).unwrap_or(u32::MAX);
    out[at + 1..at + HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// `Bind` to the portal without a name, of the statement without a name: all values as texts, and
/// so all results.
pub fn bind(out: &mut Vec<u8>, values: &[&[u8]]) {
    message(out, tag::BIND, |out| {
        let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
        // Two names, and no formats.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&count.to_be_bytes());
        for value in &values[..usize::from(count)] {
            word(out, value.len());
            out.extend_from_slice(value);
        }
        out.extend_from_slice(&[0; 2]);
    });
}

/// `Describe` of a [`super::STATEMENT`] or a [`super::PORTAL`].
pub fn describe(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    target(out, tag::DESCRIBE, kind, name);
}

/// `Close` of a [`super::STATEMENT`] or a [`super::PORTAL`].
pub fn close(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    target(out, tag::CLOSE, kind, name);
}

fn target(out: &mut Vec<u8>, tag: u8, kind: u8, name: &[u8]) {
    message(out, tag, |out| {
        out.push(kind);
        string(out, name);
    });
}

/// `Execute`; zero rows for all.
pub fn execute(out: &mut Vec<u8>, portal: &[u8], rows_max: i32) {
    message(out, tag::EXECUTE, |out| {
        string(out, portal);
        out.extend_from_slice(&rows_max.to_be_bytes());
    });
}

/// `Sync`.
pub fn sync(out: &mut Vec<u8>) {
    empty(out, tag::SYNC);
}

/// `Flush`.
pub fn flush(out: &mut Vec<u8>) {
    empty(out, tag::FLUSH);
}

/// `Terminate`.
pub fn terminate(out: &mut Vec<u8>) {
    empty(out, tag::TERMINATE);
}

/// `CopyFail`: breaks off a copy into the server.
pub fn copy_fail(out: &mut Vec<u8>, reason: &[u8]) {
    message(out, tag::COPY_FAIL, |out| string(out, reason));
}
