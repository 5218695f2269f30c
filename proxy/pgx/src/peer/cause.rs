//! Why a connection to or from a peer was refused or ended, typed, with the sentence for operators.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error};
use time::Date;

use super::frame::{Channel, Class};
use super::hello::Hello;
use super::identity::date;
use super::verify::WrongIdentity;
use crate::limits::peer::HANDSHAKES_MAX;

/// What ended a connection, or kept it from coming about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// No TCP connection.
    #[error("cannot connect: {0}; does pgx run there, and is control.peers right?")]
    Connect(io::Error),
    /// The other side took too long to show who it is.
    #[error("did not show who it is within {0:?}")]
    Slow(Duration),
    /// It was the oldest of too many that had not shown who they are.
    #[error("cut to make room: {HANDSHAKES_MAX} newer connections have not shown who they are")]
    Crowded,
    /// It connects and shows no certificate.
    #[error("showed no certificate")]
    NoCertificate,
    /// Its certificate is not of an authority that we trust.
    #[error("its certificate is not signed by an authority in control.ca; see 'pgx init show'")]
    Issuer,
    /// Its certificate has ended.
    #[error("its certificate expired on {0}; make it a new one by 'pgx init node'")]
    Expired(Date),
    /// Its certificate has not begun.
    #[error("its certificate is not valid before {0}; compare the clocks of both hosts")]
    Early(Date),
    /// Its certificate is good, but for somebody else.
    #[error(transparent)]
    Identity(#[from] WrongIdentity),
    /// It found fault with us.
    #[error("refused us ({0:?}); the log of the other side says why")]
    RefusedUs(AlertDescription),
    /// What it speaks is not TLS as we want it.
    #[error("does not speak TLS 1.3 as a peer does: {0}")]
    Tls(Error),
    /// After the handshake came something else than a hello.
    #[error("its hello cannot be read; is something else than pgx behind that address?")]
    NoHello,
    /// No version in common.
    #[error(
        "speaks versions {theirs} of the peer protocol, expected {ours}; use releases that \
             overlap"
    )]
    Version { ours: Hello, theirs: Hello },
    /// A message longer than its channel allows.
    #[error("sent a message of {found} bytes on channel {channel}, expected at most {expected}")]
    TooLong { channel: Channel, found: usize, expected: usize },
    /// A message on a channel that the connection does not carry, or that nobody knows.
    #[error("sent a message on channel {code}, which a {class} connection does not carry")]
    WrongChannel { code: u8, class: Class },
    /// It does not read.
    #[error("took none of our bytes for {0:?}")]
    Stalled(Duration),
    /// The same node connected anew.
    #[error(
        "a newer connection of the same node took its place; if this repeats, two nodes use \
             one certificate"
    )]
    Replaced,
    /// The cluster has let the node go.
    #[error("it belongs to the cluster no more")]
    Dismissed,
    /// The other side closed.
    #[error("closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Lost(io::Error),
}

impl From<io::Error> for Cause {
    /// Finds the cause in what tokio-rustls wraps as an I/O error.
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(tls) => tls.clone().into(),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Lost(error),
        }
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        let certificate = match error {
            Error::NoCertificatesPresented => return Self::NoCertificate,
            Error::AlertReceived(alert) => return Self::RefusedUs(alert),
            Error::InvalidCertificate(certificate) => certificate,
            error => return Self::Tls(error),
        };
        let day = |seconds: u64| date(i64::try_from(seconds).unwrap_or(i64::MAX));
        match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Issuer,
            CertificateError::ExpiredContext { not_after, .. } => {
                Self::Expired(day(not_after.as_secs()))
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::Early(day(not_before.as_secs()))
            }
            CertificateError::Other(other) => match other.0.downcast_ref::<WrongIdentity>() {
                Some(wrong) => Self::Identity(wrong.clone()),
                None => Self::Tls(Error::InvalidCertificate(CertificateError::Other(other))),
            },
            certificate => Self::Tls(Error::InvalidCertificate(certificate)),
        }
    }
}
