//! Carries out what operators wish of this host's PostgreSQL; what may be granted, the agent says.

use std::sync::Arc;

use pgx_control::agent::{Agent, Local};
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
        let is_leased = self.held().is_some_and(|(_, until)| boot_time() < until);
        let (state, local, agent) = self.calm()?;
        agent.may_restart(&state, &local, is_leased).map_err(|unfit| unfit.to_string())?;
        self.trouble = None;
        self.ends = self.postmaster;
        self.begin_job(vec![Task::End], Stamp::of(&state));
        match &self.job {
            Some(_) => {
                Ok("PostgreSQL is being restarted; 'pgx ctl nodes' says when it is back".to_owned())
            }
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
        let (state, local, agent) = self.calm()?;
        let from = agent.give_up(&state, &local).map_err(|unfit| unfit.to_string())?;
        self.trouble = None;
        self.copies_anew = true;
        Ok(format!(
            "the directory is given up and copied anew from node {from}; 'pgx ctl nodes' says when \
             it streams again"
        ))
    }

    /// What there is to judge by, while nothing else is under way.
    fn calm(&mut self) -> Result<(Arc<State>, Local, &mut Agent), String> {
        if !self.is_managed {
            return Err("this directory is not pgx's, which only watches it; see 'pgx init \
                        postgres'"
                .to_owned());
        }
        let unknown = self.nothing_known();
        let is_busy = self.job.is_some();
        let (Some(state), Some(agent)) = (self.state.clone(), &mut self.agent) else {
            return Err(unknown);
        };
        let local = self.local.clone().filter(|_| !is_busy).ok_or_else(|| {
            "something is being done with PostgreSQL here; its log says what".to_owned()
        })?;
        Ok((state, local, agent))
    }

    fn nothing_known(&self) -> String {
        match &self.said[..] {
            "" => "the cluster has not begun, or PostgreSQL here was not looked at yet".to_owned(),
            said => said.to_owned(),
        }
    }
}
