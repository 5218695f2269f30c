//! A node's own certificate and key, and the authorities that it trusts: read from files, checked
//! against each other, and turned into what rustls wants.
//!
//! What is wrong with a peer's certificate is decided in [`super::verify`].

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgx_control::ids::NodeId;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tracing::{error, warn};

use super::identity::{Identity, NoCertificate, Papers, Subject, date, now};
use super::verify::Verifier;
use crate::config;
use crate::limits::peer::EXPIRY_WARNING_DAYS;
use crate::private::{self, Exposed};

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The system does not give the file.
    #[error("cannot read {}: {error}; is it there, and may this user read it?", path.display())]
    Read { path: PathBuf, error: io::Error },
    /// Others on the host could take the key.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The file has not what it should.
    #[error("{} has no {what} in PEM; 'pgx init' makes one", path.display())]
    Empty { path: PathBuf, what: &'static str },
    /// The certificate names nobody.
    #[error(
        "the certificate in {} names no node of a pgx cluster; 'pgx init node' makes one that does",
        path.display()
    )]
    Nobody { path: PathBuf },
    /// It is for another node.
    #[error(
        "the certificate in {} is for {found}, expected one for {expected}; check control.node and \
         control.certificate",
        path.display()
    )]
    Other { path: PathBuf, expected: String, found: Identity },
    /// Key and certificate are no pair.
    #[error(
        "the key in {} does not belong to the certificate in {}", key.display(), path.display()
    )]
    Pair { key: PathBuf, path: PathBuf },
    /// No authority that we trust has signed it, so no peer would accept it.
    #[error(
        "the certificate in {} is not signed by an authority in {}; use the ca.pem of the \
         authority that made it",
        path.display(), ca.display()
    )]
    Unsigned { path: PathBuf, ca: PathBuf },
}

/// A checked set: own certificate, own key, trusted authorities.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(super) cluster: String,
    pub(super) node: NodeId,
    /// The node's own papers first, then those of the authorities, with the files they are from.
    papers: Vec<(PathBuf, Papers)>,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
}

/// How a certificate stands between now and its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Fine, until that day.
    Good { until: time::Date },
    /// It ends soon.
    Ending { days: i64, until: time::Date },
    /// It has ended, or has not begun: peers refuse it.
    Invalid { what: &'static str, date: time::Date },
}

impl Certificates {
    /// Reads and checks the files that `[control]` names.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be. Dates are no error: see
    /// [`Self::standings`].
    pub(crate) fn load(control: &config::Control) -> Result<Self, LoadError> {
        let chain = certificates(&control.certificate)?;
        let own = papers(&control.certificate, &chain[0])?;
        let cluster = match &own.identity {
            Some(Identity { cluster, subject: Subject::Node { id, .. } })
                if *id == control.node =>
            {
                cluster.clone()
            }
            Some(found) => {
                let expected = format!("node {}", control.node);
                let path = control.certificate.clone();
                return Err(LoadError::Other { path, expected, found: found.clone() });
            }
            None => return Err(LoadError::Nobody { path: control.certificate.clone() }),
        };
        let mut all = vec![(control.certificate.clone(), own)];
        let mut roots = RootCertStore::empty();
        for authority in certificates(&control.ca)? {
            all.push((control.ca.clone(), papers(&control.ca, &authority)?));
            roots.add(authority).map_err(|_| empty(&control.ca, "usable CA certificate"))?;
        }
        check_signed(&chain, &roots, control)?;
        let key = private_key(&control.key)?;
        let signing = provider().key_provider.load_private_key(key);
        let signing = signing.map_err(|_| empty(&control.key, "usable private key"))?;
        let key = CertifiedKey::new(chain, signing);
        if key.keys_match().is_err() {
            let (key, path) = (control.key.clone(), control.certificate.clone());
            return Err(LoadError::Pair { key, path });
        }
        let (key, roots) = (Arc::new(key), Arc::new(roots));
        Ok(Self { cluster, node: control.node, papers: all, key, roots })
    }

