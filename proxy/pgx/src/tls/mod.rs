//! What the proxy encrypts with: certificates and keys from files, checked when they are read.
//!
//! How single connections are encrypted is in [`crate::workers`].

mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgx_session::config::Tls;
use pgx_session::net::Names;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, X509Certificate};

use self::verify::{AnyName, Anybody};
use crate::peer::certificates::{certificates, private_key, provider};

/// The protocol's name in a TLS handshake.
pub(crate) const ALPN: &[u8] = b"postgresql";

/// That of HTTP/1.1.
const HTTP_ALPN: &[u8] = b"http/1.1";

/// How far the other side's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Not at all.
    Nothing,
    /// An authority that is trusted has signed it.
    Authority,
    /// It is for the name by which the other side is known, too.
    Name,
}

/// What is said of one leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) mode: Tls,
    pub(crate) check: Check,
    /// Our certificate and key.
    pub(crate) own: Option<(PathBuf, PathBuf)>,
    /// The authorities that we trust.
    pub(crate) ca: Option<PathBuf>,
}

/// What both legs are encrypted with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Papers {
    /// For clients; `None` if their connections are not encrypted.
    pub(crate) accept: Option<Accept>,
    /// For servers, likewise.
    pub(crate) connect: Option<Arc<ClientConfig>>,
}

/// What clients' connections are encrypted with.
#[derive(Clone, Debug)]
pub(crate) struct Accept {
    pub(crate) config: Arc<ServerConfig>,
    /// See [`end_point`].
    pub(crate) end_point: Option<Vec<u8>>,
}

impl Papers {
    /// Reads what the two legs need.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what it should be.
    pub(crate) fn load(clients: &Leg, servers: &Leg) -> Result<Self, String> {
        let accept = (clients.mode != Tls::Never).then(|| accept(clients)).transpose()?;
        let connect = (servers.mode != Tls::Never).then(|| connect(servers)).transpose()?;
        Ok(Self { accept, connect })
    }
}

/// What clients of HTTP are encrypted with.
///
/// # Errors
/// When a file cannot be read, or is not what it should be.
pub(crate) fn for_http(leg: &Leg) -> Result<Arc<ServerConfig>, String> {
    let mut config = Arc::unwrap_or_clone(accept(leg)?.config);
    config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// What `pgx ctl` goes to another host with: its own certificate and key, and the authority that
/// has signed the other side's, whose name counts.
///
/// # Errors
/// As for [`for_http`].
pub(crate) fn for_ctl(ca: &Path, own: (PathBuf, PathBuf)) -> Result<Arc<ClientConfig>, String> {
    let (check, own, ca) = (Check::Name, Some(own), Some(ca.to_owned()));
    let mut config = Arc::unwrap_or_clone(connect(&Leg { mode: Tls::Required, check, own, ca })?);
    config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn accept(leg: &Leg) -> Result<Accept, String> {
    let key = own_key(leg)?.ok_or("proxy.client_tls_cert_file is needed for client_tls_sslmode")?;
    let end_point = key.cert.first().and_then(end_point);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?;
    let verifier = match &leg.ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let builder =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider());
            let builder = match leg.check {
                // Who has none may log in in another way.
                Check::Nothing => builder.allow_unauthenticated(),
                Check::Authority | Check::Name => builder,
            };
            let built = builder.build().map_err(|error| format!("{}: {error}", path.display()))?;
            built as Arc<dyn ClientCertVerifier>
        }
    };
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::new(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Accept { config: Arc::new(config), end_point })
}

fn connect(leg: &Leg) -> Result<Arc<ClientConfig>, String> {
    let algorithms = provider().signature_verification_algorithms;
    let trusted = || -> Result<Arc<WebPkiServerVerifier>, String> {
        let path = leg.ca.as_deref().ok_or("proxy.server_tls_ca_file is needed to verify")?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(path)?), provider())
            .build()
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    let verifier: Arc<dyn ServerCertVerifier> = match leg.check {
        Check::Nothing => Arc::new(Anybody(algorithms)),
        Check::Authority => Arc::new(AnyName(trusted()?)),
        Check::Name => trusted()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own_key(leg)? {
        Some(key) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::new(key))))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn own_key(leg: &Leg) -> Result<Option<CertifiedKey>, String> {
    let Some((certificate, key)) = &leg.own else { return Ok(None) };
    let chain = certificates(certificate).map_err(|error| error.to_string())?;
    let secret = private_key(key).map_err(|error| error.to_string())?;
    let unusable = |error| format!("the key in {} cannot be used: {error}", key.display());
    let signing = provider().key_provider.load_private_key(secret).map_err(unusable)?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        Ok(()) => Ok(Some(pair)),
        Err(_) => Err(format!(
            "the key in {} does not belong to the certificate in {}",
            key.display(),
            certificate.display()
        )),
    }
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path).map_err(|error| error.to_string())? {
        roots.add(authority).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(roots)
}

/// The hash of a certificate by which a login is bound to a connection (RFC 5929,
/// `tls-server-end-point`): of the kind that its signature is made with, but never a weak one.
/// `None` for signatures that have no such kind, as Ed25519's.
pub(crate) fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // MD5 and SHA-1 with RSA, SHA-1 with ECDSA, and SHA-256 with either.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10045.4.1"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => {
            Some(Sha384::digest(certificate).to_vec())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

/// Who a certificate is for.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Option<Names> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let text = |attribute: &AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned);
    let common = subject.iter_common_name().last().and_then(|name| text(name).ok());
    let parts = subject.iter_rdn().map(|part| {
        let pairs = part.iter().map(|pair| {
            let kind = oid2abbrev(pair.attr_type(), oid_registry()).ok()?;
            Some(format!("{kind}={}", escaped(&text(pair).ok()?)))
        });
        pairs.collect::<Option<Vec<_>>>().map(|pairs| pairs.join("+"))
    });
    // As written in RFC 2253, which PostgreSQL goes by, the last part comes first.
    let parts: Option<Vec<String>> = parts.collect();
    let distinguished = parts.map(|mut parts| {
        parts.reverse();
        parts.join(",")
    });
    Some(Names {
        common: common.unwrap_or_default().into_bytes(),
        distinguished: distinguished.unwrap_or_default().into_bytes(),
    })
}

/// A value of a distinguished name, in the form of RFC 2253.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    let last = value.chars().count().saturating_sub(1);
    for (at, letter) in value.chars().enumerate() {
        let is_at_end = (at == 0 && matches!(letter, ' ' | '#')) || (at == last && letter == ' ');
        if is_at_end || matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}
