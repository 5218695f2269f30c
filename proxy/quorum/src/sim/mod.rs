//! A disk that loses power, for tests and simulators. It must not know the engine: the real store
//! runs on it as on a file.

mod disk;
mod rng;

pub use disk::{SimDisk, SimFile};
pub use rng::Rng;
