//! The limits of the module under test.

#[path = "../../src/limits/postgres.rs"]
pub(crate) mod postgres;
