//! `cargo xtask dashboard`: what shows metrics to people, tried on a cluster in a lab, by a real
//! Prometheus there: every query of the dashboard has data, and no alert fires that wakes somebody.
//!
//! That names and labels are those that pgx exports, a test in `proxy/pgx/src/metrics/shown.rs`
//! sees without a cluster. `board` reads the dashboard as Grafana would, `prometheus` asks.

mod board;
mod prometheus;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{bail, ensure};
use pgx_tests::chaos::{Chaos, LIMIT, sql};
use pgx_tests::lab::spec::{CLIENT, PROXY_PORT, vip_v4};
use pgx_tests::lab::{Lab, Spec, build, wait_for};

use self::board::{Board, Query};
use self::prometheus::{Prometheus, Rule};
use crate::{pgbench, setup, test};

const NAME: &str = "dashboard";
/// What finds nothing where all is well, by its text: queries of the dashboard, and what alerts
/// ask for; each with why. Other things that may happen are told with zero until they do.
const SILENT: &[(&str, &str)] = &[
    (r#"pgx_fence_info{means="none"}"#, "a fence stands"),
    (r#"pgx_fence_info{cause!="",means!="none"}"#, "it stands by the best means"),
    (r#"pgx_vip_info{cause!=""}"#, "addresses are held as configured"),
    (r#"pgx_kernel_info{mode="off"}"#, "the XDP program is attached"),
];
/// The alert that tells of the switchover.
const TOLD: &str = "PgxPrimaryChanged";
/// Transactions a second, and logins a second: so many at each proxy that the few which wait for
/// the switchover are not one of a hundred, so few that two cores hold them.
const RATE: &str = "100";
const LOGINS: &str = "40";
/// Seconds of load: longer than a switchover takes, and than a minute of annotations is far.
const SECONDS: &str = "40";
/// The proxy that an operator pauses for a moment, and the database, which is pgbench's.
const PAUSED: &str = "p1";
const DATABASE: &str = "postgres";
/// So many transactions a second, as Prometheus sees them, show that the load has begun.
const BEGUN: f64 = 20.0;
/// Until when alerts that a switchover has woken are quiet again: longer than scrapes and rules
/// take, shorter than what hides one that stays.
const QUIET: Duration = Duration::from_secs(60);

/// Arguments of `dashboard`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leaves the lab up, and Prometheus in it
    #[arg(long)]
    keep: bool,
    /// Prints every query with how many series it has
    #[arg(long)]
    all: bool,
    /// Asks this pgx instead of building one
    #[arg(long)]
    pgx: Option<PathBuf>,
}

/// Checks dashboard and alerts.
///
/// # Errors
/// When a query has no data, an alert fires or cannot be evaluated, or a step fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab makes network namespaces and loads BPF, which takes root; use sudo");
    }
    setup::ensure(setup::LAB)?;
    setup::ensure(setup::ALERTS)?;
    test::alerts()?;
    let board = Board::read()?;
    // Nothing is measured here, so that it need not be optimised.
    let pgx = match &args.pgx {
        Some(path) => std::path::absolute(path)?,
        None => build::pgx(false)?,
    };
    Lab::down(NAME)?;
    let spec = Spec { control: true, kernel: true, plain_vip: false, ..Spec::new(NAME) };
    let lab = Lab::up(&Spec { pgx: Some(pgx), proxies: 1, ..spec })?;
    let mut chaos = Chaos::of(lab);
    let outcome = check(chaos.lab(), &board, args.all);
    if args.keep {
        chaos.keep();
        println!("the lab is still up: cargo xtask lab down --name {NAME}");
        println!("Prometheus is in its host {CLIENT}, at {}", prometheus::LISTEN);
    }
    outcome.map_err(|error| chaos.keep_logs_of(NAME, error))
}

fn check(lab: &Lab, board: &Board, all: bool) -> anyhow::Result<()> {
    let before = lab.wait_for_calm(1)?;
    let vip = vip_v4().to_string();
    wait_for("the address serves", LIMIT, || sql(lab, &vip, PROXY_PORT, "select 1").is_ok())?;
    pgbench::fill(lab, (&vip, &PROXY_PORT.to_string()))?;
    step("starting Prometheus");
    let prometheus = Prometheus::start(lab)?;
    step("load, and a switchover");
    let load = [
        start(lab, &["--protocol=prepared", "--rate", RATE])?,
        start(lab, &["--select-only", "--connect", "--rate", LOGINS])?,
    ];
    let rate = "sum(rate(pgx_transaction_seconds_count[5s]))";
    wait_for("the load", LIMIT, || prometheus.number(rate).is_some_and(|rate| rate > BEGUN))?;
    for verb in ["pause", "resume"] {
        lab.ask_once(PAUSED, &[verb, DATABASE])?;
    }
    lab.ask(&before.host(), &["switchover"])?;
    lab.wait_for_calm(before.number + 1)?;
    for one in load {
        let said = one.wait_with_output()?;
        let complaint = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "a switchover cuts nobody off: {complaint}");
    }
    let mut problems = panels(board, &prometheus, all)?;
    problems.extend(alerts(board, &prometheus)?);
    if !problems.is_empty() {
        bail!("{} problems:\n{}", problems.len(), problems.join("\n"));
    }
    Ok(())
}