    /// How each certificate stands at `now`, in seconds since 1970, with its file.
    pub(crate) fn standings(&self, now: i64) -> Vec<(&Path, Standing)> {
        self.papers.iter().map(|(path, papers)| (&**path, standing(papers, now))).collect()
    }

    /// Tells the log about certificates that end soon or have ended.
    pub(crate) fn log_standings(&self) {
        for (path, standing) in self.standings(now()) {
            let path = path.display();
            match standing {
                Standing::Good { .. } => {}
                Standing::Ending { days, until } => warn!(
                    %path, days, %until,
                    "a certificate ends soon; make a new one ('pgx init'), put it in its place and \
                     send pgx a SIGHUP"
                ),
                Standing::Invalid { what, date } => error!(
                    %path, %date,
                    "a certificate {what}: peers refuse new connections; make a new one ('pgx \
                     init'), put it in its place and send pgx a SIGHUP"
                ),
            }
        }
    }

    /// What the side that accepts uses: any of `peers` may come.
    pub(super) fn server(&self, peers: BTreeSet<NodeId>) -> Arc<ServerConfig> {
        let verifier = Verifier::new(&self.roots, &self.cluster, peers);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        // A resumed session would skip the check of certificates.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// What the side that connects uses: only `peer` may answer.
    pub(super) fn client(&self, peer: NodeId) -> Arc<ClientConfig> {
        let verifier = Verifier::new(&self.roots, &self.cluster, BTreeSet::from([peer]));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Arc::new(config)
    }
}

/// The cryptography that links use.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Every certificate in a PEM file, at least one.
///
/// # Errors
/// When the file cannot be read or has none.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(empty(path, "certificate")),
    }
}

/// What a certificate says.
///
/// # Errors
/// When it is none.
pub(crate) fn papers(path: &Path, found: &CertificateDer<'_>) -> Result<Papers, LoadError> {
    Papers::read(found).map_err(|NoCertificate| empty(path, "readable certificate"))
}

/// The private key in a PEM file that not every user may read.
///
/// # Errors
/// When the file cannot be read, is open to all, or has none.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
    let found = fs::metadata(path);
    let found = found.map_err(|error| LoadError::Read { path: path.to_owned(), error })?;
    private::check_key(path, &found)?;
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| empty(path, "private key"))
}

fn check_signed(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    control: &config::Control,
) -> Result<(), LoadError> {
    let unsigned = || {
        let (path, ca) = (control.certificate.clone(), control.ca.clone());
        LoadError::Unsigned { path, ca }
    };
    let parsed = ParsedCertificate::try_from(&chain[0]).map_err(|_| unsigned())?;
    let algorithms = provider().signature_verification_algorithms.all;
    let now = UnixTime::now();
    let rest = &chain[1..];
    match verify_server_cert_signed_by_trust_anchor(&parsed, roots, rest, now, algorithms) {
        // An end that has passed shows in the standings, and must not stop the node's other roles.
        Ok(())
        | Err(rustls::Error::InvalidCertificate(
            CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. },
        )) => Ok(()),
        Err(_) => Err(unsigned()),
    }
}

fn standing(papers: &Papers, now: i64) -> Standing {
    let until = date(papers.not_after);
    if now < papers.not_before {
        return Standing::Invalid { what: "is not valid yet", date: date(papers.not_before) };
    }
    match papers.days_left(now) {
        None => Standing::Invalid { what: "has expired", date: until },
        Some(days) if days < EXPIRY_WARNING_DAYS => Standing::Ending { days, until },
        Some(_) => Standing::Good { until },
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    fs::read(path).map_err(|error| LoadError::Read { path: path.to_owned(), error })
}

fn empty(path: &Path, what: &'static str) -> LoadError {
    LoadError::Empty { path: path.to_owned(), what }
}
