//! What the proxy keeps to tell whether a client knows its password, and to log in as it.

use alloc::vec::Vec;
use core::fmt;

use pgx_wire::auth::md5::Stored;
use pgx_wire::auth::scram::{Keys, SALT_BYTES, Verifier, salted_password};
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

    /// Whether this is the password. Takes milliseconds for a verifier.
    pub(crate) fn accepts(&self, password: &[u8], user: &[u8]) -> bool {
        match self {
            // By digests, which are compared without telling by the time what is the same.
            Self::Password(known) => {
                Stored::from_password(known, user) == Stored::from_password(password, user)
            }
            Self::Md5(stored) => *stored == Stored::from_password(password, user),
            Self::Scram(verifier) => {
                let (salt, iterations) = (verifier.salt(), verifier.iterations());
                let salted = salted_password(password, salt, iterations);
                Verifier::new(&salted, salt, iterations).as_ref() == Some(verifier)
            }
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

    /// By what a client's SCRAM proof is judged. For a password it is made: that takes
    /// milliseconds, so the caller keeps it. `None` if it cannot be.
    pub(crate) fn verifier(&self, salt: [u8; SALT_BYTES]) -> Option<Verifier> {
        match self {
            Self::Password(password) => {
                let salted = salted_password(password, &salt, ITERATIONS);
                Verifier::new(&salted, &salt, ITERATIONS)
            }
            Self::Md5(_) => None,
            Self::Scram(verifier) => Some(verifier.clone()),
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

    /// The keys for a server's challenge; `None` if none fit.
    pub(crate) fn keys(
        &mut self,
        secret: Option<&Secret>,
        salt: &[u8],
        iterations: u32,
    ) -> Option<Keys> {
        if let Some((verifier, keys)) = &self.proved
            && verifier.salt() == salt
            && verifier.iterations() == iterations
        {
            return Some(keys.clone());
        }
        let Some(Secret::Password(password)) = secret else { return None };
        match &self.made {
            Some((known, count, keys)) if known == salt && *count == iterations => {
                Some(keys.clone())
            }
            _ => {
                let keys = Keys::from(&salted_password(password, salt, iterations));
                self.made = Some((salt.to_vec(), iterations, keys.clone()));
                Some(keys)
            }
        }
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
    use super::*;

    #[test]
    fn secrets_are_told_apart_by_their_form_and_never_printed() {
        let digest = Stored::from_password(b"x", b"ann");
        assert!(matches!(Secret::parse(digest.text()), Secret::Md5(_)));
        let verifier = Secret::parse(b"x").verifier([1; SALT_BYTES]).unwrap();
        assert!(matches!(Secret::parse(verifier.to_text().as_bytes()), Secret::Scram(_)));
        let plain = Secret::parse(b"SCRAM-SHA-256$broken");
        assert!(matches!(plain, Secret::Password(_)));
        assert_eq!(alloc::format!("{plain:?}"), "Password(..)");
    }

    #[test]
    fn keys_that_a_client_proved_with_serve_servers_with_the_same_verifier_alone() {
        let password = Secret::Password(b"x".to_vec());
        let verifier = password.verifier([1; SALT_BYTES]).unwrap();
        let salted = salted_password(b"x", &[1; SALT_BYTES], ITERATIONS);
        let keys = Keys::from(&salted);
        let kept = Secret::Scram(verifier.clone());
        let mut credentials =
            Credentials { proved: Some((verifier, keys.clone())), ..Credentials::default() };
        let mut get = |salt: [u8; SALT_BYTES]| credentials.keys(Some(&kept), &salt, ITERATIONS);
        assert_eq!((get([1; SALT_BYTES]), get([2; SALT_BYTES])), (Some(keys), None));
    }
}
