//! Writes `ErrorResponse`: the only thing a client that is turned away ever reads.

use alloc::vec::Vec;

use crate::backend::tag;
use crate::body::{message, string};

/// A five-character error code of PostgreSQL (appendix "PostgreSQL Error Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlState(&'static [u8; 5]);

impl SqlState {
    /// `successful_completion`: of notices that warn of nothing.
    pub const SUCCESSFUL_COMPLETION: Self = Self(b"00000");
    /// `warning`: of notices that warn.
    pub const WARNING: Self = Self(b"01000");
    /// `sqlclient_unable_to_establish_sqlconnection`: no backend could be reached.
    pub const CANNOT_CONNECT: Self = Self(b"08001");
    /// `connection_failure`: the backend was lost; nothing of the request was done.
    pub const CONNECTION_FAILURE: Self = Self(b"08006");
    /// `transaction_resolution_unknown`: the backend was lost, and whether it committed is
    /// not known.
    pub const TRANSACTION_RESOLUTION_UNKNOWN: Self = Self(b"08007");
    /// `protocol_violation`: the client broke the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self(b"08P01");
    /// `feature_not_supported`: also when a cached plan must not change its result type.
    pub const FEATURE_NOT_SUPPORTED: Self = Self(b"0A000");
    /// `invalid_parameter_value`: a setting cannot have this value.
    pub const INVALID_PARAMETER_VALUE: Self = Self(b"22023");
    /// `active_sql_transaction`: not within a transaction block.
    pub const ACTIVE_SQL_TRANSACTION: Self = Self(b"25001");
    /// `in_failed_sql_transaction`: only the block's end is taken now.
    pub const IN_FAILED_SQL_TRANSACTION: Self = Self(b"25P02");
    /// `idle_in_transaction_session_timeout`: the client left a block open too long.
    pub const IDLE_IN_TRANSACTION_TIMEOUT: Self = Self(b"25P03");
    /// `transaction_timeout`: a transaction took longer than it may.
    pub const TRANSACTION_TIMEOUT: Self = Self(b"25P04");
    /// `invalid_sql_statement_name`: no prepared statement has this name.
    pub const INVALID_STATEMENT_NAME: Self = Self(b"26000");
    /// `invalid_authorization_specification`: this user may not log in like this.
    pub const INVALID_AUTHORIZATION: Self = Self(b"28000");
    /// `invalid_password`: the password, or the user, is wrong.
    pub const INVALID_PASSWORD: Self = Self(b"28P01");
    /// `invalid_cursor_name`: no portal has this name.
    pub const INVALID_CURSOR_NAME: Self = Self(b"34000");
    /// `invalid_catalog_name`: no such database.
    pub const INVALID_CATALOG_NAME: Self = Self(b"3D000");
    /// `serialization_failure`: the transaction is lost, another try may succeed.
    pub const SERIALIZATION_FAILURE: Self = Self(b"40001");
    /// `insufficient_privilege`: this user may not do that.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(b"42501");
    /// `syntax_error`: of the admin console's commands.
    pub const SYNTAX_ERROR: Self = Self(b"42601");
    /// `duplicate_prepared_statement`: the name of a prepared statement is taken.
    pub const DUPLICATE_STATEMENT: Self = Self(b"42P05");
    /// `out_of_memory`: a bound on memory is reached.
    pub const OUT_OF_MEMORY: Self = Self(b"53200");
    /// `too_many_connections`: a limit on clients is reached.
    pub const TOO_MANY_CONNECTIONS: Self = Self(b"53300");
    /// `program_limit_exceeded`: a limit of pgx on one request is reached.
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(b"54000");
    /// `object_not_in_prerequisite_state`: a database takes no clients.
    pub const NOT_IN_PREREQUISITE_STATE: Self = Self(b"55000");
    /// `query_canceled`: by a cancel request or a limit on time.
    pub const QUERY_CANCELED: Self = Self(b"57014");
    /// `admin_shutdown`: pgx or the backend stops, or a session's server state is lost.
    pub const ADMIN_SHUTDOWN: Self = Self(b"57P01");
    /// `cannot_connect_now`: not yet, or not at this time.
    pub const CANNOT_CONNECT_NOW: Self = Self(b"57P03");
    /// `idle_session_timeout`: the client was silent too long.
    pub const IDLE_SESSION_TIMEOUT: Self = Self(b"57P05");
    /// `system_error`: the operating system refused something.
    pub const SYSTEM_ERROR: Self = Self(b"58000");

