//! What must hold of the proxy's parsers and exchanges for any bytes.
//!
//! The properties are also a test of `proxy/wire`, over its table of messages, so that they are
//! checked where there is no fuzzer.
#![forbid(unsafe_code)]

pub mod hba;
pub mod properties;
pub mod session;
