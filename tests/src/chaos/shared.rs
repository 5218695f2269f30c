//! One lab for the tests of a program, which come one after the other.

use std::sync::{Mutex, PoisonError};

use super::{Chaos, logs_of};
use crate::lab::build;

/// A lab that is up from the first test to the first that fails, and made anew after that.
#[derive(Debug)]
pub struct Shared {
    name: &'static str,
    kernel: bool,
    chaos: Mutex<Option<Chaos>>,
}

impl Shared {
    /// A lab of that name, see [`Chaos::up`].
    #[must_use]
    pub fn new(name: &'static str, kernel: bool) -> Self {
        Self { name, kernel, chaos: Mutex::default() }
    }

    /// Runs a test in it; the logs of one that fails are kept.
    ///
    /// # Errors
    /// When the test fails, or the lab does not come up.
    pub fn run(
        &self,
        test: &str,
        run: &dyn Fn(&Chaos) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut place = self.chaos.lock().unwrap_or_else(PoisonError::into_inner);
        let chaos = match place.take() {
            Some(chaos) => chaos,
            None => Chaos::up(self.name, &build::pgx(false)?, self.kernel)?,
        };
        let Err(error) = run(&chaos) else {
            *place = Some(chaos);
            return Ok(());
        };
        let logs = logs_of(test);
        chaos.keep_logs(&logs)?;
        Err(error.context(format!("logs are in {}", logs.display())))
    }

    /// Takes it down, if it is up.
    pub fn down(&self) {
        drop(self.chaos.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
