//! Runs of the model, and the figures that they print.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::bounds::Bounds;
use crate::space::{DURABLE, EXCLUSIVE, SHUT_BEFORE};
use crate::world::Cluster;

/// Walks every world within the bounds: nothing that must not happen does, and what should be
/// possible is.
pub(crate) fn all(name: &str, bounds: Bounds) {
    let finish = HasDiscoveries::AnyFailures;
    let checker = run(name, bounds, finish);
    // Each step, not only the last world: that is what somebody has to read who has broken it.
    for (property, path) in checker.discoveries() {
        if [EXCLUSIVE, SHUT_BEFORE, DURABLE].contains(&property) {
            panic!("{name}: {property:?} does not hold after {:#?}", path.into_actions());
        }
    }
    checker.assert_properties();
}

/// Walks until two gates are open at once, which must happen.
pub(crate) fn until_two_gates(name: &str, bounds: Bounds) {
    until(name, EXCLUSIVE, bounds);
}

/// Walks until this property is broken, which must happen.
pub(crate) fn until(name: &str, property: &'static str, bounds: Bounds) {
    let checker = run(name, bounds, HasDiscoveries::AnyOf([property].into()));
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("{name}: {property:?} holds within {bounds:?}"));
    println!("  {property:?} is broken by {:?}", path.into_actions());
}

fn run(name: &str, bounds: Bounds, finish: HasDiscoveries) -> impl Checker<Cluster> {
    let start = Instant::now();
    let checker = Cluster::new(bounds).checker().finish_when(finish).spawn_bfs().join();
    println!(
        "{name}: {} states, {} unique, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed().as_secs_f64()
    );
    checker
}
