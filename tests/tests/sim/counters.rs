//! What happened in all runs together, to see that they are worth something.

use std::fmt;

use crate::event::{MILLI, SECOND, Time};

/// Sums over runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) seeds: u64,
    pub(crate) virtual_ns: Time,
    pub(crate) failovers: u64,
    pub(crate) re_elections: u64,
    pub(crate) switchovers: u64,
    pub(crate) switchovers_done: u64,
    pub(crate) switchovers_cancelled: u64,
    pub(crate) established: u64,
    pub(crate) rule_changes: u64,
    pub(crate) coordinators: u64,
    pub(crate) memberships: u64,
    pub(crate) came: u64,
    pub(crate) left: u64,
    pub(crate) losses_accepted: u64,
    pub(crate) addresses: u64,
    pub(crate) retired: u64,
    pub(crate) faults: u64,
    pub(crate) starts: u64,
    pub(crate) power_losses: u64,
    pub(crate) promotions: u64,
    pub(crate) rebuilds: u64,
    pub(crate) commits: u64,
    pub(crate) healing_max: Time,
    pub(crate) healing_sum: Time,
}

impl Counters {
    pub(crate) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.virtual_ns += other.virtual_ns;
        self.failovers += other.failovers;
        self.re_elections += other.re_elections;
        self.switchovers += other.switchovers;
        self.switchovers_done += other.switchovers_done;
        self.switchovers_cancelled += other.switchovers_cancelled;
        self.established += other.established;
        self.rule_changes += other.rule_changes;
        self.coordinators += other.coordinators;
        self.memberships += other.memberships;
        self.came += other.came;
        self.left += other.left;
        self.losses_accepted += other.losses_accepted;
        self.addresses += other.addresses;
        self.retired += other.retired;
        self.faults += other.faults;
        self.starts += other.starts;
        self.power_losses += other.power_losses;
        self.promotions += other.promotions;
        self.rebuilds += other.rebuilds;
        self.commits += other.commits;
        self.healing_max = self.healing_max.max(other.healing_max);
        self.healing_sum += other.healing_sum;
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.virtual_ns / SECOND / 60;
        writeln!(out, "seeds                    {}", self.seeds)?;
        writeln!(out, "virtual hours            {}.{:02}", minutes / 60, minutes % 60 * 100 / 60)?;
        writeln!(out, "failovers                {}", self.failovers)?;
        writeln!(out, "re-elections             {}", self.re_elections)?;
        writeln!(out, "epochs established       {}", self.established)?;
        writeln!(
            out,
            "switchovers              {} begun, {} completed, {} cancelled",
            self.switchovers, self.switchovers_done, self.switchovers_cancelled
        )?;
        writeln!(out, "changes of the rule      {}", self.rule_changes)?;
        writeln!(out, "changes of voters        {}", self.memberships)?;
        writeln!(out, "nodes that came, left    {}, {}", self.came, self.left)?;
        writeln!(out, "elections with loss      {}", self.losses_accepted)?;
        writeln!(out, "addresses handed over    {}", self.addresses)?;
        writeln!(out, "nodes retired            {}", self.retired)?;
        writeln!(out, "elections of coordinator {}", self.coordinators)?;
        writeln!(out, "faults                   {}", self.faults)?;
        writeln!(out, "starts of processes      {}", self.starts)?;
        writeln!(out, "power losses             {}", self.power_losses)?;
        writeln!(out, "promotions               {}", self.promotions)?;
        writeln!(out, "directories rebuilt      {}", self.rebuilds)?;
        writeln!(out, "commits acknowledged     {}", self.commits)?;
        let mean = self.healing_sum / self.seeds.max(1) / MILLI;
        write!(out, "healing                  {mean} ms mean, {} ms max", self.healing_max / MILLI)
    }
}
