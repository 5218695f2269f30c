//! The object `pgx`: everything that the product loads, all sharing one set of maps.
//!
//! A program is a file of its own: context → facts → verdict. [`frame`] and [`skb`] are the only
//! readers of packet bytes, [`maps`] of maps, [`counters`] is the only writer of counters; what a
//! packet means is decided in `ebpf/rules`, and names come from `ebpf/abi`.

#![no_std]
#![no_main]

mod counters;
mod fence;
mod fence_cgroup;
mod fence_tc;
mod frame;
mod maps;
mod object;
mod refuse;
mod root;
mod skb;
mod steer;
mod steer_maps;
mod vip;
mod walk;
