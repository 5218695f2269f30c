//! Who a certificate names, and until when: the only source of a peer's identity.
//!
//! A node's certificate has the URI `pgx://CLUSTER/node/ID/NAME` among its alternative names, the
//! cluster's CA has `pgx://CLUSTER/ca`. Names of hosts are there for people and other programs:
//! pgx does not look at them, since addresses change and identities do not.

use std::fmt;
use std::net::IpAddr;

use pgx_control::ids::NodeId;
use rustls::pki_types::CertificateDer;
use time::{Date, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Longest name of a cluster or a node, in bytes: that of a label in DNS.
const NAME_BYTES_MAX: usize = 63;

/// Who a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) subject: Subject,
}

/// The part of a cluster that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The authority that signs the others.
    Authority,
    /// A node.
    Node { id: NodeId, name: String },
}

impl Identity {
    /// Reads `pgx://CLUSTER/ca` or `pgx://CLUSTER/node/ID/NAME`; `None` for anything else.
    pub(crate) fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("pgx://")?.split('/');
        let cluster = parts.next().filter(|name| is_name(name))?.to_owned();
        let subject = match parts.next()? {
            "ca" => Subject::Authority,
            "node" => {
                let id = parts.next()?.parse().ok().filter(|id| *id != 0)?;
                let name = parts.next().filter(|name| is_name(name))?.to_owned();
                Subject::Node { id: NodeId(id), name }
            }
            _ => return None,
        };
        parts.next().is_none().then_some(Self { cluster, subject })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Authority => write!(out, "pgx://{}/ca", self.cluster),
            Subject::Node { id, name } => write!(out, "pgx://{}/node/{id}/{name}", self.cluster),
        }
    }
}

/// Whether the text can be the name of a cluster or a node.
pub(crate) fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(good)
}

/// What pgx reads of a certificate. Its signature is checked elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Papers {
    /// `None` when it is not a certificate of pgx.
    pub(crate) identity: Option<Identity>,
    /// Host names and addresses, for people.
    pub(crate) addresses: Vec<String>,
    /// Seconds since 1970, in UTC.
    pub(crate) not_before: i64,
    /// Seconds since 1970, in UTC; the last at which it is valid.
    pub(crate) not_after: i64,
}

/// The bytes are no certificate.
#[derive(Debug, thiserror::Error)]
#[error("not a certificate in DER")]
pub(crate) struct NoCertificate;

impl Papers {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When the bytes are no certificate.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, NoCertificate> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| NoCertificate)?;
        let names = certificate.subject_alternative_name().map_err(|_| NoCertificate)?;
        let names = names.map(|names| &*names.value.general_names).unwrap_or_default();
        let mut identities = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Identity::parse(uri),
            _ => None,
        });
        // Two identities in one certificate would be a choice, and whoever chose could be fooled.
        let identity = identities.next().filter(|_| identities.next().is_none());
        let addresses = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => ip_address(bytes).map(|address| address.to_string()),
            _ => None,
        });
        Ok(Self {
            identity,
            addresses: addresses.collect(),
            not_before: certificate.validity.not_before.timestamp(),
            not_after: certificate.validity.not_after.timestamp(),
        })
    }

    /// Whole days until it ends at `now`, in seconds since 1970; `None` once it has ended.
    pub(crate) fn days_left(&self, now: i64) -> Option<i64> {
        (now <= self.not_after).then(|| (self.not_after - now) / (24 * 60 * 60))
    }
}

/// The day of a moment in seconds since 1970, in UTC.
pub(crate) fn date(seconds: i64) -> Date {
    OffsetDateTime::from_unix_timestamp(seconds).map_or(Date::MAX, OffsetDateTime::date)
}

/// Seconds since 1970, in UTC.
pub(crate) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_as_they_are_written() {
        for uri in ["pgx://main/ca", "pgx://main/node/3/db-3.example"] {
            assert_eq!(Identity::parse(uri).unwrap().to_string(), uri);
        }
    }

    #[test]
    fn anything_but_an_identity_is_none() {
        for uri in [
            "",
            "https://main/node/3/db3",
            "pgx:///ca",
            "pgx://main",
            "pgx://main/ca/",
            "pgx://main/node/0/db0",
            "pgx://main/node/-1/db1",
            "pgx://main/node/3",
            "pgx://main/node/3/",
            "pgx://main/node/3/db3/more",
            "pgx://main/node/3/d b",
            "pgx://main/node/18446744073709551616/db",
        ] {
            assert_eq!(Identity::parse(uri), None, "{uri}");
        }
        assert!(!is_name(&"x".repeat(NAME_BYTES_MAX + 1)));
    }

    #[test]
    fn last_second_of_a_certificate_still_counts() {
        let not_after = 10 * 24 * 60 * 60;
        let papers = Papers { identity: None, addresses: vec![], not_before: 0, not_after };
        assert_eq!(papers.days_left(0), Some(10));
        assert_eq!(papers.days_left(not_after), Some(0));
        assert_eq!(papers.days_left(not_after + 1), None);
    }
}
