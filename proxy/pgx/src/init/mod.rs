//! `pgx init`: makes the cluster's certificate authority, the certificates of its nodes, a node's
//! store, and its first data directory.
//!
//! It must not know how certificates are used; what they say is in [`crate::peer::identity`].
//! Keys never leave the folder where they are made.

mod files;
mod make;
mod postgres;
mod show;
mod store;
mod systemd;

use crate::cli::InitVerb;
use crate::exit::Failure;

/// Runs the verb.
pub(crate) fn run(verb: &InitVerb) -> Result<(), Failure> {
    let said = match verb {
        InitVerb::Ca { cluster, out, days } => make::authority(cluster, out, *days)?,
        InitVerb::Node(node) => make::node(node)?,
        InitVerb::Person(person) => make::person(person)?,
        InitVerb::Store(wanted) => store::make(wanted)?,
        InitVerb::Postgres(wanted) => postgres::make(wanted)?,
        InitVerb::Systemd { config } => systemd::unit(config)?,
        InitVerb::Show { file } => show::show(file)?,
    };
    print!("{said}");
    Ok(())
}

/// Why certificates could not be made or shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// A name that cannot stand in a certificate.
    #[error(
        "--{option} {found:?} cannot be a name; use letters, digits, '-', '_' and '.', at most 63"
    )]
    Name { option: &'static str, found: String },
    /// An address that cannot stand in a certificate.
    #[error("--address {0:?} is no host name or IP address, with or without a port")]
    Address(String),
    /// The certificate in the folder is none of ours.
    #[error("{} is no authority made by 'pgx init ca'", .0.display())]
    NoAuthority(std::path::PathBuf),
    /// Nobody would accept what it signs.
    #[error("the authority in {} expired on {date}; docs/CERTIFICATES.md says how to replace it",
        path.display())]
    AuthorityExpired { path: std::path::PathBuf, date: time::Date },
    /// A file is in the way.
    #[error(
        "{} is there already and is not overwritten; move it away, or choose another --out",
        .0.display()
    )]
    Exists(std::path::PathBuf),
    /// The system refused.
    #[error("cannot {step} {}: {error}", path.display())]
    System { step: &'static str, path: std::path::PathBuf, error: std::io::Error },
    /// A file is not a certificate.
    #[error(transparent)]
    Load(#[from] crate::peer::certificates::LoadError),
    /// The library could not make or read it.
    #[error("cannot {step}: {error}")]
    Crypto { step: &'static str, error: rcgen::Error },
}

impl From<InitError> for Failure {
    fn from(error: InitError) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests;
