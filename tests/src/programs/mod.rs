//! The product's programs in the kernel's test-run: what a packet costs, and how much the verifier
//! has to walk.
//!
//! A fixture is a program, a packet, and what stands in the maps (`fixtures`); how it is measured
//! stands in `measure`. Whoever writes a program adds its fixtures, and its name to [`ALL`].

mod fixtures;
mod measure;

use std::collections::BTreeMap;
use std::io::ErrorKind;

use anyhow::{Context as _, ensure};
use aya::Ebpf;
use aya::programs::{Program as Loaded, ProgramError};
use pgx_abi::{
    FENCE, FENCE_CGROUP_IN, FENCE_CGROUP_OUT, FENCE_IN, FENCE_OUT, PGX_ROOT, REFUSE, STEER,
    STEER_AWAY, VIP,
};

pub use measure::{Row, measure};

use crate::objects::objects;

/// Every program of the product.
pub const ALL: [&str; 10] = [
    PGX_ROOT,
    FENCE,
    VIP,
    STEER,
    STEER_AWAY,
    REFUSE,
    FENCE_IN,
    FENCE_OUT,
    FENCE_CGROUP_IN,
    FENCE_CGROUP_OUT,
];

/// What the verifier walks of each program.
///
/// # Errors
/// When a program cannot be loaded, or the kernel does not tell (before Linux 5.16).
pub fn verified_instructions() -> anyhow::Result<BTreeMap<String, u32>> {
    let mut ebpf = Ebpf::load(objects()?.pgx())?;
    let count = |name: &&str| Ok((String::from(*name), load(&mut ebpf, name)?));
    ALL.iter().map(count).collect()
}

/// Loads a program, and returns what the verifier walked of it.
fn load(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<u32> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    let info = match program {
        Loaded::Xdp(xdp) => {
            again(|| xdp.load())?;
            xdp.info()?
        }
        Loaded::SchedClassifier(classifier) => {
            again(|| classifier.load())?;
            classifier.info()?
        }
        Loaded::CgroupSkb(cgroup) => {
            again(|| cgroup.load())?;
            cgroup.info()?
        }
        other => anyhow::bail!("{name} is a {:?}", other.prog_type()),
    };
    info.verified_instruction_count().context("this kernel does not tell what it verified")
}

/// Does it again while the verifier says that it was interrupted, by a signal.
fn again(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const TRIES_MAX: usize = 5;
    let mut outcome = load();
    for _ in 1..TRIES_MAX {
        let is_interrupted = matches!(
            &outcome,
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == ErrorKind::WouldBlock
        );
        if !is_interrupted {
            break;
        }
        outcome = load();
    }
    outcome
}

/// Compares what the verifier walks with what was recorded: a fifth more is too much.
///
/// # Errors
/// Naming every program that grew, is new or is gone.
pub fn compare_instructions(
    recorded: &BTreeMap<String, u32>,
    found: &BTreeMap<String, u32>,
) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for (name, count) in found {
        match recorded.get(name) {
            None => wrong.push(format!("{name} is not recorded ({count})")),
            Some(before) if u64::from(*count) * 5 > u64::from(*before) * 6 => {
                wrong.push(format!("{name} grew from {before} to {count}"));
            }
            Some(_) => {}
        }
    }
    let gone = recorded.keys().filter(|name| !found.contains_key(*name));
    wrong.extend(gone.map(|name| format!("{name} is gone")));
    ensure!(
        wrong.is_empty(),
        "what the verifier walks: {}; if that is meant: cargo xtask bench xdp --record",
        wrong.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_more_is_allowed_and_no_more_than_that() {
        let counts = |count| BTreeMap::from([("pgx_root".to_owned(), count)]);
        compare_instructions(&counts(100), &counts(120)).unwrap();
        let grown = compare_instructions(&counts(100), &counts(121)).unwrap_err();
        assert!(grown.to_string().contains("grew from 100 to 121"), "{grown}");
        assert!(compare_instructions(&BTreeMap::new(), &counts(1)).is_err());
        assert!(compare_instructions(&counts(1), &BTreeMap::new()).is_err());
    }
}
