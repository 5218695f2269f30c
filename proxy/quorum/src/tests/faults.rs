//! Clusters under faults of every kind, from seeds. More seeds: `PGX_QUORUM_SEEDS=5000`; one run
//! again: `PGX_QUORUM_SEED=17`.

use super::cluster::{Cluster, Faults, node};
use crate::NodeId;
use crate::sim::Rng;

/// Ticks with faults in each run.
const FAULT_TICKS: u64 = 300;

/// The seeds to run: some by default, more or one alone if the environment says so.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("PGX_QUORUM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PGX_QUORUM_SEEDS").unwrap_or(default),
    }
}

/// Says how to run a seed again when the test fails in it.
struct Reproduce(u64);

impl Drop for Reproduce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run again: PGX_QUORUM_SEED={} cargo test -p pgx-quorum faults", self.0);
        }
    }
}

fn faults(rng: &mut Rng) -> Faults {
    Faults {
        loss: rng.below(25),
        duplication: rng.below(10),
        delay_max: rng.below(6),
        partition: rng.below(4),
        crash: rng.below(5),
        propose: 10 + rng.below(50),
    }
}

fn run(voters: u64, seed: u64) -> Cluster {
    let _reproduce = Reproduce(seed);
    let mut cluster = Cluster::new(voters, seed, seed);
    for _ in 0..3 {
        cluster.faults = faults(&mut cluster.rng);
        for _ in 0..FAULT_TICKS / 3 {
            cluster.tick();
        }
    }
    let ids: Vec<NodeId> = (1..=voters).map(node).collect();
    cluster.heal(&ids);
    cluster
}

fn run_all(voters: u64, default: u64) {
    let (mut runs, mut elections, mut committed) = (0, 0, 0);
    for seed in seeds(default) {
        let cluster = run(voters, seed);
        runs += 1;
        elections += cluster.checks.elections();
        committed += cluster.checks.committed();
    }
    println!("{runs} runs of {voters} voters: {elections} elections, {committed} entries");
    assert!(committed >= runs, "the faults left nothing to look at");
}

#[test]
fn three_voters_agree_and_heal_whatever_happens() {
    run_all(3, 60);
}

#[test]
fn five_voters_agree_and_heal_whatever_happens() {
    run_all(5, 25);
}

#[test]
fn same_seed_gives_the_same_run_to_the_last_byte() {
    for seed in 0..10 {
        let (first, second) = (run(3, seed), run(3, seed));
        assert!(first.checks.outputs_count > 1000);
        assert_eq!(first.checks.outputs_count, second.checks.outputs_count);
        assert_eq!(first.checks.outputs, second.checks.outputs, "seed {seed}");
    }
}

#[test]
fn another_election_seed_elects_somebody_else() {
    let first = |election_seed| {
        let mut cluster = Cluster::new(3, 0, election_seed);
        cluster.tick_until(100, |cluster| cluster.coordinator().is_some());
        cluster.checks.first_coordinator().expect("somebody is elected")
    };
    let elected: std::collections::BTreeSet<_> = (0..20).map(first).collect();
    assert_eq!(elected.len(), 3, "{elected:?}");
}
