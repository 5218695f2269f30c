//! Support for the tests: the lab and what tests share.

pub mod chaos;
pub mod checker;
pub mod cluster;
pub mod crowd;
pub mod database;
pub mod gate;
pub mod lab;
pub mod members;
pub mod node;
pub mod objects;
pub mod programs;
pub mod scrape;
pub mod skip;
pub mod tap;
