//! The object `pgx`: everything that the product loads, all sharing one set of maps.
//!
//! A program is a file of its own: context → facts → verdict. [`frame`] is the only reader of
//! packet bytes, [`counters`] the only writer of counters; what a packet means is decided in
//! `ebpf/rules`, and names come from `ebpf/abi`.

#![no_std]
#![no_main]

mod counters;
mod frame;
mod object;
mod root;
