//! Runs.
use std::time::Instant;
use std::collections::BTreeSet;
use stateright::{Checker, Model, HasDiscoveries};
use crate::bounds::{Bounds, Bug, Clocks};
use crate::world::Cluster;

fn explore(name: &str, bounds: Bounds) -> BTreeSet<&'static str> {
    let start = Instant::now();
    let finish = if bounds.bug == Bug::None { HasDiscoveries::AnyFailures } else { HasDiscoveries::AnyOf([crate::space::EXCLUSIVE].into()) };
    let checker = Cluster::new(bounds).checker().finish_when(finish).spawn_bfs().join();
    println!("{name}: states {} unique {} depth {} seconds {:.1}", checker.state_count(), checker.unique_state_count(), checker.max_depth(), start.elapsed().as_secs_f64());
    for (name, path) in checker.discoveries() {
        println!("  {name}: {} steps", path.clone().into_actions().len());
        if name == crate::space::EXCLUSIVE || name == crate::space::SHUT_BEFORE { println!("{:?}", path.into_actions()); }
    }
    checker.discoveries().into_keys().collect()
}

#[test]
fn probe() {
    let n = |k: &str, d: u8| std::env::var(k).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
    let mut b = Bounds::plain(n("T", 4));
    b.asks = [n("A0", 1), n("A1", 1), n("A2", 0)];
    b.epochs = n("E", 2);
    b.voter_restarts = n("VR", 0);
    b.holder_restarts = n("HR", 0);
    b.holder_reboots = n("HB", 0);
    b.may_close = n("CL", 0) == 1;
    b.is_thread_late = n("LT", 0) == 1;
    b.settings = n("S", 0);
    b.memberships = n("M", 0);
    b.forgets_log = n("F", 0) == 1;
    b.clocks = [Clocks::Worst, Clocks::Steady, Clocks::Free][usize::from(n("C", 0))];
    b.is_reduced = n("R", 1) == 1;
    use Bug::*;
    b.bug = [None, DeadlineFromReceipt, NoQuietTime, PromisesAtOnce, StatesAtOnce, ForgetsRefusals, MixedSettings, NoClosedEpoch, TwoVotersAtOnce, StatesBeforePromisesEnd, StatesBeforeDurable, StaleClock][usize::from(n("B", 0))];
    println!("{b:?}");
    explore("probe", b);
}
