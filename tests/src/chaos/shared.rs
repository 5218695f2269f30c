//! One lab for what a program tries in it, one after the other.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::Chaos;
use crate::lab::build;

/// A lab that is up from the first trial to the first that fails, and made anew after that: what
/// that one left behind is not what the next begins with.
#[derive(Debug)]
pub struct Shared {
    name: String,
    pgx: Option<PathBuf>,
    kernel: bool,
    slow_disks: bool,
    chaos: Mutex<Option<Chaos>>,
}

impl Shared {
    /// A lab of that name, see [`Chaos::up`], with this pgx or one that is built for it.
    #[must_use]
    pub fn new(name: &str, pgx: Option<PathBuf>, kernel: bool) -> Self {
        Self { name: name.to_owned(), pgx, kernel, slow_disks: false, chaos: Mutex::default() }
    }

    /// Lets disks be slow there.
    #[must_use]
    pub fn with_slow_disks(self) -> Self {
        Self { slow_disks: true, ..self }
    }

    /// Runs something in it; the logs are kept if it fails.
    ///
    /// # Errors
    /// When it fails, or the lab does not come up.
    pub fn run<T>(
        &self,
        test: &str,
        run: impl FnOnce(&Chaos) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut place = self.chaos.lock().unwrap_or_else(PoisonError::into_inner);
        let chaos = match place.take() {
            Some(chaos) => chaos,
            None => {
                let pgx = self.pgx.clone().map_or_else(|| build::pgx(false), Ok)?;
                let shim = self.slow_disks.then(build::shim).transpose()?;
                Chaos::up_with(&self.name, &pgx, self.kernel, shim)?
            }
        };
        match run(&chaos) {
            Ok(outcome) => {
                *place = Some(chaos);
                Ok(outcome)
            }
            Err(error) => Err(chaos.keep_logs_of(test, error)),
        }
    }

    /// Takes it down, if it is up.
    pub fn down(&self) {
        drop(self.chaos.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
