//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), as PostgreSQL speaks them.
//!
//! [`server`] lets clients in, [`client`] logs in at servers, a [`Verifier`] is what a server
//! keeps. A server that has let a client in knows its client key, and can log in with it elsewhere
//! under the same verifier, without the password. [`salted_password`] is the one slow step; who
//! serves others meanwhile has it taken on another thread, as [`Work`].

pub mod client;
mod error;
mod message;
pub mod server;
mod verifier;

use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use super::key::{KEY_BYTES, Key};
use super::password::prepare;
pub use error::ScramError;
pub use verifier::Verifier;

/// A mechanism, by its SASL name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Without a tie to the channel.
    Plain,
    /// Tied to the TLS channel: nobody between can have relayed the exchange.
    Plus,
}

impl Mechanism {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "SCRAM-SHA-256",
            Self::Plus => "SCRAM-SHA-256-PLUS",
        }
    }

    /// The mechanism of this name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Plain, Self::Plus].into_iter().find(|it| it.name().as_bytes() == name)
    }
}

/// Random bytes that a nonce is made of, as many as PostgreSQL takes.
pub const NONCE_BYTES: usize = 18;

/// Bytes of salt that a verifier is made with, as many as PostgreSQL takes.
pub const SALT_BYTES: usize = 16;

/// One side's part of what makes an exchange unlike any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(Vec<u8>);

impl Nonce {
    /// Makes a nonce of bytes that nobody can guess and that are never used again.
    #[must_use]
    pub fn from_random(bytes: [u8; NONCE_BYTES]) -> Self {
        Self(STANDARD.encode(bytes).into_bytes())
    }
}

/// What a password and a salt become by slow hashing; all keys come from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaltedPassword(Key);

/// Hashes a password `iterations` times (PBKDF2): a microsecond for each three, where the processor
/// has instructions for SHA. Callers bound `iterations`, as [`client`] and [`Verifier`] do.
#[must_use]
pub fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> SaltedPassword {
    let keyed = keyed(&prepare(password));
    let first = keyed.clone().chain_update(salt).chain_update(1_u32.to_be_bytes());
    let mut round = first.finalize().into_bytes();
    let mut salted: [u8; KEY_BYTES] = round.into();
    for _ in 1..iterations {
        round = keyed.clone().chain_update(round).finalize().into_bytes();
        for (sum, byte) in salted.iter_mut().zip(round) {
            *sum ^= byte;
        }
    }
    round.as_mut_slice().zeroize();
    let key = Key::from(salted);
    salted.zeroize();
    SaltedPassword(key)
}

/// The slow step with all that it needs, so that it can be taken elsewhere. Wiped when dropped.
#[derive(Clone)]
pub struct Work {
    password: Zeroizing<Vec<u8>>,
    salt: Vec<u8>,
    iterations: u32,
}

impl Work {
    /// Hashing this password; callers bound `iterations`.
    #[must_use]
    pub fn new(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        Self { password: Zeroizing::new(password.to_vec()), salt: salt.to_vec(), iterations }
    }

    /// Takes the step: see [`salted_password`].
    #[must_use]
    pub fn salted(&self) -> SaltedPassword {
        salted_password(&self.password, &self.salt, self.iterations)
    }

    /// What tells this work from other work, to those who know the key and to nobody else.
    #[must_use]
    pub fn fingerprint(&self, key: &Key) -> Key {
        let salt_bytes = u64::try_from(self.salt.len()).unwrap_or(u64::MAX).to_be_bytes();
        let count = self.iterations.to_be_bytes();
        hmac(key, &[b"work\0", &count, &salt_bytes, &self.salt, &self.password])
    }
}

impl core::fmt::Debug for Work {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(out, "Work({} iterations, ..)", self.iterations)
    }
}

/// What a client proves itself and its server with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Known to the client alone, and to a server that it has logged in at.
    pub client: Key,
    /// Known to both; by it the server proves itself.
    pub server: Key,
}

impl From<&SaltedPassword> for Keys {
    fn from(salted: &SaltedPassword) -> Self {
        let SaltedPassword(key) = salted;
        Self { client: hmac(key, &[b"Client Key"]), server: hmac(key, &[b"Server Key"]) }
    }
}

/// What a server keeps in the place of a client's key.
fn stored_key(client: &Key) -> Key {
    Key::from(<[u8; KEY_BYTES]>::from(Sha256::digest(client.bytes())))
}

/// The keyed hash of the parts, one behind the other.
fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    let hash = parts.iter().fold(keyed(key.bytes()), |hash, part| hash.chain_update(part));
    Key::from(<[u8; KEY_BYTES]>::from(hash.finalize().into_bytes()))
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests;
