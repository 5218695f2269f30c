//! What a server keeps of a password: enough to check it, not enough to log in with it elsewhere.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Key, Keys, Mechanism, SALT_BYTES, SaltedPassword, hmac, message, stored_key};
use crate::limits::{SCRAM_ITERATIONS_MAX, SCRAM_ITERATIONS_MIN, SCRAM_SALT_BYTES_MAX};

/// A stored password in PostgreSQL's form, `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
/// Whoever has it can pose as the server, and try passwords; so it is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored: Key,
    server: Key,
}

impl Verifier {
    /// Makes a verifier of what [`super::salted_password`] made with this salt and count; `None`
    /// when salt or count is out of bounds.
    #[must_use]
    pub fn new(salted: &SaltedPassword, salt: &[u8], iterations: u32) -> Option<Self> {
        let Keys { client, server } = Keys::from(salted);
        let stored = stored_key(&client);
        let verifier = Self { iterations, salt: salt.to_vec(), stored, server };
        verifier.in_bounds()
    }

    /// Reads PostgreSQL's form; `None` for anything else, which then is no password of this method.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(Mechanism::Plain.name().as_bytes())?.strip_prefix(b"$")?;
        let (how, keys) = split(rest, b'$')?;
        let (iterations, salt) = split(how, b':')?;
        let (stored, server) = split(keys, b':')?;
        let verifier = Self {
            iterations: message::iterations(iterations).ok()?,
            salt: STANDARD.decode(salt).ok()?,
            stored: message::key(stored)?,
            server: message::key(server)?,
        };
        verifier.in_bounds()
    }

    /// A verifier that no password fits, for a user that does not exist. It is the same each time,
    /// as a real one would be, and nobody without the secret can tell it from a real one.
    /// `iterations` is the count that real users have; one out of bounds is brought within them.
    #[must_use]
    pub fn mock(secret: &Key, user: &[u8], iterations: u32) -> Self {
        // Labels end in NUL, which no name of a user has: no label and name make another label's.
        let salt = hmac(secret, &[b"salt\0", user]);
        Self {
            iterations: iterations.clamp(SCRAM_ITERATIONS_MIN, SCRAM_ITERATIONS_MAX),
            salt: salt.bytes()[..SALT_BYTES].to_vec(),
            // What hashes to this is not known to anybody.
            stored: hmac(secret, &[b"stored\0", user]),
            server: hmac(secret, &[b"server\0", user]),
        }
    }

    /// PostgreSQL's form.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let [salt, stored, server] = [&self.salt[..], self.stored.bytes(), self.server.bytes()]
            .map(|it| STANDARD.encode(it));
        let (name, iterations) = (Mechanism::Plain.name(), self.iterations);
        Zeroizing::new(format!("{name}${iterations}:{salt}${stored}:{server}"))
    }

    /// How often the password was hashed.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// What the password was hashed with.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// What a client's key hashes to.
    pub(super) fn stored(&self) -> &Key {
        &self.stored
    }

    /// What a server proves itself with.
    pub(super) fn server(&self) -> &Key {
        &self.server
    }

    /// Whether a password, hashed with this salt and count, is the one that was meant.
    #[must_use]
    pub fn accepts(&self, salted: &SaltedPassword) -> bool {
        stored_key(&Keys::from(salted).client) == self.stored
    }

    fn in_bounds(self) -> Option<Self> {
        let is_counted = (SCRAM_ITERATIONS_MIN..=SCRAM_ITERATIONS_MAX).contains(&self.iterations);
        let is_salted = (1..=SCRAM_SALT_BYTES_MAX).contains(&self.salt.len());
        (is_counted && is_salted).then_some(self)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Verifier({} iterations, ..)", self.iterations)
    }
}

/// What is before and behind the first of these bytes.
fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let found = text.iter().position(|&byte| byte == at)?;
    Some((&text[..found], &text[found + 1..]))
}
