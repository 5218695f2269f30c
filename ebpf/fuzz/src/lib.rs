//! What must hold of the rules for any bytes, and the packets that a fuzzer begins with.
//!
//! The properties are also a test of `ebpf/rules`, over its table of packets, so that they are
//! checked where there is no fuzzer.
#![forbid(unsafe_code)]

pub mod properties;
pub mod steering;
