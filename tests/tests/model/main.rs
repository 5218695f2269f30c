//! Every order of events, within bounds, of leases and epochs: the real code of `pgx_control`.
//!
//! `docs/MODEL.md` says what is modelled and what is not. The small runs belong to `cargo test`,
//! the large ones to `cargo xtask model`. Read `space` for what must hold, `world` for what can
//! happen, `bounds` for the defects that are planted to see that each is found.

mod bounds;
mod explore;
mod holding;
mod kept;
mod planted;
mod quorum;
mod sound;
mod space;
mod voting;
mod world;
