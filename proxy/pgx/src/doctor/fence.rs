//! What the fence can stand in on this machine, tried out with real packets where nobody sees it.

use pgx_bpf::{Error, Hook, Objects, Rehearsal, rehearse};

use super::{Finding, State};
use crate::config::{self, Means};

/// Tries every hook; one that does not work is trouble only where it was to be used and no other
/// takes its place.
pub(super) fn examine(config: Option<&config::Fence>) -> Vec<Finding> {
    findings(rehearse(&Objects::embedded()), config)
}

fn findings(rehearsals: Vec<Rehearsal>, config: Option<&config::Fence>) -> Vec<Finding> {
    let best = match config.map(|fence| fence.best) {
        Some(Means::Programs(best)) => Some(best),
        _ => None,
    };
    let works = |one: &Rehearsal| one.result.is_ok() && best.is_none_or(|best| one.hook >= best);
    let is_lost = best.is_some() && !rehearsals.iter().any(works);
    rehearsals.into_iter().map(|one| finding(one.hook, one.result, is_lost)).collect()
}

fn finding(hook: Hook, result: Result<(), Error>, is_lost: bool) -> Finding {
    let name = format!("fence by {hook}");
    match result {
        Ok(()) => {
            let found = "a shut fence answers a connection attempt by a reset".to_owned();
            Finding { name, state: State::Good, found, next_step: String::new() }
        }
        Err(error) => Finding {
            name,
            state: if is_lost { State::Broken } else { State::Reduced },
            found: error.to_string(),
            next_step: match hook {
                Hook::Native | Hook::Generic => "tcx or clsact do the same, a little later",
                _ => "nftables are the last resort: they bound a dead agent only",
            }
            .to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(works: [bool; 4]) -> Vec<Rehearsal> {
        let lacks = || Error::Unprivileged { doing: "load BPF programs", capability: "CAP_BPF" };
        let pairs = Hook::INTERFACE.into_iter().zip(works);
        pairs
            .map(|(hook, works)| Rehearsal { hook, result: works.then_some(()).ok_or_else(lacks) })
            .collect()
    }

    fn states(works: [bool; 4], best: Option<Hook>) -> Vec<State> {
        let config = best.map(|best| config::Fence { port: 5432, best: Means::Programs(best) });
        findings(shown(works), config.as_ref()).into_iter().map(|found| found.state).collect()
    }

    #[test]
    fn hook_that_another_stands_in_for_is_no_trouble() {
        let found = states([false, true, true, false], Some(Hook::Native));
        assert_eq!(found, [State::Reduced, State::Good, State::Good, State::Reduced]);
        assert_eq!(states([false; 4], None), [State::Reduced; 4]);
    }

    #[test]
    fn configured_fence_without_any_hook_is_broken() {
        assert_eq!(states([false; 4], Some(Hook::Native)), [State::Broken; 4]);
        let found = states([true, true, false, false], Some(Hook::Tcx));
        assert_eq!(found[2..], [State::Broken; 2]);
    }
}
