//! Writes `ErrorResponse`: the only thing a client that is turned away ever reads.

use alloc::vec::Vec;

/// A five-character error code of PostgreSQL (appendix "PostgreSQL Error Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlState(&'static [u8; 5]);

impl SqlState {
    /// `protocol_violation`: the client broke the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self(b"08P01");
    /// `sqlclient_unable_to_establish_sqlconnection`: no backend could be reached.
    pub const CANNOT_CONNECT: Self = Self(b"08001");
    /// `too_many_connections`: a limit on clients is reached.
    pub const TOO_MANY_CONNECTIONS: Self = Self(b"53300");
    /// `admin_shutdown`: pgx stops.
    pub const ADMIN_SHUTDOWN: Self = Self(b"57P01");

    /// The code as text.
    #[must_use]
    pub fn code(self) -> &'static [u8; 5] {
        self.0
    }
}

/// How bad an error is for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session goes on.
    Error,
    /// The session ends with this message.
    Fatal,
}

/// An error as the client will see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorResponse<'a> {
    /// Whether the session survives.
    pub severity: Severity,
    /// The code that programs decide by.
    pub state: SqlState,
    /// What happened, in PostgreSQL's style: lower case, no full stop.
    pub message: &'a str,
    /// What the reader may do about it; empty for none.
    pub hint: &'a str,
}

impl ErrorResponse<'_> {
    /// The message as bytes for the wire. NUL bytes within the texts end them early, since the
    /// protocol has no way to carry them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let severity = match self.severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        let mut body = Vec::with_capacity(64 + self.message.len() + self.hint.len());
        field(&mut body, b'S', severity.as_bytes());
        field(&mut body, b'V', severity.as_bytes());
        field(&mut body, b'C', self.state.code());
        field(&mut body, b'M', self.message.as_bytes());
        if !self.hint.is_empty() {
            field(&mut body, b'H', self.hint.as_bytes());
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        [b"E", &length.to_be_bytes()[..], &body].concat()
    }
}

fn field(body: &mut Vec<u8>, code: u8, text: &[u8]) {
    body.push(code);
    body.extend(text.iter().take_while(|&&byte| byte != 0));
    body.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::message::backend::Message;

    const ERROR: ErrorResponse<'static> = ErrorResponse {
        severity: Severity::Fatal,
        state: SqlState::CANNOT_CONNECT,
        message: "no backend can be reached",
        hint: "ask the operator",
    };

    #[test]
    fn another_implementation_accepts_the_message_and_leaves_nothing() {
        let mut bytes = bytes::BytesMut::from(&ERROR.to_bytes()[..]);
        let message = Message::parse(&mut bytes).unwrap();
        assert!(matches!(message, Some(Message::ErrorResponse(_))));
        assert!(bytes.is_empty());
    }

    #[test]
    fn fields_come_in_postgresqls_order_and_an_empty_hint_is_left_out() {
        let with_hint = ERROR.to_bytes();
        let expected = b"SFATAL\0VFATAL\0C08001\0Mno backend can be reached\0Hask the operator\0\0";
        assert_eq!(&with_hint[5..], expected);
        let without = ErrorResponse { hint: "", ..ERROR }.to_bytes();
        assert_eq!(&without[5..], b"SFATAL\0VFATAL\0C08001\0Mno backend can be reached\0\0");
    }

    #[test]
    fn a_nul_byte_in_a_text_cannot_forge_a_field() {
        let forged = ErrorResponse { message: "x\0C00000", ..ERROR }.to_bytes();
        assert!(!forged.windows(6).any(|bytes| bytes == b"C00000"));
    }
}