    /// The code as text.
    #[must_use]
    pub fn code(self) -> &'static [u8; 5] {
        self.0
    }

    /// The same, as a string.
    #[must_use]
    pub fn text(self) -> &'static str {
        core::str::from_utf8(self.0).unwrap_or_default()
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
    /// What exactly, with names and numbers; empty for none.
    pub detail: &'a str,
    /// What the reader may do about it; empty for none.
    pub hint: &'a str,
    /// The function of pgx that says so, for those who search for it; empty for none. PostgreSQL's
    /// own are known by this field where no code tells them apart.
    pub routine: &'a str,
}

impl<'a> ErrorResponse<'a> {
    /// An error without detail, hint and routine.
    #[must_use]
    pub const fn new(severity: Severity, state: SqlState, message: &'a str) -> Self {
        Self { severity, state, message, detail: "", hint: "", routine: "" }
    }

    /// The message as bytes for the wire. NUL bytes within the texts end them early, since the
    /// protocol has no way to carry them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.message.len() + self.hint.len());
        self.write(&mut out);
        out
    }

    /// Appends the message to a buffer.
    pub fn write(&self, out: &mut Vec<u8>) {
        let severity: &[u8] = match self.severity {
            Severity::Error => b"ERROR",
            Severity::Fatal => b"FATAL",
        };
        message(out, tag::ERROR, |out| {
            field(out, b'S', severity);
            field(out, b'V', severity);
            field(out, b'C', self.state.code());
            field(out, b'M', self.message.as_bytes());
            for (code, text) in [(b'D', self.detail), (b'H', self.hint), (b'R', self.routine)] {
                if !text.is_empty() {
                    field(out, code, text.as_bytes());
                }
            }
            out.push(0);
        });
    }
}

/// Appends one field of an error or a notice.
pub(crate) fn field(out: &mut Vec<u8>, code: u8, text: &[u8]) {
    out.push(code);
    string(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::message::backend::Message;

    const ERROR: ErrorResponse<'static> = ErrorResponse {
        severity: Severity::Fatal,
        state: SqlState::CANNOT_CONNECT,
        message: "no backend can be reached",
        detail: "3 were tried",
        hint: "ask the operator",
        routine: "connect",
    };

    #[test]
    fn another_implementation_accepts_the_message_and_leaves_nothing() {
        let mut bytes = bytes::BytesMut::from(&ERROR.to_bytes()[..]);
        let message = Message::parse(&mut bytes).unwrap();
        assert!(matches!(message, Some(Message::ErrorResponse(_))));
        assert!(bytes.is_empty());
    }

    #[test]
    fn fields_come_in_postgresqls_order_and_empty_ones_are_left_out() {
        let all = ERROR.to_bytes();
        let expected = b"SFATAL\0VFATAL\0C08001\0Mno backend can be reached\0D3 were tried\0\
            Hask the operator\0Rconnect\0\0";
        assert_eq!(&all[5..], expected);
        let few = ErrorResponse::new(ERROR.severity, ERROR.state, ERROR.message).to_bytes();
        assert_eq!(&few[5..], b"SFATAL\0VFATAL\0C08001\0Mno backend can be reached\0\0");
    }

    #[test]
    fn a_nul_byte_in_a_text_cannot_forge_a_field() {
        let forged = ErrorResponse { message: "x\0C00000", ..ERROR }.to_bytes();
        assert!(!forged.windows(6).any(|bytes| bytes == b"C00000"));
    }
}
