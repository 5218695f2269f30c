//! How far a login is, on either side.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::attrs::SessionAttrs;
use crate::ids::ClientId;
use crate::secret::Secret;
use crate::strict::Bounded;
use crate::worker::Waits;
use pgx_wire::auth::md5::Stored;
use pgx_wire::auth::scram::{Verifier, client, server};

/// A client that has said who it is.
#[derive(Debug, Default)]
pub(crate) struct Login {
    pub(crate) user: Vec<u8>,
    pub(crate) database: Vec<u8>,
    /// Which servers it wants, if it says so.
    pub(crate) attrs: Option<SessionAttrs>,
    /// All that its server is to be told at the start, if it is to be a replication connection.
    pub(crate) replication: Vec<u8>,
    /// A setting that it asks for, and that a strict cluster does not let it have so low.
    pub(crate) lowers: Option<&'static Bounded>,
    /// What was found of its user where it was looked up; `None` if that has not been done.
    pub(crate) found: Option<Option<Secret>>,
    pub(crate) step: Step,
}

impl Login {
    /// Whether it is about physical replication, and no database.
    pub(crate) fn is_physical(&self) -> bool {
        let kind = self.replication.strip_prefix(b"replication\0");
        let kind = kind.and_then(|rest| rest.split(|byte| *byte == 0).next());
        kind.is_some_and(|kind| kind != b"database")
    }
}

/// What a login waits for.
#[derive(Default)]
pub(crate) enum Step {
    /// The user's secret, which a server is asked for. So many have been lost while they were.
    Lookup(usize),
    /// The answer to a salt; `None` stands for a user who cannot be right.
    Md5 { stored: Option<Stored>, salt: [u8; 4] },
    /// The password as it is; `None` stands for a user who cannot be right.
    Password(Option<Secret>),
    /// The first message of an exchange, bound to the channel if it is to be.
    Sasl(Box<Verifier>, Option<Vec<u8>>),
    /// The proof.
    Proof(Box<server::Challenged>),
    /// That a password is hashed.
    Hash(Waits),
    /// The time at which it reads that its password is wrong.
    Late,
    /// The first server of the pool, or its own, whose settings the client is told.
    #[default]
    Admission,
}

impl core::fmt::Debug for Step {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str(match self {
            Self::Lookup(_) => "Lookup",
            Self::Password(_) => "Password",
            Self::Md5 { .. } => "Md5",
            Self::Sasl(..) => "Sasl",
            Self::Proof(_) => "Proof",
            Self::Hash(_) => "Hash",
            Self::Late => "Late",
            Self::Admission => "Admission",
        })
    }
}

/// What a server says of a user, for a client that logs in.
pub(crate) struct Lookup {
    pub(crate) client: ClientId,
    /// The rows, each with its columns as they came.
    pub(crate) rows: Vec<Vec<u8>>,
    /// Why there are none.
    pub(crate) error: Option<Vec<u8>>,
}

impl core::fmt::Debug for Lookup {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "Lookup({:?}, {} rows)", self.client, self.rows.len())
    }
}

/// A login to a server.
#[derive(Debug, Default)]
pub(crate) struct ServerLogin {
    /// The server has accepted us.
    pub(crate) is_in: bool,
    /// It was asked whether it is in recovery, since it does not report that.
    pub(crate) is_asked: bool,
    /// What it was told at its start that it might set too low.
    pub(crate) raised: BTreeSet<&'static str>,
    /// It was asked what it begins with, and has said this.
    pub(crate) begins: Option<Vec<Vec<u8>>>,
    pub(crate) exchange: Exchange,
}

/// How far the exchange with a server is.
#[derive(Debug, Default)]
pub(crate) enum Exchange {
    /// None has begun, or it is over.
    #[default]
    None,
    /// The server's challenge is to come.
    Begun(client::Begun),
    /// The challenge has come, and the password is being hashed.
    Hashed(client::Challenged),
    /// The server's own proof is to come: before it the server must not let us in.
    Proved(client::Proved),
}
