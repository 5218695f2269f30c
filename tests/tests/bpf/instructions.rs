//! What the verifier walks of each program: bounded, because a program that grows unnoticed is one
//! day refused by somebody's kernel.

use std::collections::BTreeMap;

use libtest_mimic::Trial;
use pgx_tests::programs::{compare_instructions, verified_instructions};
use pgx_tests::skip::{Requirement, trial};

/// Written by `cargo xtask bench xdp --record`, on Linux 6.18.
const RECORDED: &str = include_str!("instructions.json");

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf];
    vec![trial("the_verifier_walks_at_most_a_fifth_more_than_recorded", needs, bounded)]
}

fn bounded() -> anyhow::Result<()> {
    let recorded: BTreeMap<String, u32> = serde_json::from_str(RECORDED)?;
    compare_instructions(&recorded, &verified_instructions()?)
}
