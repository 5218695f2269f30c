//! A pool in front of a real PostgreSQL: the same answers as without it, and the right ones when
//! the server is lost.

mod alike;
mod databases;
mod lost;
mod metrics;
mod own;
mod pause;
mod roles;
mod rules;
mod session;
mod shared;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use libtest_mimic::{Arguments, Trial};
use pgx_tests::database::Database;
use pgx_tests::lab::build;
use pgx_tests::node::Node;
use pgx_tests::skip::{Requirement, trial};

use crate::session::Session;

/// PostgreSQL, and a pgx of each kind before it.
pub(crate) struct Place {
    pub(crate) database: Database,
    engine: &'static str,
}

/// How many servers a pool has, and when clients give them back.
pub(crate) fn pool(place: &Place, mode: &str, size: usize) -> anyhow::Result<Node> {
    pool_with(place, mode, &format!("default_pool_size = {size}\nthreads = 1\n"))
}

/// A pool with more settings.
pub(crate) fn pool_with(place: &Place, mode: &str, more: &str) -> anyhow::Result<Node> {
    pool_without_backends(place, mode, &format!("backends = [{:?}]\n{more}", place.socket()))
}

/// A pool that is told otherwise where its servers are.
pub(crate) fn pool_without_backends(place: &Place, mode: &str, more: &str) -> anyhow::Result<Node> {
    let binary = build::pgx(false)?;
    let sections = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\npool_mode = \"{mode}\"\nauth_type = \"trust\"\n\
         engine = \"{}\"\n{more}",
        place.engine
    );
    Node::start(&binary, &sections)
}

impl Place {
    /// A session at PostgreSQL itself.
    pub(crate) fn direct(&self) -> anyhow::Result<Session> {
        Session::direct(self.database.socket_folder(), &[])
    }

    /// Where PostgreSQL listens.
    pub(crate) fn socket(&self) -> String {
        format!("{}/.s.PGSQL.5432", self.database.socket_folder().display())
    }
}

type Test = fn(&Place) -> anyhow::Result<()>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each has its own pgx, but PostgreSQL's processes are looked at by all.
    arguments.test_threads = Some(1);
    let tests: Vec<(&str, Test)> = [
        alike::TESTS,
        databases::TESTS,
        lost::TESTS,
        metrics::TESTS,
        own::TESTS,
        pause::TESTS,
        roles::TESTS,
        rules::TESTS,
        shared::TESTS,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    let mut trials: Vec<Trial> = Vec::new();
    for engine in ["auto", "epoll"] {
        let place = Arc::new(OnceLock::new());
        for (name, test) in &tests {
            let (place, test) = (Arc::clone(&place), *test);
            let name = format!("{name}_on_{engine}");
            trials.push(trial(&name, &[Requirement::Root], move || {
                if place.get().is_none() {
                    let _ = place.set(Place { database: Database::start()?, engine });
                }
                test(place.get().context("it was set above")?)
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
