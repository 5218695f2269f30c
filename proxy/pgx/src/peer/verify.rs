//! Decides whether a peer's certificate is good: signed by the cluster's CA, in its time, of our
//! cluster, and of a node that is expected on this connection.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use pgx_control::ids::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    RootCertStore, SignatureScheme,
};

use super::certificates::provider;
use super::identity::{Identity, Papers, Subject};

/// Whom a certificate names, and why that is not who may be at the other end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WrongIdentity {
    /// A certificate of our CA, but not of a node.
    #[error("its certificate names no node of a pgx cluster; make one by 'pgx init node'")]
    Nobody,
    /// Another cluster under the same CA.
    #[error("its certificate is for cluster {found}, expected {expected}")]
    Cluster { expected: String, found: String },
    /// Another node of our cluster.
    #[error(
        "its certificate is for node {found}, expected {}; check control.peers on both sides",
        list(expected)
    )]
    Node { expected: BTreeSet<NodeId>, found: NodeId },
}

/// Checks certificates of peers, on both sides.
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    /// Checks the chain of those who connect; the purpose in the certificate differs by side.
    clients: Arc<dyn ClientCertVerifier>,
    cluster: String,
    expected: BTreeSet<NodeId>,
}

impl Verifier {
    /// A verifier that accepts the `expected` nodes of the cluster.
    pub(super) fn new(
        roots: &Arc<RootCertStore>,
        cluster: &str,
        expected: BTreeSet<NodeId>,
    ) -> Self {
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
            .build()
            .expect("certificates are only made with at least one authority");
        let (roots, cluster) = (Arc::clone(roots), cluster.to_owned());
        Self { provider: provider(), roots, clients, cluster, expected }
    }

    fn check_identity(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        identify(certificate, &self.cluster, &self.expected).map(|_| ()).map_err(|wrong| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong))))
        })
    }
}

/// The node that a certificate names, if it is one of `expected` in `cluster`.
fn identify(
    certificate: &CertificateDer<'_>,
    cluster: &str,
    expected: &BTreeSet<NodeId>,
) -> Result<NodeId, WrongIdentity> {
    let identity = Papers::read(certificate).ok().and_then(|papers| papers.identity);
    let Some(Identity { cluster: found, subject: Subject::Node { id, .. } }) = identity else {
        return Err(WrongIdentity::Nobody);
    };
    if found != cluster {
        return Err(WrongIdentity::Cluster { expected: cluster.to_owned(), found });
    }
    if !expected.contains(&id) {
        return Err(WrongIdentity::Node { expected: expected.clone(), found: id });
    }
    Ok(id)
}

/// The node at the other end of a connection whose handshake is done.
pub(super) fn peer_of(
    certificates: Option<&[CertificateDer<'_>]>,
) -> Result<NodeId, WrongIdentity> {
    let papers = certificates.and_then(<[_]>::first).and_then(|first| Papers::read(first).ok());
    match papers.and_then(|papers| papers.identity) {
        Some(Identity { subject: Subject::Node { id, .. }, .. }) => Ok(id),
        _ => Err(WrongIdentity::Nobody),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        self.check_identity(certificate)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerMisbehaved(PeerMisbehaved::SelectedUnusableCipherSuiteForVersion))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Whoever connects has one certificate and needs no hint; a stranger learns no name.
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.clients.verify_client_cert(certificate, intermediates, now)?;
        self.check_identity(certificate)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Verifier({}, {})", self.cluster, list(&self.expected))
    }
}

fn list(nodes: &BTreeSet<NodeId>) -> String {
    let nodes: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
    if nodes.is_empty() { "none".to_owned() } else { nodes.join(" or ") }
}
