//! What can go wrong with the file, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::ids::{ClusterId, NodeId};

/// Why the file cannot be used. After an error in writing, nothing more is written until the file
/// has been opened again: what reached the disk is known only then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No space. Nothing was acknowledged that is not durable; open again when there is space.
    #[error("no space left for the quorum's file; make space, the node then takes part again")]
    Full,
    /// The disk or the file system failed.
    #[error("the disk under the quorum's file failed; replace it, then join as a new member")]
    Io(#[source] io::Error),
    /// The file does not hold what was written to it.
    #[error(
        "the quorum's file is damaged ({0}) and is not used, because a voter that forgot its \
         votes is worse than none; remove this member and join as a new one"
    )]
    Corrupt(Damage),
    /// There is no file.
    #[error(
        "{path} is not there; a voter that lost its disk comes back only as a new member: remove \
         the old one, then join with a new number"
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A file is there where a new one was to be made.
    #[error("{path} is there already; start with it, or move it away to join as a new member")]
    Exists {
        /// Where it is.
        path: PathBuf,
    },
    /// Another process has the file open.
    #[error("the quorum's file is in use by another process; stop that one first")]
    InUse,
    /// The file is of another cluster.
    #[error("the quorum's file is of {found}, not of {expected}; check the configured folder")]
    OtherCluster {
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be.
        expected: ClusterId,
    },
    /// The file is another member's.
    #[error("the quorum's file is that of {found}, not of {expected}; check the configured folder")]
    OtherNode {
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// The file was written by another version of pgx.
    #[error(
        "the quorum's file has format {found}, this pgx reads format {expected}; start the pgx \
         that wrote it, or join as a new member"
    )]
    OtherFormat {
        /// Its format.
        found: u32,
        /// The one that is read here.
        expected: u32,
    },
    /// An earlier write failed.
    #[error("an earlier write to the quorum's file failed; open it again")]
    Halted,
}

/// What is wrong with a damaged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The database found its own pages damaged.
    #[error("the database's own check failed")]
    Database,
    /// A record's checksum does not match.
    #[error("checksum of {0}")]
    Checksum(&'static str),
    /// A record is not there, or not what it should be.
    #[error("{0} missing or malformed")]
    Malformed(&'static str),
    /// The log has a hole, or does not fit its snapshot.
    #[error("the log is not in one piece at entry {0}")]
    Torn(u64),
    /// The vote or the commit index does not fit the log.
    #[error("term, vote and commit do not fit the log")]
    HardState,
}

impl From<Damage> for StoreError {
    fn from(damage: Damage) -> Self {
        Self::Corrupt(damage)
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, InvalidData, QuotaExceeded, StorageFull, UnexpectedEof};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full,
            // The database says so of a file that it did not write or that was cut.
            InvalidData | UnexpectedEof => Self::Corrupt(Damage::Database),
            _ => Self::Io(error),
        }
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        use redb::Error as E;
        match error {
            E::Io(error) => error.into(),
            E::DatabaseAlreadyOpen => Self::InUse,
            E::PreviousIo | E::DatabaseClosed | E::TransactionPoisoned => Self::Halted,
            E::Corrupted(_)
            | E::TableTypeMismatch { .. }
            | E::TypeDefinitionChanged { .. }
            | E::TableDoesNotExist(_)
            | E::RepairAborted
            | E::UpgradeRequired(_) => Self::Corrupt(Damage::Database),
            other => Self::Io(io::Error::other(other)),
        }
    }
}

/// Each step of the database has an error type of its own; all mean the same to us.
macro_rules! from_step {
    ($($step:ty),*) => {$(
        impl From<$step> for StoreError {
            fn from(error: $step) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

from_step!(
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError
);
