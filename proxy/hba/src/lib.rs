//! Who may log in from where and how: `pg_hba.conf` and `pg_ident.conf` in PostgreSQL's syntax.
//!
//! [`Rules`] are read once and asked for each login, [`Ident`] says which users of the system may
//! be which users of the database. It must not know files, sockets or passwords: files are read by
//! [`Files`], what is known of a client comes as a [`Connection`]. What of PostgreSQL's files works
//! is told in `docs/LOGIN.md`; the model is `src/backend/libpq/hba.c` of PostgreSQL 18.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod connection;
mod files;
mod ident;
pub mod limits;
mod line;
mod pattern;
mod problem;
mod refusal;
mod rule;
mod rules;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod testing;
mod words;

pub use address::{Address, Network};
pub use connection::Connection;
pub use files::{Files, ReadError};
pub use ident::{Ident, Mapped, Mapping, SystemUser};
pub use pattern::{Fault, Pattern};
pub use problem::{Problem, Source, What};
pub use refusal::Refusal;
pub use rule::{ClientCert, ClientName, Database, Encryption, Method, Origin, Rule, User};
pub use rules::Rules;
