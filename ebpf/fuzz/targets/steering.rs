//! See `steering` in `src/steering.rs`, which says what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| pgx_fuzz::steering::steering(frame));
