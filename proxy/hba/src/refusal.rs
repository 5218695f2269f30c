//! What a client is told that no rule lets in, in PostgreSQL's words.

use alloc::string::String;
use core::fmt;

use pgx_wire::error_response::SqlState;

use crate::connection::Connection;
use crate::rule::{Method, Rule};

/// Why a client is refused; displayed, it is the message for the client.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    connection: &'a Connection<'a>,
    /// A rule says so, and not the lack of one.
    is_explicit: bool,
}

impl<'a> Refusal<'a> {
    /// What follows from what [`crate::Rules::find`] found; `None` if the client may try to log in.
    #[must_use]
    pub fn new(connection: &'a Connection<'a>, rule: Option<&Rule>) -> Option<Self> {
        let is_explicit = match rule {
            None => false,
            Some(rule) if rule.method == Method::Reject => true,
            Some(_) => return None,
        };
        Some(Self { connection, is_explicit })
    }

    /// The code that goes with it: 28000.
    #[must_use]
    pub fn sqlstate(&self) -> SqlState {
        SqlState::INVALID_AUTHORIZATION
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = self.connection;
        out.write_str(match (self.is_explicit, connection.is_replication) {
            (false, false) => "no pg_hba.conf entry for host \"",
            (false, true) => "no pg_hba.conf entry for replication connection from host \"",
            (true, false) => "pg_hba.conf rejects connection for host \"",
            (true, true) => "pg_hba.conf rejects replication connection for host \"",
        })?;
        match connection.address() {
            Some(address) => write!(out, "{address}")?,
            None => out.write_str("[local]")?,
        }
        write!(out, "\", user \"{}\", ", String::from_utf8_lossy(connection.user()))?;
        if !connection.is_replication {
            let database = String::from_utf8_lossy(connection.database());
            write!(out, "database \"{database}\", ")?;
        }
        out.write_str(if connection.is_tls { "SSL encryption" } else { "no encryption" })
    }
}
