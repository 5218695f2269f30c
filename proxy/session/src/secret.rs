//! What the proxy keeps to tell whether a client knows its password, and to log in as it.

use alloc::vec::Vec;
use core::fmt;

use pgx_wire::auth::md5::Stored;
use pgx_wire::auth::scram::{Keys, Verifier};
use pgx_wire::backend::Authentication;

/// Iterations of verifiers that are made here; PostgreSQL's default.
pub(crate) const ITERATIONS: u32 = 4_096;

/// A user's secret, as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself: fits every method on either side.
    Password(Vec<u8>),
    /// Its md5 digest: lets clients in by md5, and logs in at servers that ask for md5.
    Md5(Stored),
    /// Its SCRAM verifier: lets clients in by SCRAM; with what their proofs give away the proxy
    /// logs in at servers that keep the same verifier.
    Scram(Verifier),
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Md5(_) => "Md5(..)",
            Self::Scram(_) => "Scram(..)",
        })
    }
}

impl Secret {
    /// Reads a secret in the form in which PostgreSQL and PgBouncer keep it; what is neither a
    /// digest nor a verifier is a password.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        if let Some(stored) = Stored::parse(text) {
            return Self::Md5(stored);
        }
        Verifier::parse(text).map_or_else(|| Self::Password(text.to_vec()), Self::Scram)
    }

    /// Whether this is the password, where that can be said without hashing it.
    pub(crate) fn accepts(&self, password: &[u8], user: &[u8]) -> bool {
        match self {
            // By digests, which are compared without telling by the time what is the same.
            Self::Password(known) => {
                Stored::from_password(known, user) == Stored::from_password(password, user)
            }
            Self::Md5(stored) => *stored == Stored::from_password(password, user),
            Self::Scram(_) => false,
        }
    }

    /// By what a client's md5 answer is judged; `None` if it cannot be.
    pub(crate) fn md5(&self, user: &[u8]) -> Option<Stored> {
        match self {
            Self::Password(password) => Some(Stored::from_password(password, user)),
            Self::Md5(stored) => Some(stored.clone()),
            Self::Scram(_) => None,
        }
    }
}

/// What logs a user in at servers.
#[derive(Debug, Default)]
pub(crate) struct Credentials {
    /// What was looked up of the user.
    pub(crate) found: Option<Secret>,
    /// What clients have proved with, and the verifier that it fits.
    pub(crate) proved: Option<(Verifier, Keys)>,
    /// Keys that were made of a password, for a server's salt and count.
    made: Option<(Vec<u8>, u32, Keys)>,
}

impl Credentials {
    /// The password may be another now.
    pub(crate) fn forget(&mut self) {
        self.made = None;
    }

    /// The keys for a server's challenge; `None` if none are there that fit.
    pub(crate) fn keys(&self, salt: &[u8], iterations: u32) -> Option<Keys> {
        if let Some((verifier, keys)) = &self.proved
            && verifier.salt() == salt
            && verifier.iterations() == iterations
        {
            return Some(keys.clone());
        }
        let (known, count, keys) = self.made.as_ref()?;
        (known == salt && *count == iterations).then(|| keys.clone())
    }

    /// Keys were made of the password.
    pub(crate) fn keep(&mut self, salt: &[u8], iterations: u32, keys: &Keys) {
        self.made = Some((salt.to_vec(), iterations, keys.clone()));
    }
}

/// What is missing for a server's way of asking, in words.
pub(crate) fn missing(asked: &Authentication<'_>) -> &'static str {
    match asked {
        Authentication::ClearText => "the server asks for the password, and it is not known",
        Authentication::Md5 { .. } => "the server asks for md5, and no digest is known",
        Authentication::Sasl { .. } => {
            "the server asks for SCRAM, and neither the password nor the server's verifier is known"
        }
        _ => "the server asks for a way to log in that is not known",
    }
}

#[cfg(test)]
mod tests {
    use pgx_wire::auth::scram::{SALT_BYTES, salted_password};

    use super::*;

    fn verifier() -> (Verifier, Keys) {
        let salted = salted_password(b"x", &[1; SALT_BYTES], ITERATIONS);
        (Verifier::new(&salted, &[1; SALT_BYTES], ITERATIONS).unwrap(), Keys::from(&salted))
    }

    #[test]
    fn secrets_are_told_apart_by_their_form_and_never_printed() {
        let digest = Stored::from_password(b"x", b"ann");
        assert!(matches!(Secret::parse(digest.text()), Secret::Md5(_)));
        let (verifier, _) = verifier();
        assert!(matches!(Secret::parse(verifier.to_text().as_bytes()), Secret::Scram(_)));
        let plain = Secret::parse(b"SCRAM-SHA-256$broken");
        assert!(matches!(plain, Secret::Password(_)));
        assert_eq!(alloc::format!("{plain:?}"), "Password(..)");
    }

    #[test]
    fn keys_that_a_client_proved_with_serve_servers_with_the_same_verifier_alone() {
        let (verifier, keys) = verifier();
        let proved = Some((verifier, keys.clone()));
        let credentials = Credentials { proved, ..Credentials::default() };
        let get = |salt: [u8; SALT_BYTES]| credentials.keys(&salt, ITERATIONS);
        assert_eq!((get([1; SALT_BYTES]), get([2; SALT_BYTES])), (Some(keys), None));
    }

    #[test]
    fn keys_that_were_made_of_a_password_are_kept_until_it_may_be_another() {
        let (_, keys) = verifier();
        let mut credentials = Credentials::default();
        credentials.keep(&[1; SALT_BYTES], ITERATIONS, &keys);
        assert_eq!(credentials.keys(&[1; SALT_BYTES], ITERATIONS), Some(keys));
        assert_eq!(credentials.keys(&[1; SALT_BYTES], ITERATIONS + 1), None);
        credentials.forget();
        assert_eq!(credentials.keys(&[1; SALT_BYTES], ITERATIONS), None);
    }
}
