//! What operators are told, while something is wrong and afterwards.

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgx_tests::cluster::{WAIT_MAX, ask};
use pgx_tests::lab::wait_for;
use pgx_tests::members::Members;
use serde_json::Value;

use crate::binary;

/// What a verb prints for programs.
fn told(members: &Members, id: usize, verb: &[&str]) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&ask(members.node(id), &[verb, &["--json"]].concat())?)?)
}

/// Whether the status of that node names a trouble with these words in its cause and its next step.
fn is_told(members: &Members, id: usize, cause: &str, next: &str) -> bool {
    let status = told(members, id, &["status"]).unwrap_or_default();
    let troubles = status["status"]["troubles"].as_array().cloned().unwrap_or_default();
    let has = |trouble: &Value, key: &str, words: &str| {
        trouble[key].as_str().is_some_and(|text| text.contains(words))
    };
    troubles.iter().any(|one| has(one, "cause", cause) && has(one, "next", next))
}

fn wait_until_told(members: &Members, id: usize, cause: &str, next: &str) -> anyhow::Result<()> {
    wait_for(&format!("node {id} tells {cause:?}"), WAIT_MAX, || is_told(members, id, cause, next))
        .with_context(|| format!("{:?}", told(members, id, &["status"])))
}

fn wait_until_well(members: &Members, id: usize) -> anyhow::Result<()> {
    wait_for(&format!("node {id} has no trouble"), WAIT_MAX, || {
        let status = told(members, id, &["status"]).unwrap_or_default();
        status["status"]["troubles"].as_array().is_some_and(Vec::is_empty)
    })
    .with_context(|| format!("{:?}", told(members, id, &["status"])))
}

/// The cause and the next step, for each of these faults, on a node that is well itself.
pub(crate) fn troubles() -> anyhow::Result<()> {
    let mut members = Members::start(binary(), 3)?;
    let (primary, epoch) = members.primary()?;
    let others: Vec<_> = (1..=3).filter(|id| *id != primary).collect();
    let [standby, other] = others[..] else { anyhow::bail!("two standbys") };
    for id in 1..=3 {
        wait_until_well(&members, id)?;
    }

    let postmaster = Pid::from_raw(members.postmaster(standby)?);
    kill(postmaster, Signal::SIGSTOP)?;
    let hung = format!("PostgreSQL of node {standby}, or its disk, does not answer");
    let told = wait_until_told(&members, other, &hung, "which probe fails");
    kill(postmaster, Signal::SIGCONT)?;
    told?;
    wait_until_well(&members, other)?;

    ask(members.node(other), &["pause"])?;
    wait_until_told(&members, primary, "paused failover", "pgx ctl resume")?;
    members.kill_postmaster(primary)?;
    let gone = format!("node {primary} does not serve as primary, and an operator has paused");
    wait_until_told(&members, other, &gone, "pgx ctl resume")?;
    ask(members.node(other), &["resume"])?;
    let next = members.wait_for_another(primary, epoch)?;
    members.wait_for_calm(epoch + 1)?;
    wait_until_well(&members, next)?;

    let rest: Vec<_> = (1..=3).filter(|id| *id != next).collect();
    let [first, second] = rest[..] else { anyhow::bail!("two standbys") };
    members.node_mut(first).end(Signal::SIGKILL)?;
    let silent = format!("node {first} has not been heard");
    wait_until_told(&members, next, &silent, "systemctl status pgx")?;
    members.node_mut(second).end(Signal::SIGKILL)?;
    wait_until_told(&members, next, "nobody coordinates: no majority", "start pgx there")?;
    let said = members.node(next).ctl(&["nodes"])?;
    ensure!(said.status.code() == Some(5), "nobody could tell: {said:?}");
    ask(members.node(next), &["history"]).context("needs nobody else")?;
    members.start_again(first)?;
    members.start_again(second)?;
    wait_until_well(&members, next)
}

pub(crate) fn history() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let (primary, epoch) = members.primary()?;
    members.kill_postmaster(primary)?;
    let next = members.wait_for_another(primary, epoch)?;
    members.wait_for_calm(epoch + 1)?;

    let nodes = told(&members, next, &["nodes"])?;
    let all = nodes["survey"]["nodes"].as_array().cloned().unwrap_or_default();
    let holders = all.iter().filter(|node| node["postgres"]["is_holder"] == true);
    let holders: Vec<_> = holders.map(|node| node["id"].clone()).collect();
    ensure!(all.len() == 3 && holders == [next], "{nodes:#}");

    let mut seen = 0;
    for id in 1..=3 {
        let history = told(&members, id, &["history"])?;
        let last = history["history"].as_array().and_then(|all| all.last().cloned());
        let last = last.with_context(|| format!("node {id} has no report: {history:#}"))?;
        ensure!(last["from"] == primary && last["to"] == next, "{last:#}");
        ensure!(last["epoch"] == epoch + 1 && last["is_switchover"] == false, "{last:#}");
        let steps = last["steps"].as_array().map(Vec::len).unwrap_or_default();
        ensure!(steps >= 3 && last["took_ms"].as_u64().is_some_and(|ms| ms < 30_000), "{last:#}");
        ensure!(last["doubt"].as_str().is_some_and(|doubt| doubt.contains("08007")), "{last:#}");
        let cause = format!("PostgreSQL of node {primary} has ended");
        let causes = last["seen"].as_array().cloned().unwrap_or_default();
        seen += usize::from(causes.iter().any(|one| one["cause"] == *cause));
        let events = ask(members.node(id), &["events"])?;
        ensure!(events.contains(&format!("node {next} is elected")), "{events}");
    }
    ensure!(seen == 1, "who coordinated says why, and nobody else: {seen}");
    let text = ask(members.node(next), &["history", "--steps"])?;
    ensure!(text.contains("in doubt") && text.contains(" ms node "), "{text}");
    looks(&members, primary, next)
}

/// What else can be looked at, and that a program is not taken for a person who says yes.
fn looks(members: &Members, standby: usize, primary: usize) -> anyhow::Result<()> {
    let lag = ask(members.node(standby), &["lag"])?;
    let of = |id: usize| lag.lines().find(|line| line.starts_with(&format!("{id} ")));
    let primary_line = of(primary).with_context(|| lag.clone())?;
    ensure!(lag.starts_with("NODE") && primary_line.contains("PRIMARY"), "{lag}");
    ensure!(of(standby).is_some_and(|line| line.contains("standby")), "{lag}");
    let leases = ask(members.node(primary), &["lease"])?;
    ensure!(leases.contains("lease primary") && leases.contains(" ms left"), "{leases}");
    ensure!(ask(members.node(primary), &["vip"])?.contains("no [vip]"));

    let (_, epoch) = members.primary()?;
    for verb in [&["failover"][..], &["failover", "--accept-loss"], &["node", "remove", "2"]] {
        let said = members.node(primary).ctl(verb)?;
        let text = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.code() == Some(1) && text.contains("say --yes"), "{said:?}");
    }
    ensure!(members.primary()? == (primary, epoch));
    let said = members.node(primary).ctl(&["reload", "--watch"])?;
    ensure!(said.status.code() == Some(1), "{said:?}");
    Ok(())
}
