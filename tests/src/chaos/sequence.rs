//! Carries a sequence of faults out under load, heals, and looks what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde::Serialize;

use super::scenario::{Kind, Role, Start, Step, draw};
use super::{Chaos, LIMIT, Trial};
use crate::lab::{Direction, Fault, FaultId, KillTarget, Lab, PauseTarget, wait_for_some};

/// The gap of faults that overlap says nothing about one of them.
const SEVERAL: &str = "several";

/// What came of one sequence.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// From which it is drawn.
    pub seed: u64,
    /// What was done, and what could not be done and why.
    pub steps: Vec<String>,
    /// Commits that clients were told of.
    pub commits_acknowledged: u64,
    /// Of these, those that some host does not have at the end.
    pub commits_lost: u64,
    /// What two primaries at a time have done.
    pub double_primaries: u64,
    /// Requests that got neither an answer nor an end.
    pub hangs: u64,
    /// Whether the cluster was as before at the end.
    pub is_healed: bool,
    /// What else must not be, in words.
    pub wrong: Vec<String>,
    /// The longest time without a commit of any client, by kind of fault.
    pub gaps_ms: BTreeMap<String, Vec<u64>>,
    /// What clients were told, by SQLSTATE or kind of end.
    pub client_errors: BTreeMap<String, u64>,
}

impl Run {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let Self { commits_lost, double_primaries, hangs, .. } = self;
        *commits_lost + double_primaries + hangs == 0 && self.is_healed && self.wrong.is_empty()
    }
}

/// A fault in force, or what was done that cannot be healed.
struct Done {
    name: String,
    faults: Vec<FaultId>,
    from: Duration,
}

impl Chaos {
    /// Carries the sequence of a seed out. `watch` is told of each step.
    ///
    /// # Errors
    /// When faults cannot be healed. Whatever comes of them, and a cluster that was not well
    /// before, is in the run.
    pub fn run(&self, seed: u64, watch: &mut dyn FnMut(&str)) -> anyhow::Result<Run> {
        let mut run = Run { seed, ..Run::default() };
        let trial = match self.begin(seed) {
            Ok(trial) => trial,
            Err(error) => {
                run.wrong.push(format!("before any fault: {error:#}"));
                return Ok(run);
            }
        };
        let gaps = match trial.steps(&draw(seed), &mut run, watch) {
            Ok(gaps) => gaps,
            Err(error) => {
                run.wrong.push(format!("{error:#}"));
                Vec::new()
            }
        };
        self.lab.heal_all()?;
        run.commits_acknowledged = trial.checker.counts().acknowledged;
        run.client_errors = trial.checker.record().error_counts;
        let outcome = match trial.end() {
            Ok(outcome) => outcome,
            Err(error) => {
                run.wrong.push(format!("{error:#}"));
                return Ok(run);
            }
        };
        run.is_healed = true;
        let record = &outcome.record;
        for (name, from, to) in gaps {
            let gap = record.longest_gap(from, to).length().as_millis();
            run.gaps_ms.entry(name).or_default().push(u64::try_from(gap)?);
        }
        run.commits_acknowledged = record.counts().acknowledged;
        run.client_errors.clone_from(&record.error_counts);
        run.hangs = record.counts().hangs;
        (run.commits_lost, run.double_primaries) = (outcome.lost(), outcome.doubles());
        run.wrong.extend(outcome.check().err().map(|error| format!("{error:#}")));
        Ok(run)
    }
}

