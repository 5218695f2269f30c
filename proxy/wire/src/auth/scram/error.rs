//! Why an exchange failed, and whose fault that is.

use core::fmt;

use crate::error_response::SqlState;
use crate::limits::{
    SASL_MESSAGE_BYTES_MAX, SCRAM_ITERATIONS_MAX, SCRAM_ITERATIONS_MIN, SCRAM_SALT_BYTES_MAX,
};

/// Why an exchange ended without a login. None of them is helped by another try of the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramError {
    /// A message is longer than any that is needed.
    TooLong {
        /// RFC 5802's name of the message.
        message: &'static str,
        /// Its bytes.
        bytes: usize,
    },
    /// A message is not as RFC 5802 has it.
    Malformed {
        /// RFC 5802's name of the message.
        message: &'static str,
        /// The attribute that is missing or cannot be read.
        attribute: &'static str,
    },
    /// The other side insists on an extension; there are none.
    Extension,
    /// The client would act as somebody else than it logs in as, which PostgreSQL has not either.
    Authzid,
    /// The client binds to the channel by another means than the server's certificate, the only
    /// one that PostgreSQL has.
    BindingType,
    /// The message does not go with the mechanism: one binds to the channel, the other does not.
    BindingFlag,
    /// The client could bind to the channel and believes that the server cannot, which offered it:
    /// somebody between them took the offer away.
    Downgrade,
    /// The client is bound to another channel than this one: somebody relays.
    Binding,
    /// The nonce is not the one of this exchange.
    Nonce,
    /// The iteration count is out of bounds.
    Iterations {
        /// The count found.
        found: u64,
    },
    /// The salt is longer than any that PostgreSQL makes.
    Salt {
        /// Its bytes.
        bytes: usize,
    },
    /// The client does not know the password, or there is no such user.
    WrongPassword,
    /// The server does not know the password, and so is not the one that was meant.
    WrongServer,
    /// The server ended the exchange with an error of SCRAM's own.
    Refused,
}

impl ScramError {
    /// The code that a client is told. PostgreSQL tells the same.
    #[must_use]
    pub fn sqlstate(self) -> SqlState {
        match self {
            Self::WrongPassword | Self::Refused => SqlState::INVALID_PASSWORD,
            Self::BindingFlag | Self::Downgrade | Self::Binding | Self::WrongServer => {
                SqlState::INVALID_AUTHORIZATION
            }
            Self::Authzid | Self::BindingType | Self::Extension => SqlState::FEATURE_NOT_SUPPORTED,
            Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::Nonce
            | Self::Iterations { .. }
            | Self::Salt { .. } => SqlState::PROTOCOL_VIOLATION,
        }
    }
}

impl fmt::Display for ScramError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { message, bytes } => write!(
                out,
                "SCRAM {message} has {bytes} bytes, expected at most {SASL_MESSAGE_BYTES_MAX}"
            ),
            Self::Malformed { message, attribute } => {
                write!(out, "SCRAM {message} has no valid {attribute}")
            }
            Self::Extension => write!(out, "SCRAM message requires an extension, there are none"),
            Self::Authzid => write!(out, "SCRAM authorization identity is not supported"),
            Self::BindingType => {
                write!(out, "SCRAM channel binding is not of type tls-server-end-point")
            }
            Self::BindingFlag => {
                write!(out, "SCRAM channel binding flag does not match the chosen mechanism")
            }
            Self::Downgrade => write!(
                out,
                "SCRAM channel binding was offered, but the client did not hear of it: look for \
                 who stands between"
            ),
            Self::Binding => write!(
                out,
                "SCRAM channel binding is that of another TLS connection: look for who stands \
                 between"
            ),
            Self::Nonce => write!(out, "SCRAM nonce is not that of this exchange"),
            Self::Iterations { found } => write!(
                out,
                "SCRAM iteration count is {found}, expected {SCRAM_ITERATIONS_MIN} to \
                 {SCRAM_ITERATIONS_MAX}"
            ),
            Self::Salt { bytes } => {
                write!(out, "SCRAM salt has {bytes} bytes, expected 1 to {SCRAM_SALT_BYTES_MAX}")
            }
            Self::WrongPassword => write!(out, "password authentication failed"),
            Self::WrongServer => write!(
                out,
                "server did not prove that it knows the password: check the address, and who \
                 answers there"
            ),
            Self::Refused => write!(out, "server ended the SCRAM exchange with an error"),
        }
    }
}

impl core::error::Error for ScramError {}
