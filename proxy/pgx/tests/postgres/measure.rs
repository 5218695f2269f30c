//! How long the steps of a failover take: told on request, and judged by nobody here.

use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgx_control::agent::Local;
use pgx_control::cluster::sync::Rule;
use pgx_control::ids::NodeId;

use crate::nodes::{Node, Nodes};
use crate::replicate::writer;

/// Asks this program to measure instead of testing.
const MEASURE: &str = "PGX_TEST_MEASURE";

/// So many failovers.
const ROUNDS: usize = 5;

/// The measurements, if they are asked for.
pub(crate) fn measure() -> Option<anyhow::Result<()>> {
    std::env::var_os(MEASURE)?;
    Some((0..ROUNDS).try_for_each(failover))
}

fn tell(what: &str, since: Instant) {
    println!("{what:<50} {:>8.1} ms", since.elapsed().as_secs_f64() * 1000.0);
}

/// Looks again and again, as the agent does after each step.
fn until(node: &mut Node, test: impl Fn(&Local) -> bool) -> anyhow::Result<()> {
    while !test(&node.look()?.local) {
        std::thread::yield_now();
    }
    Ok(())
}

fn looks(what: &str, node: &mut Node) -> anyhow::Result<()> {
    const LOOKS: u32 = 100;
    let mut longest = Duration::ZERO;
    let start = Instant::now();
    for _ in 0..LOOKS {
        let begin = Instant::now();
        node.look()?;
        longest = longest.max(begin.elapsed());
    }
    let mean = start.elapsed() / LOOKS;
    println!("{what:<50} {mean:>8.1?} at most {longest:.1?}");
    Ok(())
}

fn failover(round: usize) -> anyhow::Result<()> {
    println!("--- failover {round}");
    let mut nodes = Nodes::streaming(2)?;
    for node in &nodes.all {
        node.sql("alter system set fsync = on")?;
        node.sql("select pg_reload_conf()")?;
    }
    let writers = set_rule(&mut nodes)?;
    lose_primary(&mut nodes, writers)?;
    promote(&mut nodes)?;
    hand_over(&mut nodes)?;
    end_and_start(&mut nodes)
}

fn runs(rule: &Rule) -> impl Fn(&Local) -> bool {
    |local| local.runs_rule.as_ref() == Some(rule)
}

fn set_rule(nodes: &mut Nodes) -> anyhow::Result<Vec<Child>> {
    let rule = nodes.rule(1, &[1, 2]);
    let start = Instant::now();
    nodes.all[0].hands().set_rule(&rule)?;
    tell("set_rule returns", start);
    until(&mut nodes.all[0], runs(&rule))?;
    tell("… and the rule is told as run", start);
    nodes.all[0].sql("create table kept as select generate_series(1, 1000) as x")?;
    looks("a look at a quiet primary", &mut nodes.all[0])?;
    until(&mut nodes.all[1], |local| local.is_streaming)?;
    looks("a look at a quiet standby", &mut nodes.all[1])?;
    let writers = (0..4).map(|_| writer(&nodes.all[0])).collect::<anyhow::Result<_>>()?;
    let end = nodes.all[0].look()?.local.end;
    until(&mut nodes.all[2], |local| local.end.0 > end.0 + 10_000_000)?;
    looks("a look at a busy primary", &mut nodes.all[0])?;
    looks("a look at a busy standby", &mut nodes.all[1])?;
    Ok(writers)
}

fn lose_primary(nodes: &mut Nodes, writers: Vec<Child>) -> anyhow::Result<()> {
    let start = Instant::now();
    nodes.all[0].hands().kill()?;
    tell("kill returns", start);
    for mut writer in writers {
        writer.kill()?;
        writer.wait()?;
    }
    let start = Instant::now();
    nodes.all[1].hands().detach()?;
    tell("detach returns, its primary being dead", start);
    until(&mut nodes.all[1], |local| local.is_drained)?;
    tell("… and the standby is told as drained", start);
    nodes.all[2].hands().detach()?;
    until(&mut nodes.all[2], |local| local.is_drained)?;
    looks("a look at a drained standby", &mut nodes.all[1])
}

fn promote(nodes: &mut Nodes) -> anyhow::Result<()> {
    let start = Instant::now();
    let rule = nodes.rule(1, &[2]);
    nodes.all[1].hands().promote(&rule, &[NodeId(0), NodeId(1), NodeId(2)])?;
    tell("promote returns", start);
    let upstream = nodes.all[1].peer();
    let followed = Instant::now();
    nodes.all[2].hands().follow(&upstream)?;
    tell("follow returns", followed);
    until(&mut nodes.all[1], runs(&rule))?;
    tell("since promote: the rule is told as run", start);
    until(&mut nodes.all[1], |local| {
        local.recovery_end.is_some_and(|end| local.rule_flushed >= end)
    })?;
    tell("since promote: the follower has flushed past it", start);
    until(&mut nodes.all[2], |local| local.is_streaming)?;
    tell("since promote: the follower streams", start);
    Ok(())
}

fn hand_over(nodes: &mut Nodes) -> anyhow::Result<()> {
    let upstream = nodes.all[1].peer();
    let start = Instant::now();
    nodes.all[2].hands().detach()?;
    tell("detach returns, its primary being alive", start);
    until(&mut nodes.all[2], |local| local.is_drained)?;
    tell("… and the standby is told as drained", start);
    let start = Instant::now();
    nodes.all[2].hands().follow(&upstream)?;
    until(&mut nodes.all[2], |local| local.is_streaming)?;
    tell("from follow to streaming, primary alive", start);
    let start = Instant::now();
    nodes.all[1].hands().shut_down()?;
    tell("shut_down returns", start);
    Ok(())
}

fn end_and_start(nodes: &mut Nodes) -> anyhow::Result<()> {
    let start = Instant::now();
    nodes.all[2].hands().kill()?;
    tell("kill of a standby returns", start);
    nodes.all[2].hands().start_standby()?;
    nodes.all[2].wait_ready()?;
    for pid in nodes.all[2].processes() {
        kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
    }
    let start = Instant::now();
    nodes.all[2].hands().kill()?;
    tell("kill of one that hangs returns", start);
    let start = Instant::now();
    nodes.all[0].hands().start_standby()?;
    tell("start_standby after a kill returns", start);
    until(&mut nodes.all[0], |local| local.is_drained)?;
    tell("… and it is told as drained", start);
    Ok(())
}
