//! `pgx doctor`: what this machine allows, what pgx makes of it, and what to do about the rest.

mod backend;
mod certificates;
mod enforced;
mod fence;
mod postgres;
mod vip;

use std::fmt::Write;
use std::path::Path;

use pgx_bpf::{BPFFS, Feature, Objects};
use pgx_ring::Support;
use serde::Serialize;

use crate::cli::Doctor;
use crate::config::{self, Config};
use crate::exit::Failure;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What it is.
    name: String,
    /// How it stands.
    state: State,
    /// What was found.
    found: String,
    /// What to do about it; empty when nothing.
    next_step: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// As it should be.
    Good,
    /// pgx works, but less well than it could.
    Reduced,
    /// What the configuration asks for does not work.
    Broken,
    /// So it is, and nothing is to be done about it.
    Note,
}

/// Looks, prints, and fails when something that the configuration asks for is broken.
pub(crate) fn run(arguments: &Doctor) -> Result<(), Failure> {
    let config = arguments.config.as_deref().map(config::load).transpose()?;
    let findings = examine(config.as_ref());
    if arguments.json {
        let text = serde_json::to_string_pretty(&findings)
            .map_err(|error| Failure::Failed(format!("cannot print findings: {error}")))?;
        println!("{text}");
    } else {
        print!("{}", table(&findings));
    }
    let broken = findings.iter().any(|finding| finding.state == State::Broken);
    if broken { Err(Failure::Trouble) } else { Ok(()) }
}

fn examine(config: Option<&Config>) -> Vec<Finding> {
    let mut findings = vec![ring()];
    let vip = config.and_then(|config| config.vip.as_ref());
    let interfaces: Vec<_> = vip.iter().map(|vip| &*vip.interface).collect();
    let features = pgx_bpf::probe(&Objects::embedded(), Path::new(BPFFS), &interfaces);
    findings.extend(features.into_iter().map(|feature| bpf(feature, vip.is_some())));
    let fences = fence::examine(config.and_then(|config| config.fence.as_ref()));
    let fence = fences.iter().any(|found| found.state == State::Good);
    findings.extend(fences);
    findings.extend(vip.into_iter().flat_map(vip::examine));
    let proxy = config.and_then(|config| config.proxy.as_ref());
    for address in proxy.iter().flat_map(|proxy| &proxy.backends) {
        findings.push(backend::examine(address));
    }
    let control = config.and_then(|config| config.control.as_ref());
    findings.extend(control.into_iter().flat_map(certificates::examine));
    let postgres = config.and_then(|config| config.postgres.as_ref());
    findings.extend(postgres.map(postgres::examine));
    let both = postgres.zip(control);
    findings.extend(both.into_iter().flat_map(|(own, control)| postgres::troubles(own, control)));
    if let Some(config) = config {
        let xdp = pgx_bpf::can_load(&Objects::embedded()).is_ok();
        findings.extend(enforced::examine(config, enforced::Allowed { fence, xdp }));
    }
    findings
}

fn ring() -> Finding {
    let name = "io_uring".to_owned();
    let (state, found, next_step) = match pgx_ring::probe() {
        Support::Full => (State::Good, "all that the engine wants".to_owned(), ""),
        Support::Reduced(missing) => {
            (State::Reduced, missing.to_string(), "Linux 6.1 or later has the rest")
        }
        Support::None(missing) => (
            State::Reduced,
            missing.to_string(),
            "see the sysctl kernel.io_uring_disabled and the container's system call filter; pgx \
             works without it, at a higher cost",
        ),
    };
    Finding { name, state, found, next_step: next_step.to_owned() }
}

/// A BPF feature that is missing is trouble only where the configuration needs it.
fn bpf(feature: Feature, is_needed: bool) -> Finding {
    let state = match (feature.is_met, is_needed) {
        (true, _) if feature.next_step.is_none() => State::Good,
        (true, _) | (false, false) => State::Reduced,
        (false, true) => State::Broken,
    };
    let found = if feature.is_met {
        feature.found
    } else {
        format!("{}; needed: {}", feature.found, feature.needed)
    };
    let next_step = feature.next_step.unwrap_or_default();
    Finding { name: feature.name, state, found, next_step }
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or_default();
    for finding in findings {
        let state = match finding.state {
            State::Good => "good",
            State::Reduced => "reduced",
            State::Broken => "BROKEN",
            State::Note => "note",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{state:<8} {:<width$}  {}", finding.name, finding.found);
        if !finding.next_step.is_empty() {
            let _ = writeln!(text, "{:<8} {:<width$}  -> {}", "", "", finding.next_step);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(is_met: bool) -> Feature {
        Feature {
            name: "BPF programs".to_owned(),
            is_met,
            found: "cannot load".to_owned(),
            needed: "CAP_BPF",
            next_step: (!is_met).then(|| "run as root".to_owned()),
        }
    }

    #[test]
    fn missing_feature_is_broken_only_where_the_configuration_needs_it() {
        assert_eq!(bpf(feature(false), true).state, State::Broken);
        assert_eq!(bpf(feature(false), false).state, State::Reduced);
        assert_eq!(bpf(feature(true), true).state, State::Good);
    }

    #[test]
    fn table_says_what_to_do_next() {
        let text = table(&[bpf(feature(false), true)]);
        assert!(text.contains("BROKEN") && text.contains("-> run as root"), "{text}");
    }
}
