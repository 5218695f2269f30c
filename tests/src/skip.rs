//! Tests that need more than a compiler: skipped aloud where the machine lacks it, never passed.
//!
//! A target with `harness = false` makes its tests with [`trial`] and ends with
//! `libtest_mimic::run`. A skipped test is listed as ignored, with the reason before its name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::Trial;
use nix::sched::{CloneFlags, unshare};

use crate::objects::objects;

/// Something a test needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// The rights of root.
    Root,
    /// BPF programs can be loaded.
    Bpf,
    /// Network namespaces and the program `ip` to furnish them.
    Lab,
    /// Debian's pgbouncer, to compare with.
    Pgbouncer,
    /// The pcp commands of Debian's pgpool2, to compare with.
    Pgpool,
}

impl Requirement {
    /// Why this cannot be had here, or `None` if it can. Each is looked at once per process.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        static KNOWN: Mutex<BTreeMap<Requirement, Option<String>>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(self).or_insert_with(|| self.look()).clone()
    }

    fn look(self) -> Option<String> {
        match self {
            Self::Root => {
                (!nix::unistd::geteuid().is_root()).then(|| "needs to run as root".to_owned())
            }
            // Only what the machine lacks is a reason to skip: an object that this kernel refuses
            // has to fail the tests.
            Self::Bpf => match pgx_bpf::can_load(&objects().ok()?) {
                Err(error) if error.is_for_want_of_bpf() => {
                    // What to do about it follows the semicolon, and is for operators.
                    let text = error.to_string();
                    let cause = text.split_once(';').map_or(text.as_str(), |(cause, _)| cause);
                    Some(format!("needs BPF: {cause}"))
                }
                Ok(()) | Err(_) => None,
            },
            Self::Lab => {
                Self::Root.look().or_else(no_namespaces).or_else(|| no_program("ip", "iproute2"))
            }
            Self::Pgbouncer => Self::Root.look().or_else(|| no_program("pgbouncer", "pgbouncer")),
            Self::Pgpool => no_program("pcp_node_info", "pgpool2"),
        }
    }
}

/// A test that runs if every requirement is met, and is reported as skipped with the reason if not.
pub fn trial(
    name: &str,
    requirements: &[Requirement],
    test: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    let missing = requirements.iter().find_map(|requirement| requirement.missing());
    let trial = Trial::test(name, move || test().map_err(|error| format!("{error:?}").into()));
    match missing {
        None => trial,
        Some(reason) => trial.with_kind(format!("SKIPPED: {reason}")).with_ignored_flag(true),
    }
}

/// Tries it on a thread of its own, which takes the namespace with it when it ends.
fn no_namespaces() -> Option<String> {
    let tried = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    match tried {
        Ok(Ok(())) => None,
        Ok(Err(errno)) => Some(format!("needs network namespaces: {errno}")),
        Err(_) => Some("needs network namespaces: the attempt ended in a panic".to_owned()),
    }
}

fn no_program(name: &str, package: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| Path::new(&dir).join(name).is_file());
    (!found).then(|| format!("needs the program {name} (Debian: {package})"))
}