/// A load of clients that come in by the address.
fn start(lab: &Lab, how: &[&str]) -> anyhow::Result<Child> {
    let (vip, port) = (vip_v4().to_string(), PROXY_PORT.to_string());
    let load = ["--no-vacuum", "--client=4", "--time", SECONDS];
    let words = pgbench::words((&vip, &port), &[&load, how].concat());
    let mut command = lab.host(CLIENT)?.command(&words)?;
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

/// What of the dashboard has no data.
fn panels(board: &Board, prometheus: &Prometheus<'_>, all: bool) -> anyhow::Result<Vec<String>> {
    let mut values = board::own_variables(prometheus.age());
    let mut problems = Vec::new();
    for variable in &board.variables {
        let found =
            prometheus.label_values(&board::fill(&variable.series, &values)?, &variable.label)?;
        if found.is_empty() {
            problems.push(format!("variable {}: nothing to choose from", variable.name));
        }
        let chosen = variable.all.clone().or_else(|| found.into_iter().next()).unwrap_or_default();
        values.insert(variable.name.clone(), chosen);
    }
    for Query { place, expr, step_seconds } in &board.queries {
        let filled = board::fill(expr, &values)?;
        let series = prometheus.series(&filled, *step_seconds)?;
        if all {
            println!("{series:>5}  {place}: {filled}");
        }
        if series == 0 && !is_silent(expr) {
            problems.push(format!("{place}: no data for {filled}"));
        }
    }
    let (panels, queries) = (board.panels, board.queries.len());
    println!("dashboard: {panels} panels, {queries} queries with those of annotations");
    Ok(problems)
}

/// What is wrong with the alerts: none may want anybody, and each must be able to.
fn alerts(board: &Board, prometheus: &Prometheus<'_>) -> anyhow::Result<Vec<String>> {
    let quiet = wait_for("no alert wants anybody", QUIET, || {
        prometheus.rules().is_ok_and(|rules| rules.iter().all(|rule| !rule.wants_somebody()))
    });
    let rules = prometheus.rules()?;
    let mut problems = Vec::new();
    if quiet.is_err() {
        let loud = rules.iter().filter(|rule| rule.wants_somebody());
        problems.extend(loud.map(|rule| format!("alert {} is {}", rule.name, rule.state)));
    }
    for fired in prometheus.values("ALERTS{alertstate=\"firing\",severity!=\"info\"}")? {
        problems.push(format!("alert fired for a while: {fired}"));
    }
    let asked: BTreeSet<_> = rules.iter().flat_map(|rule| board::selectors(&rule.expr)).collect();
    let mut absent = BTreeSet::new();
    for selector in &asked {
        if !is_silent(selector) && !prometheus.has(selector)? {
            absent.insert(*selector);
        }
    }
    let is_asked = |text| asked.contains(text) || board.queries.iter().any(|one| one.expr == text);
    for (stale, _) in SILENT.iter().filter(|(text, _)| !is_asked(text)) {
        problems.push(format!("nobody asks for {stale} any more, which is said to be silent"));
    }
    for rule in &rules {
        problems.extend(problems_of(rule, &absent));
        // It was evaluated all the while; this is for the error, if it has one.
        prometheus.instant(&rule.expr)?;
    }
    println!("alerts: {}, which ask for {} things", rules.len(), asked.len());
    Ok(problems)
}

fn is_silent(text: &str) -> bool {
    SILENT.iter().any(|(known, _)| *known == text)
}

fn problems_of(rule: &Rule, absent: &BTreeSet<&str>) -> Vec<String> {
    let Rule { name, expr, state, error, .. } = rule;
    let mut problems = Vec::new();
    if !error.is_empty() {
        problems.push(format!("alert {name} cannot be evaluated: {error}"));
    }
    if name == TOLD && state != "firing" {
        problems.push(format!("alert {name} is {state} after a switchover"));
    }
    for selector in board::selectors(expr).into_iter().filter(|one| absent.contains(one)) {
        problems.push(format!("alert {name}: nobody exports {selector}"));
    }
    problems
}

fn step(name: &str) {
    eprintln!("dashboard: {name}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alert_on_what_nobody_exports_is_found() {
        let rule = |name: &str, state: &str| Rule {
            name: name.to_owned(),
            expr: "up{job=~\"pgx.*\"} == 0 or pgx_x_total > on (job) sum(pgx_y)".to_owned(),
            severity: "warning".to_owned(),
            state: state.to_owned(),
            error: String::new(),
        };
        let absent = BTreeSet::from(["pgx_y"]);
        let found = problems_of(&rule("A", "inactive"), &absent);
        assert_eq!(found, ["alert A: nobody exports pgx_y"]);
        assert_eq!(problems_of(&rule(TOLD, "inactive"), &absent).len(), 2);
    }
}
