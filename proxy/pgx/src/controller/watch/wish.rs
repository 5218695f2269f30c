//! What operators wish of this host's PostgreSQL. It needs no quorum: each wish is granted only
//! where whatever follows from it is what the agent does anyway.

use pgx_control::agent::{Agent, Goal, Process, goal};
use pgx_control::cluster::State;
use tracing::info;

use super::carry::Task;
use super::{Stamp, Watcher};
use crate::controller::clock::boot_time;

/// A wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// End PostgreSQL in order; it is started again.
    Restart,
    /// Try at once what has failed, and would be tried after a pause.
    Rejoin,
    /// Copy the directory anew, whatever is in it.
    Reinit,
}

impl Watcher {
    /// Looks into what is wished, once what is to be known for that is known: a look at PostgreSQL
    /// is under way again and again, and so is what pgx tends. Who has been told that it takes too
    /// long does not want it any more.
    pub(super) fn grant_wishes(&mut self) {
        self.wishes.retain(|(_, reply)| !reply.is_closed());
        let tends = self.job.as_ref().is_some_and(|job| job.tends);
        let looks = self.job.is_none() && self.local.is_none() && self.agent.is_some();
        if tends || looks {
            return;
        }
        for (wish, reply) in std::mem::take(&mut self.wishes) {
            // Whoever asked may have left.
            let _ = reply.send(self.grant(wish));
        }
    }

    /// Begins what is wished.
    ///
    /// # Errors
    /// Why it is not done, for people.
    fn grant(&mut self, wish: Wish) -> Result<String, String> {
        let granted = match wish {
            Wish::Restart => self.restart(),
            Wish::Rejoin => self.rejoin(),
            Wish::Reinit => self.reinit(),
        };
        info!(?wish, ?granted, "an operator asks something of PostgreSQL here");
        granted
    }

    fn restart(&mut self) -> Result<String, String> {
        let (state, process) = self.calm()?;
        let record = self.agent.as_ref().map(Agent::record);
        let wanted = record.map(|record| goal(&state, self.me, record));
        let is_leased = self.held().is_some_and(|(_, until)| boot_time() < until);
        let then = match process {
            Process::Primary => {
                let has_others = state.members().keys().any(|node| *node != self.me);
                if has_others {
                    return Err("PostgreSQL here is the primary: 'pgx ctl switchover' first, \
                                without errors to clients, and restart it then"
                        .to_owned());
                }
                if state.is_paused() {
                    return Err("failover is paused, so nobody would make it primary again: 'pgx \
                                ctl resume' first"
                        .to_owned());
                }
                if !is_leased {
                    return Err(
                        "this node holds no lease, so nobody would make it primary again: \
                                'pgx ctl status' says why"
                            .to_owned(),
                    );
                }
                "is primary again in a new epoch"
            }
            Process::Standby if matches!(wanted, Some(Goal::Rejoin { .. })) => "streams again",
            Process::Standby => {
                return Err("the cluster wants nothing of this standby, so nobody would start it \
                            again: 'pgx ctl status' says why"
                    .to_owned());
            }
            Process::Stopped | Process::Exited => {
                return Err("PostgreSQL does not run here; pgx starts it when the cluster needs \
                            it, and 'pgx ctl status' says what is wrong"
                    .to_owned());
            }
        };
        self.trouble = None;
        self.ends = self.postmaster;
        self.begin_job(vec![Task::End], Stamp::of(&state));
        match &self.job {
            Some(_) => Ok(format!(
                "PostgreSQL is being restarted; 'pgx ctl nodes' says when it \
                                   {then}"
            )),
            None => Err(self.said.clone()),
        }
    }

    /// Whatever is under way goes on, and what waits after a failure waits no longer.
    fn rejoin(&mut self) -> Result<String, String> {
        if self.agent.is_none() || self.state.is_none() {
            return Err(self.nothing_known());
        }
        Ok(match self.trouble.take() {
            Some(_) => format!("what failed is tried again now: {}", self.said),
            None => "nothing waits to be tried again here; 'pgx ctl status' says what is under way"
                .to_owned(),
        })
    }

    fn reinit(&mut self) -> Result<String, String> {
        let (state, _) = self.calm()?;
        let (Some(local), Some(agent)) = (&self.local, &mut self.agent) else {
            return Err(self.nothing_known());
        };
        let from = agent.give_up(&state, local).map_err(|unfit| unfit.to_string())?;
        self.trouble = None;
        self.copies_anew = true;
        Ok(format!(
            "the directory is given up and copied anew from node {from}; 'pgx ctl nodes' says when \
             it streams again"
        ))
    }

    /// The state, and what PostgreSQL does, while nothing else is under way.
    fn calm(&self) -> Result<(std::sync::Arc<State>, Process), String> {
        if !self.is_managed {
            return Err("this directory is not pgx's, which only watches it; see 'pgx init \
                        postgres'"
                .to_owned());
        }
        let state = self.state.clone().filter(|state| state.tenure().is_some());
        let Some(state) = state.filter(|_| self.agent.is_some()) else {
            return Err(self.nothing_known());
        };
        let is_calm = state.tenure().is_some_and(|tenure| tenure.is_established)
            && state.sealed().is_none()
            && state.handover().is_none();
        if !is_calm {
            return Err("the primary is being changed; try again when 'pgx ctl status' shows one \
                        that serves"
                .to_owned());
        }
        let local = self.local.as_ref().filter(|_| self.job.is_none());
        let process = local.map(|local| local.process);
        process.map(|process| (state, process)).ok_or_else(|| {
            "something is being done with PostgreSQL here; its log says what".to_owned()
        })
    }

    fn nothing_known(&self) -> String {
        match &self.said[..] {
            "" => "the cluster has not begun, or PostgreSQL here was not looked at yet".to_owned(),
            said => said.to_owned(),
        }
    }
}
