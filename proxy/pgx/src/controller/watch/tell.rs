//! What others are told of this host's PostgreSQL: the log, the controller, the leases.

use pgx_control::agent::Agent;
use pgx_control::cluster::State;
use pgx_control::facts::Postgres;
use pgx_control::ids::BootTime;
use pgx_control::lease::Wants;
use tracing::{info, warn};

use super::Watcher;
use crate::controller::clock::boot_time;
use crate::controller::{driver, lease};

/// Texts about what is not probed that are remembered, so that each is logged once in the life of a
/// postmaster; beyond them, the memory is emptied.
const EXCUSES_MAX: usize = 16;

impl Watcher {
    /// When PostgreSQL last answered in full; what is out of the ordinary about that is logged.
    pub(super) fn answered(&mut self, state: &State) -> BootTime {
        let hung_ms_max = state.policy().hung_ms_max;
        let now = boot_time();
        let mut answers = self.probe.answers.lock();
        answers.beat(now);
        answers.set_hung_ms_max(hung_ms_max);
        let (answered, silence, excuses) =
            (answers.in_full(now), answers.silence(now), answers.excuses());
        drop(answers);
        if self.postmaster.is_none() {
            (self.silent, self.excuses) = (None, Vec::new());
            return answered;
        }
        let silent = silence.as_ref().map(|silence| (silence.part, silence.ms >= hung_ms_max));
        match silence {
            _ if silent == self.silent => {}
            Some(silence) if silence.ms >= hung_ms_max => {
                warn!(hung_ms_max, "{silence}; it counts as hung");
            }
            Some(silence) => warn!(hung_ms_max, "{silence}"),
            None => info!("PostgreSQL answers in full again"),
        }
        self.silent = silent;
        for (text, passes) in excuses {
            if self.excuses.contains(&text) {
                continue;
            }
            if passes {
                info!("{text}");
            } else {
                warn!("{text}; that it hangs there would not be noticed, see 'pgx doctor'");
            }
            if self.excuses.len() >= EXCUSES_MAX {
                self.excuses.clear();
            }
            self.excuses.push(text);
        }
        answered
    }

    pub(super) fn tell(&mut self, state: &State, is_hung: bool) {
        // What was told of a directory that is left out since, or is not there, holds no more.
        let agent = self.agent.as_ref();
        let mut facts = agent.and_then(Agent::facts).cloned();
        let wants = agent.map_or_else(Wants::default, |agent| agent.wants(state));
        if let Some(facts) = facts.as_mut().filter(|_| is_hung) {
            facts.postgres = Postgres::Hung;
        }
        if facts != self.told.0 {
            let input = driver::Input::Agent(facts.clone());
            if self.outlets.driver.try_send(input).is_ok() {
                self.told.0 = facts;
            }
        }
        // One that is watched only, and does not run, nobody starts.
        let is_of_use = self.is_managed || self.postmaster.is_some();
        let wants = if is_of_use { wants } else { Wants::default() };
        self.open_to_readers(&wants);
        if wants != self.told.1 && self.outlets.lease.send(lease::Input::Wants(wants)).is_ok() {
            self.told.1 = wants;
        }
    }
}
