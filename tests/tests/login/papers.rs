//! An authority, and certificates that it has signed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::unistd::{Gid, Uid, chown};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::os::unix::fs::PermissionsExt;
use time::{Duration, OffsetDateTime};

/// An authority with its certificate in a file.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) file: PathBuf,
}

/// A certificate and its key, in files.
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn make(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let file = folder.join(format!("{name}.crt"));
        std::fs::write(&file, params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), file })
    }

    /// A certificate for this name and 127.0.0.1, valid for so many days from yesterday on.
    pub(crate) fn sign(&self, folder: &Path, name: &str, days: i64) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        params.not_after = params.not_before + Duration::days(days);
        params.subject_alt_names =
            vec![SanType::DnsName(name.try_into()?), SanType::IpAddress([127, 0, 0, 1].into())];
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        let file = |end: &str| folder.join(format!("{name}-{days}.{end}"));
        let pair = Pair { certificate: file("crt"), key: file("key") };
        std::fs::write(&pair.certificate, signed.pem())?;
        std::fs::write(&pair.key, key.serialize_pem())?;
        std::fs::set_permissions(&pair.key, PermissionsExt::from_mode(0o600))?;
        Ok(pair)
    }
}

impl Pair {
    /// The key may be read by this user alone.
    pub(crate) fn give(&self, user: (Uid, Gid)) -> anyhow::Result<()> {
        chown(&self.key, Some(user.0), Some(user.1)).context("cannot give a key away")
    }
}
