//! A rule: which connections it is for, and how these log in.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::address::Address;
use crate::connection::Connection;
use crate::pattern::Pattern;
use crate::problem::Source;
use crate::words::Written;

/// A line of `pg_hba.conf`.
///
/// It is displayed as such a line, with where it came from behind it as a comment, so that it can
/// be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub source: Source,
    /// Where clients come from.
    pub origin: Origin,
    /// What they ask for, any of these.
    pub databases: Vec<Database>,
    /// Who they say they are, any of these.
    pub users: Vec<User>,
    /// How they prove it.
    pub method: Method,
    /// The map of `pg_ident.conf` by which users of the system become users of the database.
    pub map: Option<String>,
    /// Whether they need a certificate beside that.
    pub client_cert: ClientCert,
    /// Which name in it counts.
    pub client_name: ClientName,
}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A Unix socket.
    Local,
    /// The network.
    Host(Encryption, Address),
}

/// Which connections through the network a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// `host`: all.
    Any,
    /// `hostssl`: those in TLS.
    Tls,
    /// `hostnossl`: those that are not in TLS.
    NoTls,
    /// `hostgssenc`: none, as pgx has no GSSAPI; a rule of PostgreSQL's that pgx can leave out.
    Gss,
    /// `hostnogssenc`: all, as pgx has no GSSAPI.
    NoGss,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// `all`: any database, but not physical replication.
    All,
    /// `sameuser`: the one of the user's name.
    SameUser,
    /// `replication`: physical replication, and no database.
    Replication,
    /// The one of this name.
    Name(String),
    /// Those of names that match.
    Matching(Pattern),
}

/// Who a client says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// `all`: anybody.
    All,
    /// The one of this name.
    Name(String),
    /// Those of names that match.
    Matching(Pattern),
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// It is refused.
    Reject,
    /// By the password as it is.
    Password,
    /// By a digest of the password, or by SCRAM if that is what is stored.
    Md5,
    /// By SCRAM.
    ScramSha256,
    /// By its certificate.
    Cert,
    /// By the user whose process it is, as the kernel says.
    Peer,
}

/// Whether a client needs a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCert {
    /// No.
    None,
    /// One that a known authority signed.
    VerifyCa,
    /// One that, beside, names the user, by the map if there is one.
    VerifyFull,
}

/// Which name of a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientName {
    /// The common name.
    CommonName,
    /// The distinguished name.
    DistinguishedName,
}

impl Rule {
    /// The first column: `local`, `host` and so on.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.origin {
            Origin::Local => "local",
            Origin::Host(encryption, _) => match encryption {
                Encryption::Any => "host",
                Encryption::Tls => "hostssl",
                Encryption::NoTls => "hostnossl",
                Encryption::Gss => "hostgssenc",
                Encryption::NoGss => "hostnogssenc",
            },
        }
    }

    /// The options as `name=value`.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let map = self.map.iter().map(|map| format!("map={map}"));
        let certificate = match self.client_cert {
            ClientCert::None => None,
            ClientCert::VerifyCa => Some("clientcert=verify-ca"),
            ClientCert::VerifyFull => Some("clientcert=verify-full"),
        };
        let name = match self.client_name {
            ClientName::CommonName => None,
            ClientName::DistinguishedName => Some("clientname=DN"),
        };
        map.chain(certificate.into_iter().chain(name).map(ToString::to_string)).collect()
    }

    pub(crate) fn is_match(&self, connection: &Connection<'_>) -> bool {
        let is_from_there = match (self.origin, connection.address()) {
            (Origin::Local, None) => true,
            (Origin::Host(encryption, range), Some(address)) => {
                let is_encrypted = match encryption {
                    Encryption::Any | Encryption::NoGss => true,
                    Encryption::Tls => connection.is_tls,
                    Encryption::NoTls => !connection.is_tls,
                    Encryption::Gss => false,
                };
                is_encrypted && range.is_match(address, connection)
            }
            (Origin::Local, Some(_)) | (Origin::Host(..), None) => false,
        };
        is_from_there
            && self.databases.iter().any(|database| database.is_match(connection))
            && self.users.iter().any(|user| user.is_match(connection.user()))
    }
}

impl Database {
    fn is_match(&self, connection: &Connection<'_>) -> bool {
        let name = connection.database();
        match self {
            _ if connection.is_replication => *self == Self::Replication,
            Self::All => true,
            Self::SameUser => name == connection.user(),
            Self::Replication => false,
            Self::Name(ours) => ours.as_bytes() == name,
            Self::Matching(pattern) => pattern.is_match(name),
        }
    }
}

impl User {
    pub(crate) fn is_match(&self, name: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Name(ours) => ours.as_bytes() == name,
            Self::Matching(pattern) => pattern.is_match(name),
        }
    }
}

impl Method {
    /// Its name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Reject => "reject",
            Self::Password => "password",
            Self::Md5 => "md5",
            Self::ScramSha256 => "scram-sha-256",
            Self::Cert => "cert",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => out.write_str("all"),
            Self::SameUser => out.write_str("sameuser"),
            Self::Replication => out.write_str("replication"),
            Self::Name(name) => {
                let keywords = ["all", "sameuser", "samerole", "samegroup", "replication"];
                let is_keyword = keywords.contains(&&name[..]);
                write!(out, "{}", Written { text: name, is_keyword })
            }
            Self::Matching(pattern) => write_pattern(out, pattern),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => out.write_str("all"),
            Self::Name(name) => {
                let is_keyword = name == "all" || name.starts_with('+');
                write!(out, "{}", Written { text: name, is_keyword })
            }
            Self::Matching(pattern) => write_pattern(out, pattern),
        }
    }
}

pub(crate) fn write_pattern(out: &mut fmt::Formatter<'_>, pattern: &Pattern) -> fmt::Result {
    let text = format!("/{}", pattern.text());
    write!(out, "{}", Written { text: &text, is_keyword: false })
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let databases: Vec<_> = self.databases.iter().map(ToString::to_string).collect();
        let users: Vec<_> = self.users.iter().map(ToString::to_string).collect();
        write!(out, "{} {} {} ", self.kind(), databases.join(","), users.join(","))?;
        if let Origin::Host(_, address) = self.origin {
            write!(out, "{address} ")?;
        }
        out.write_str(self.method.name())?;
        for option in self.options() {
            write!(out, " {}", Written { text: &option, is_keyword: false })?;
        }
        write!(out, " # {}", self.source)
    }
}
