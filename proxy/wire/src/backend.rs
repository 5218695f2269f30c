//! Messages that a server sends: their tags, and readers of the bodies that a proxy looks into.
//!
//! A server may be hostile: every reader takes any bytes. Rows, row descriptions and copy data
//! pass unread. What a proxy says in a server's place is written by [`mod@write`].

pub mod write;

use alloc::vec::Vec;

use crate::body::{BodyError, Reader, Strings, split_string};
use crate::limits::{CANCEL_KEY_BYTES_MAX, CANCEL_KEY_BYTES_MIN};

/// First bytes of a server's messages.
pub mod tag {
    /// `AuthenticationOk` and all requests for credentials.
    pub const AUTHENTICATION: u8 = b'R';
    /// `BackendKeyData`.
    pub const BACKEND_KEY: u8 = b'K';
    /// `ParameterStatus`.
    pub const PARAMETER_STATUS: u8 = b'S';
    /// `ReadyForQuery`.
    pub const READY: u8 = b'Z';
    /// `ErrorResponse`.
    pub const ERROR: u8 = b'E';
    /// `NoticeResponse`.
    pub const NOTICE: u8 = b'N';
    /// `NotificationResponse`.
    pub const NOTIFICATION: u8 = b'A';
    /// `NegotiateProtocolVersion`.
    pub const NEGOTIATE: u8 = b'v';
    /// `CommandComplete`.
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// `EmptyQueryResponse`.
    pub const EMPTY_QUERY: u8 = b'I';
    /// `ParseComplete`.
    pub const PARSE_COMPLETE: u8 = b'1';
    /// `BindComplete`.
    pub const BIND_COMPLETE: u8 = b'2';
    /// `CloseComplete`.
    pub const CLOSE_COMPLETE: u8 = b'3';
    /// `PortalSuspended`.
    pub const PORTAL_SUSPENDED: u8 = b's';
    /// `ParameterDescription`.
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    /// `RowDescription`.
    pub const ROW_DESCRIPTION: u8 = b'T';
    /// `NoData`.
    pub const NO_DATA: u8 = b'n';
    /// `DataRow`.
    pub const DATA_ROW: u8 = b'D';
    /// `FunctionCallResponse`.
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    /// `CopyInResponse`.
    pub const COPY_IN: u8 = b'G';
    /// `CopyOutResponse`.
    pub const COPY_OUT: u8 = b'H';
    /// `CopyBothResponse`.
    pub const COPY_BOTH: u8 = b'W';
    /// `CopyData`.
    pub const COPY_DATA: u8 = b'd';
    /// `CopyDone`.
    pub const COPY_DONE: u8 = b'c';
}

/// Codes behind the tag [`tag::AUTHENTICATION`].
mod code {
    pub(super) const OK: u32 = 0;
    pub(super) const CLEAR_TEXT: u32 = 3;
    pub(super) const MD5: u32 = 5;
    pub(super) const SASL: u32 = 10;
    pub(super) const SASL_CONTINUE: u32 = 11;
    pub(super) const SASL_FINAL: u32 = 12;
}

/// What a server wants to see before it lets somebody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Nothing more: the client is in.
    Ok,
    /// The password as it is.
    ClearText,
    /// The password's digest with this salt.
    Md5 {
        /// What makes the answer good for this connection only.
        salt: [u8; 4],
    },
    /// An exchange by one of these mechanisms.
    Sasl {
        /// Their names, in the order that the server prefers.
        mechanisms: Strings<'a>,
    },
    /// The mechanism's next message.
    SaslContinue(&'a [u8]),
    /// The mechanism's last message.
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI, or what is to come: not spoken here.
    Other(u32),
}

/// Reads an authentication message.
///
/// # Errors
/// When the body is not what its code asks for.
pub fn authentication(body: &[u8]) -> Result<Authentication<'_>, BodyError> {
    let mut reader = Reader::new("Authentication", body);
    let found = match reader.u32("code")? {
        code::OK => Authentication::Ok,
        code::CLEAR_TEXT => Authentication::ClearText,
        code::MD5 => Authentication::Md5 { salt: reader.array("salt")? },
        code::SASL => return sasl(reader).map(|mechanisms| Authentication::Sasl { mechanisms }),
        code::SASL_CONTINUE => return Ok(Authentication::SaslContinue(reader.rest())),
        code::SASL_FINAL => return Ok(Authentication::SaslFinal(reader.rest())),
        other => return Ok(Authentication::Other(other)),
    };
    reader.end()?;
    Ok(found)
}

/// The names before the empty one that ends the list.
fn sasl(mut reader: Reader<'_>) -> Result<Strings<'_>, BodyError> {
    let list = reader.rest();
    let mut bytes = 0;
    loop {
        match reader.string("mechanisms")? {
            [] => break,
            name => bytes += name.len() + 1,
        }
    }
    reader.end()?;
    Ok(Strings::new(&list[..bytes]))
}

/// Reads `BackendKeyData`: the process id, and the key of four to 256 bytes that goes with it.
///
/// # Errors
/// When the key is shorter or longer.
pub fn backend_key(body: &[u8]) -> Result<(u32, &[u8]), BodyError> {
    let mut reader = Reader::new("BackendKeyData", body);
    let process_id = reader.u32("process id")?;
    let key = reader.rest();
    match key.len() {
        0..CANCEL_KEY_BYTES_MIN => Err(reader.short("key")),
        CANCEL_KEY_BYTES_MIN..=CANCEL_KEY_BYTES_MAX => Ok((process_id, key)),
        bytes => {
            let bytes = bytes - CANCEL_KEY_BYTES_MAX;
            Err(BodyError::Long { message: "BackendKeyData", bytes })
        }
    }
}

/// Reads `ParameterStatus`: name and value.
///
/// # Errors
/// When there are not exactly two strings.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), BodyError> {
    let mut reader = Reader::new("ParameterStatus", body);
    let pair = (reader.string("name")?, reader.string("value")?);
    reader.end()?;
    Ok(pair)
}

