//! See `hba` in `src/hba.rs`, which says what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| pgx_proxy_fuzz::hba::hba(bytes));
