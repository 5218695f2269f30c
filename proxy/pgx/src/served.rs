//! The proxy's configuration that is in force, and how it becomes another while pgx runs.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pgx_ring::Choice;
use tokio::sync::mpsc;

use crate::config::{self, Setting};
use crate::front::Front;

/// How pgx is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Sessions may end first, for a while.
    Gracefully,
    /// At once.
    Now,
}

/// Where a configuration is from.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// What the command line says in its place.
    pub(crate) engine: Option<Choice>,
    /// The whole file.
    pub(crate) table: toml::Table,
}

/// The configuration of a proxy that runs.
pub(crate) struct Served {
    path: PathBuf,
    engine: Option<Choice>,
    front: Front,
    state: Mutex<State>,
    /// Whoever changes it has this from the first look to the last, so that no change undoes
    /// another, and what is in force in the end is what was read last.
    changes: Mutex<()>,
    stops: mpsc::UnboundedSender<Stop>,
}

struct State {
    /// The whole file, with what was changed since.
    table: toml::Table,
    proxy: config::Proxy,
}

impl Served {
    /// What serves by this file.
    pub(crate) fn new(
        source: Source,
        front: Front,
        proxy: config::Proxy,
        stops: mpsc::UnboundedSender<Stop>,
    ) -> Self {
        let Source { path, engine, table } = source;
        let (state, changes) = (Mutex::new(State { table, proxy }), Mutex::default());
        Self { path, engine, front, state, changes, stops }
    }

    /// Reads the file again, and all files that it names. What is in force stays if anything is
    /// wrong with them.
    ///
    /// # Errors
    /// What that is.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let _turn = self.turn();
        let (config, table) = config::load_with_table(&self.path).map_err(|all| all.to_string())?;
        self.apply(config, table)
    }

    /// Gives a key of `[proxy]` another value, until the file is read again.
    ///
    /// # Errors
    /// When there is no such key, the value is none that it can have, or the change takes a new
    /// start.
    pub(crate) fn set(&self, key: &str, value: &str) -> Result<(), String> {
        let _turn = self.turn();
        let table = self.state().table.clone();
        let mut problem = String::new();
        for candidate in candidates(value) {
            let mut table = table.clone();
            if let Some(toml::Value::Table(proxy)) = table.get_mut("proxy") {
                proxy.insert(key.to_owned(), candidate);
            }
            match config::from_table(&table) {
                Ok(config) => return self.apply(config, table),
                Err(problems) if problem.is_empty() => problem = problems.join("; "),
                Err(_) => {}
            }
        }
        Err(problem)
    }

    fn apply(&self, config: config::Config, table: toml::Table) -> Result<(), String> {
        let mut proxy =
            config.proxy.ok_or("it has no [proxy] any more, which takes a new start")?;
        if let (Some(pool), Some(engine)) = (&mut proxy.pool, self.engine) {
            pool.engine = engine;
        }
        // Nobody who only asks what is in force waits for files and names.
        let old = self.state().proxy.clone();
        self.front.reload(&old, &proxy)?;
        *self.state() = State { table, proxy };
        Ok(())
    }

    /// All keys of `[proxy]` with what they are now.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        config::settings(&self.state().table)
    }

    /// How long sessions may go on when pgx is to stop.
    pub(crate) fn drain(&self, how: Stop) -> Duration {
        match how {
            Stop::Now => Duration::ZERO,
            Stop::Gracefully => self.state().proxy.drain,
        }
    }

    /// Lets pgx stop.
    pub(crate) fn stop(&self, how: Stop) {
        // It may be stopping already.
        let _ = self.stops.send(how);
    }

    fn turn(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a word may mean: a number, a truth, a word, or a list of words.
fn candidates(word: &str) -> Vec<toml::Value> {
    let number = word.parse().ok().map(toml::Value::Integer);
    let fraction = word.parse().ok().map(toml::Value::Float);
    let truth = word.parse().ok().map(toml::Value::Boolean);
    let words = word.split(',').map(|word| toml::Value::String(word.trim().to_owned()));
    let list = toml::Value::Array(words.collect());
    let known = [number, fraction, truth, Some(toml::Value::String(word.to_owned())), Some(list)];
    known.into_iter().flatten().collect()
}
