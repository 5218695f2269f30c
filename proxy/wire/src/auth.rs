//! Proofs of identity: PostgreSQL's md5 method, and SCRAM-SHA-256 of both sides.
//!
//! All of it computes on bytes: nonces and salts are passed in, random bytes that the caller draws.
//! It must not know where passwords are kept, nor who may log in. Values that could let somebody
//! in are wiped when they are dropped and are not printed; the states of hashes on the way are not.

mod key;
pub mod md5;
mod password;
pub mod scram;

pub use key::Key;
