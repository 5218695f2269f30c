//! The engine over real sockets: every test runs on each driver that this machine has.

mod basic;
mod choice;
mod lifecycle;
mod pressure;
mod random;
mod support;
mod threads;
