//! Makes keys and certificates. Keys are ECDSA on P-256: small, fast to verify, and known to every
//! TLS library and every key store, which Ed25519 is not.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use pgx_control::ids::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use super::InitError;
use super::files::{Pair, read};
use crate::cli::{InitNode, InitPerson};
use crate::peer::certificates::{certificates, papers};
use crate::peer::identity::{Identity, Subject, date, is_name, now};

/// Name of the authority's files.
pub(super) const AUTHORITY: &str = "ca";

/// How long before now a certificate begins, so that a host whose clock is late accepts it.
const CLOCK_SLACK: Duration = Duration::hours(1);

/// Makes an authority in the folder `out` and says what it made.
pub(super) fn authority(cluster: &str, out: &Path, days: u32) -> Result<String, InitError> {
    check_name("cluster", cluster)?;
    let identity = Identity { cluster: cluster.to_owned(), subject: Subject::Authority };
    let mut params = params(&identity, days)?;
    params.distinguished_name.push(DnType::CommonName, "pgx certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let failed = |error| InitError::Crypto { step: "make the authority", error };
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let files = Pair::at(out, AUTHORITY);
    files.write(&key.serialize_pem(), &certificate.pem())?;
    Ok(format!(
        "made the authority of cluster {cluster}, valid until {}:\n  {}  (secret; keep it off the \
         nodes)\n  {}  (goes to every node)\nnext: pgx init node --ca {} --id 1 --node NAME \
         --address HOST:PORT --out DIR\n",
        params.not_after.date(),
        files.key.display(),
        files.certificate.display(),
        out.display(),
    ))
}

/// Makes a node's certificate and says what it made.
pub(super) fn node(wanted: &InitNode) -> Result<String, InitError> {
    check_name("node", &wanted.node)?;
    let files = Pair::at(&wanted.ca, AUTHORITY);
    let (cluster, ends) = read_authority(&files)?;
    let (id, name) = (NodeId(wanted.id), wanted.node.clone());
    let identity = Identity { cluster, subject: Subject::Node { id, name } };
    let mut params = params(&identity, wanted.days)?;
    for_one(&mut params, &wanted.node, ends);
    // Every node accepts and connects.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    for address in &wanted.address {
        params.subject_alt_names.push(alternative_name(address)?);
    }
    let made = sign(&params, &files, &Pair::at(&wanted.out, &wanted.node))?;
    Ok(format!(
        "made the certificate of {identity}, valid until {}:\n  {}  (secret)\n  {}\nboth go to the \
         node, with {}; in its configuration:\n{}{}",
        params.not_after.date(),
        made.key.display(),
        made.certificate.display(),
        files.certificate.display(),
        control_section(wanted),
        peers_section(wanted),
    ))
}

/// Makes the certificate of a person, or of a program that acts for one, and says what it made.
pub(super) fn person(wanted: &InitPerson) -> Result<String, InitError> {
    check_name("name", &wanted.name)?;
    let files = Pair::at(&wanted.ca, AUTHORITY);
    let (cluster, ends) = read_authority(&files)?;
    // Without an identity: nodes do not take it for one of theirs.
    let mut params = plain(&cluster, wanted.days);
    for_one(&mut params, &wanted.name, ends);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let made = sign(&params, &files, &Pair::at(&wanted.out, &wanted.name))?;
    let name = &wanted.name;
    Ok(format!(
        "made a certificate for {name}, valid until {}:\n  {}  (secret)\n  {}\nin the \
         configuration of the nodes that {name} may ask:\n  [http]\n  operators = [\"{name}\"]  # \
         or viewers\nthen: pgx ctl --url https://NODE:{} --ca ca.pem --cert {name}.pem --key \
         {name}.key status\n",
        params.not_after.date(),
        made.key.display(),
        made.certificate.display(),
        crate::config::HTTP_PORT,
    ))
}

/// What certificates of somebody who signs nothing have in common.
fn for_one(params: &mut CertificateParams, name: &str, ends: OffsetDateTime) {
    // A certificate that outlives its authority would promise what it cannot keep.
    params.not_after = params.not_after.min(ends);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
}

/// Makes a key, has the authority sign its certificate, and writes both.
fn sign(params: &CertificateParams, authority: &Pair, made: &Pair) -> Result<Pair, InitError> {
    let failed = |error| InitError::Crypto { step: "make the certificate", error };
    let authority_key = KeyPair::from_pem(&read(&authority.key)?)
        .map_err(|error| InitError::Crypto { step: "read the authority's key", error })?;
    let issuer = Issuer::from_ca_cert_pem(&read(&authority.certificate)?, authority_key)
        .map_err(|error| InitError::Crypto { step: "read the authority", error })?;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    made.write(&key.serialize_pem(), &certificate.pem())?;
    Ok(made.clone())
}

fn check_name(option: &'static str, found: &str) -> Result<(), InitError> {
    if is_name(found) { Ok(()) } else { Err(InitError::Name { option, found: found.to_owned() }) }
}

/// What the certificates of a cluster and its nodes have in common.
fn params(identity: &Identity, days: u32) -> Result<CertificateParams, InitError> {
    let mut params = plain(&identity.cluster, days);
    let uri = identity.to_string();
    let uri = uri.try_into().map_err(|error| InitError::Crypto { step: "name it", error })?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    Ok(params)
}

/// One that names a cluster, and nobody yet.
fn plain(cluster: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, cluster);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + Duration::days(i64::from(days));
    params
}

/// The cluster of an authority, and the last moment at which it is valid.
fn read_authority(files: &Pair) -> Result<(String, OffsetDateTime), InitError> {
    let path = &files.certificate;
    let found = papers(path, &certificates(path)?[0])?;
    let Some(Identity { cluster, subject: Subject::Authority }) = found.identity else {
        return Err(InitError::NoAuthority(path.clone()));
    };
    let ends = OffsetDateTime::from_unix_timestamp(found.not_after);
    match ends {
        Ok(ends) if now() <= found.not_after => Ok((cluster, ends)),
        _ => Err(InitError::AuthorityExpired { path: path.clone(), date: date(found.not_after) }),
    }
}

fn alternative_name(address: &str) -> Result<SanType, InitError> {
    let host = host_of(address);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let wrong = || InitError::Address(address.to_owned());
    let name = host.to_owned().try_into().map_err(|_| wrong())?;
    if is_name(host) { Ok(SanType::DnsName(name)) } else { Err(wrong()) }
}

/// The address without its port.
fn host_of(address: &str) -> &str {
    if address.parse::<IpAddr>().is_ok() {
        return address;
    }
    let host = match address.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => address,
    };
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn control_section(wanted: &InitNode) -> String {
    let folder = "/etc/pgx";
    format!(
        "  [control]\n  node = {}\n  certificate = \"{folder}/{name}.pem\"\n  key = \
         \"{folder}/{name}.key\"\n  ca = \"{folder}/{AUTHORITY}.pem\"\n",
        wanted.id,
        name = wanted.node,
    )
}

/// What the other nodes' configurations need; the first address that has a port is the one.
fn peers_section(wanted: &InitNode) -> String {
    let has_port = |address: &&String| {
        address.parse::<SocketAddr>().is_ok()
            || (host_of(address) != **address && !address.ends_with(']'))
    };
    let Some(address) = wanted.address.iter().find(has_port) else { return String::new() };
    format!(
        "and in that of every other node:\n  [[control.peers]]\n  id = {}\n  address = \
         {address:?}\n",
        wanted.id
    )
}
