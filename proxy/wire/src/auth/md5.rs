//! PostgreSQL's md5 method: weak, but what old clients and servers still speak.
//!
//! What is stored, `md5` and a digest of password and user, is as good as the password to whoever
//! steals it. Source: PostgreSQL's documentation, "Password Authentication" and "Message Flow".

use core::fmt;

use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// What stored passwords and answers begin with.
const PREFIX: &[u8; 3] = b"md5";
/// Bytes of a stored password, and of an answer.
pub const TEXT_BYTES: usize = PREFIX.len() + 32;

/// A stored password. Wiped when dropped and not printed.
#[derive(Clone)]
pub struct Stored([u8; TEXT_BYTES]);

impl Stored {
    /// Digests a password; the user's name is its salt.
    #[must_use]
    pub fn from_password(password: &[u8], user: &[u8]) -> Self {
        Self(digest(password, user))
    }

    /// Reads `md5` and 32 hexadecimal digits, in lower case as PostgreSQL writes them; `None` for
    /// anything else, which then is no password of this method.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; TEXT_BYTES] = text.try_into().ok()?;
        let digits = text.strip_prefix(PREFIX)?;
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.iter().all(is_digit).then_some(Self(*text))
    }

    /// As it is stored.
    #[must_use]
    pub fn text(&self) -> &[u8; TEXT_BYTES] {
        &self.0
    }

    /// What a client answers to this salt.
    #[must_use]
    pub fn answer(&self, salt: [u8; 4]) -> [u8; TEXT_BYTES] {
        digest(&self.0[PREFIX.len()..], &salt)
    }

    /// Whether a client that answered so to this salt knows the password.
    #[must_use]
    pub fn accepts(&self, answer: &[u8], salt: [u8; 4]) -> bool {
        self.answer(salt).ct_eq(answer).into()
    }
}

/// How a password that came as it is can be compared with what is stored.
impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Stored {}

impl Drop for Stored {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Stored(..)")
    }
}

fn digest(secret: &[u8], salt: &[u8]) -> [u8; TEXT_BYTES] {
    let digest = Md5::new().chain_update(secret).chain_update(salt).finalize();
    let mut text = [0; TEXT_BYTES];
    text[..PREFIX.len()].copy_from_slice(PREFIX);
    for (at, byte) in digest.iter().enumerate() {
        let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
        text[PREFIX.len() + 2 * at] = hex(byte >> 4);
        text[PREFIX.len() + 2 * at + 1] = hex(byte & 0xf);
    }
    text
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    const SALT: [u8; 4] = [0x2a, 0x3d, 0x8f, 0xe0];

    #[test]
    fn what_postgresql_stores_is_what_is_made_here() {
        // create user m1 password 'secret', on PostgreSQL 15.
        let stored = b"md5132ecbcbfa11be529b63ea4c4e734056";
        assert_eq!(Stored::from_password(b"secret", b"m1").text(), stored);
    }

    #[test]
    fn an_answer_is_that_of_another_implementation() {
        let stored = Stored::from_password(b"password", b"md5_user");
        let oracle = postgres_protocol::authentication::md5_hash(b"md5_user", b"password", SALT);
        assert_eq!(stored.answer(SALT), oracle.as_bytes());
        assert!(stored.accepts(oracle.as_bytes(), SALT));
    }

    #[test]
    fn another_password_user_or_salt_or_a_part_of_the_answer_is_not_accepted() {
        let stored = Stored::from_password(b"password", b"ann");
        let answer = stored.answer(SALT);
        assert!(!stored.accepts(&Stored::from_password(b"Password", b"ann").answer(SALT), SALT));
        assert!(!stored.accepts(&Stored::from_password(b"password", b"bob").answer(SALT), SALT));
        assert!(!stored.accepts(&answer, [0; 4]));
        assert!(!stored.accepts(&answer[..34], SALT));
        assert!(!stored.accepts(b"", SALT));
        assert!(!stored.accepts(stored.text(), SALT), "what is stored is no answer");
    }

    #[test]
    fn only_what_postgresql_takes_for_a_digest_is_one() {
        let stored = Stored::from_password(b"password", b"ann");
        assert_eq!(Stored::parse(stored.text()), Some(stored.clone()));
        assert_ne!(stored, Stored::from_password(b"password", b"bob"));
        let upper = stored.text().to_ascii_uppercase();
        let texts = [&upper[..], &stored.text()[1..], b"md5", b"", b"SCRAM-SHA-256$4096:x$y:z"];
        for text in texts {
            assert!(Stored::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_stored_password_is_not_printed() {
        assert_eq!(format!("{:?}", Stored::from_password(b"x", b"y")), "Stored(..)");
    }
}