/// Where a session stands, as the server says it in `ReadyForQuery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// In no transaction block.
    Idle,
    /// In a transaction block.
    Block,
    /// In a block that failed: all but its end is refused.
    Failed,
}

impl Status {
    /// The byte on the wire.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Block => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Reads `ReadyForQuery`.
///
/// # Errors
/// When the status is none of the three.
pub fn ready(body: &[u8]) -> Result<Status, BodyError> {
    let mut reader = Reader::new("ReadyForQuery", body);
    let status = match reader.byte("status")? {
        b'I' => Status::Idle,
        b'T' => Status::Block,
        b'E' => Status::Failed,
        other => return Err(reader.value("status", u32::from(other))),
    };
    reader.end()?;
    Ok(status)
}

/// The fields of an `ErrorResponse` or `NoticeResponse`, as (code, text), in the order in which
/// they came. Codes that are not known are passed on; where the body breaks off the fields end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// A view on a body. Any bytes will do: a server that sends none of the fields is still heard.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// The error code; `None` when the server sent none or one that is not five bytes.
    #[must_use]
    pub fn sqlstate(self) -> Option<[u8; 5]> {
        self.text(b'C').and_then(|code| code.try_into().ok())
    }

    /// How bad it is, in English where the server says it so (9.6 and later), else in the
    /// server's language.
    #[must_use]
    pub fn severity(self) -> Option<&'a [u8]> {
        self.text(b'V').or_else(|| self.text(b'S'))
    }

    /// What happened.
    #[must_use]
    pub fn message(self) -> Option<&'a [u8]> {
        self.text(b'M')
    }

    /// The function of the server that reported it.
    #[must_use]
    pub fn routine(self) -> Option<&'a [u8]> {
        self.text(b'R')
    }

    /// Whether the server closes the connection after this message.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        matches!(self.severity(), Some(b"FATAL" | b"PANIC"))
    }

    /// The first field of this code.
    #[must_use]
    pub fn text(mut self, code: u8) -> Option<&'a [u8]> {
        self.find(|&(found, _)| found == code).map(|(_, text)| text)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&code, after) = self.0.split_first()?;
        let found = split_string(after).filter(|_| code != 0);
        self.0 = found.map_or(&[], |(_, rest)| rest);
        found.map(|(text, _)| (code, text))
    }
}

/// Reads `CommandComplete`: what was done, for example `INSERT 0 1`.
///
/// # Errors
/// When it is not exactly one string.
pub fn command_tag(body: &[u8]) -> Result<&[u8], BodyError> {
    let mut reader = Reader::new("CommandComplete", body);
    let tag = reader.string("tag")?;
    reader.end()?;
    Ok(tag)
}

/// Reads `DataRow`: the columns; `None` is NULL.
///
/// # Errors
/// When there are not as many as it says.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, BodyError> {
    let mut reader = Reader::new("DataRow", body);
    let count = reader.u16("count of columns")?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = reader.u32("length of a column")?;
        let length = (length != u32::MAX).then(|| usize::try_from(length).unwrap_or(usize::MAX));
        columns.push(length.map(|bytes| reader.bytes(bytes, "column")).transpose()?);
    }
    reader.end()?;
    Ok(columns)
}

/// A server's answer to a start-up packet that asks for more than it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiate<'a> {
    /// The newest minor version that the server speaks.
    pub minor: u32,
    /// Protocol options (`_pq_.…`) that it does not know.
    pub unknown: Strings<'a>,
}

/// Reads `NegotiateProtocolVersion`.
///
/// # Errors
/// When the version is of another major one, or the list of options is not as long as it says.
pub fn negotiate(body: &[u8]) -> Result<Negotiate<'_>, BodyError> {
    let mut reader = Reader::new("NegotiateProtocolVersion", body);
    // The documentation says that this is the minor version; PostgreSQL sends both.
    let version = reader.u32("version")?;
    let minor = match version >> 16 {
        0 | 3 => version & 0xffff,
        _ => return Err(reader.value("version", version)),
    };
    let count = reader.u32("count of options")?;
    let unknown = Strings::new(reader.rest());
    // Each option is at least one byte, so a count that lies ends with the bytes.
    for _ in 0..count {
        reader.string("options")?;
    }
    reader.end()?;
    Ok(Negotiate { minor, unknown })
}

/// What somebody said by `NOTIFY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// The server process of the one who said it.
    pub process_id: u32,
    /// To whom.
    pub channel: &'a [u8],
    /// What; may be empty.
    pub payload: &'a [u8],
}

/// Reads `NotificationResponse`.
///
/// # Errors
/// When there are not exactly a process id and two strings.
pub fn notification(body: &[u8]) -> Result<Notification<'_>, BodyError> {
    let mut reader = Reader::new("NotificationResponse", body);
    let process_id = reader.u32("process id")?;
    let (channel, payload) = (reader.string("channel")?, reader.string("payload")?);
    reader.end()?;
    Ok(Notification { process_id, channel, payload })
}

#[cfg(test)]
#[path = "backend_tests.rs"]
mod tests;