impl Trial<'_> {
    /// Gives the stretches of time in which each fault was in force, and healed.
    fn steps(
        &self,
        steps: &[Step],
        run: &mut Run,
        watch: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Vec<(String, Duration, Duration)>> {
        let (mut gaps, mut force): (_, Vec<Done>) = (Vec::new(), Vec::new());
        for (at, step) in steps.iter().enumerate() {
            if step.start == Start::Calm && at > 0 {
                self.lab.wait_for_calm(self.before.number)?;
            }
            let from = self.checker.clock();
            let text = match self.make(*step) {
                Ok((host, faults)) => {
                    let name = format!("{} {}", step.kind.name(), step.role);
                    force.push(Done { name, faults, from });
                    format!("{step} ({host})")
                }
                // Processes may be gone, or frozen, by what was done before.
                Err(error) if step.start != Start::Calm => format!("not {step}: {error:#}"),
                Err(error) => return Err(error.context(step.to_string())),
            };
            watch(&text);
            run.steps.push(text);
            // Nothing is waited for: so long the fault is in force.
            std::thread::sleep(step.hold);
            let next = steps.get(at + 1).map(|next| next.start);
            if next == Some(Start::During) {
                continue;
            }
            for id in force.iter().rev().flat_map(|done| &done.faults) {
                self.lab.heal(*id)?;
            }
            if next != Some(Start::After) {
                self.lab.wait_for_calm(self.before.number)?;
            }
            let to = self.checker.clock();
            let from = force.first().map_or(from, |done| done.from);
            let name = match &force[..] {
                [] => continue,
                [done] => done.name.clone(),
                _ => SEVERAL.to_owned(),
            };
            gaps.push((name, from, to));
            force.clear();
        }
        Ok(gaps)
    }

    /// Gives the host, and what is to be healed.
    fn make(&self, step: Step) -> anyhow::Result<(String, Vec<FaultId>)> {
        let Seen { primary, coordinator } = self.look()?;
        let data: Vec<_> = self.lab.data_hosts().map(|host| host.plan().name.clone()).collect();
        let others = |host: &str| -> Vec<String> {
            data.iter().filter(|other| *other != host).cloned().collect()
        };
        let host = match step.role {
            Role::Primary => primary,
            Role::Standby => others(&primary)[step.pick].clone(),
            Role::Coordinator => coordinator,
            Role::Proxy => "p1".to_owned(),
        };
        let parts = |hosts: Vec<String>| {
            hosts.into_iter().map(|b| Fault::Part { a: host.clone(), b }).collect()
        };
        let faults = match step.kind {
            Kind::Switchover => {
                match step.start {
                    // There may be nobody who could decide.
                    Start::During => self.lab.ask_once(&host, &["switchover"])?,
                    Start::After | Start::Calm => self.lab.ask(&host, &["switchover"])?,
                }
                Vec::new()
            }
            Kind::PromoteByHand => {
                self.lab.admin_sql(&host, "select pg_promote(false)")?;
                Vec::new()
            }
            Kind::Wipe => return Ok((host.clone(), wipe(self.lab, &host)?)),
            Kind::Isolate => parts(others(&host)),
            Kind::Part => parts(vec![others(&host)[step.pick].clone()]),
            kind => vec![simple(kind, host.clone())?],
        };
        let mut made = Vec::new();
        for fault in faults {
            match self.lab.fault(&fault) {
                Ok(id) => made.push(id),
                Err(error) => {
                    made.iter().try_for_each(|id| self.lab.heal(*id))?;
                    return Err(error);
                }
            }
        }
        Ok((host, made))
    }

    /// Who does what, as far as anybody knows.
    fn look(&self) -> anyhow::Result<Seen> {
        wait_for_some("somebody who knows the primary", LIMIT, || {
            let hosts = self.lab.data_hosts();
            let seen = hosts.filter_map(|host| self.lab.control(&host.plan().name).ok());
            let newest =
                seen.max_by_key(|seen| (seen["term"].as_u64(), seen["decides"] == true))?;
            let primary = newest["epoch"]["holder"].as_u64()?;
            let coordinator = newest["coordinator"].as_u64().unwrap_or(primary);
            let host = |node: u64| format!("n{node}");
            Some(Seen { primary: host(primary), coordinator: host(coordinator) })
        })
    }
}

struct Seen {
    primary: String,
    coordinator: String,
}

fn simple(kind: Kind, host: String) -> anyhow::Result<Fault> {
    let kill = |host, target| Fault::Kill { host, target };
    let pause = |host, target| Fault::Pause { host, target };
    let cut = |host, direction| Fault::Cut { host, direction };
    Ok(match kind {
        Kind::KillPostmaster => kill(host, KillTarget::Postmaster),
        Kind::KillBackend => kill(host, KillTarget::Backend),
        Kind::KillPgx => kill(host, KillTarget::Pgx),
        Kind::PausePostmaster => pause(host, PauseTarget::Postmaster),
        Kind::PausePostgres => pause(host, PauseTarget::Postgres),
        Kind::PauseBackends => pause(host, PauseTarget::Backend),
        Kind::PausePgx => pause(host, PauseTarget::Pgx),
        Kind::Freeze => pause(host, PauseTarget::All),
        Kind::Stop => Fault::Stop { host },
        Kind::PowerOff => Fault::PowerOff { host },
        Kind::Cut => cut(host, Direction::Both),
        Kind::CutInbound => cut(host, Direction::Inbound),
        Kind::CutOutbound => cut(host, Direction::Outbound),
        Kind::Loss => Fault::Loss { host, percent: 30 },
        Kind::Delay => Fault::Delay { host, ms: 50, jitter_ms: 40 },
        Kind::FillDisk => Fault::FillDisk { host },
        Kind::Isolate | Kind::Part | Kind::Switchover | Kind::PromoteByHand | Kind::Wipe => {
            bail!("{} is not a fault of one host", kind.name())
        }
    })
}

/// Ends pgx and PostgreSQL of a host, and removes its data directory.
fn wipe(lab: &Lab, host: &str) -> anyhow::Result<Vec<FaultId>> {
    let kill = |target| lab.fault(&Fault::Kill { host: host.to_owned(), target });
    let pgx = kill(KillTarget::Pgx)?;
    // It may have none that runs.
    let postmaster = kill(KillTarget::Postmaster).ok();
    lab.wait_until_postgres_is_gone(host)?;
    let removed = lab.host(host)?.exec(&["rm", "-rf", "/var/lib/pgx/data"])?;
    ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    Ok([postmaster, Some(pgx)].into_iter().flatten().collect())
}
