//! pgbench through VIP and pgx, beside the same load on a direct connection.

use std::time::Duration;

use pgx_tests::lab::Lab;

use crate::printed;

/// One way from the client to PostgreSQL.
pub(super) struct Way {
    name: &'static str,
    host: String,
    port: u16,
    runs: Vec<Run>,
}

/// What pgbench found in one run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    /// Transactions per second.
    tps: f64,
    /// Mean time of a transaction in milliseconds.
    latency_ms: f64,
}

/// Loads both ways in turn, and tells medians.
pub(super) fn compare(
    lab: &Lab,
    (rounds, seconds): (usize, u64),
    clients: u32,
    mut ways: [Way; 2],
) -> anyhow::Result<String> {
    for round in 1..=rounds {
        for way in &mut ways {
            eprintln!("demo: round {round} of {rounds}, {}", way.name);
            let run = load(lab, way, clients, Duration::from_secs(seconds))?;
            way.runs.push(run);
        }
    }
    Ok(report(&ways, clients))
}

impl Way {
    pub(super) fn new(name: &'static str, host: String, port: u16) -> Self {
        Self { name, host, port, runs: Vec::new() }
    }
}

fn load(lab: &Lab, way: &Way, clients: u32, time: Duration) -> anyhow::Result<Run> {
    let (clients, seconds) = (clients.to_string(), time.as_secs().to_string());
    let args = ["--select-only", "--no-vacuum", "--jobs=2", "--client", &clients, "--time"];
    let args = [&args[..], &[&seconds]].concat();
    let text = super::pgbench(lab, (&way.host, way.port), &args)?;
    Ok(Run {
        tps: printed::number(&text, printed::TPS)?,
        latency_ms: printed::number(&text, printed::LATENCY)?,
    })
}

fn report(ways: &[Way], clients: u32) -> String {
    let mut text = format!(
        "pgbench --select-only, {clients} clients, medians of {} rounds\n\n{:<12} {:>12} {:>10} \
         {:>12}\n",
        ways[0].runs.len(),
        "path",
        "tps",
        "of direct",
        "latency ms"
    );
    let direct = median(&ways[0].runs, |run| run.tps);
    for way in ways {
        let tps = median(&way.runs, |run| run.tps);
        let latency = median(&way.runs, |run| run.latency_ms);
        text += &format!("{:<12} {tps:>12.0} {:>10.2} {latency:>12.3}\n", way.name, tps / direct);
    }
    text
}

fn median(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<_> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_relates_each_path_to_the_direct_one_by_medians() {
        let run = |tps| Run { tps, latency_ms: 1.0 };
        let way = |name, runs| Way { name, host: String::new(), port: 0, runs };
        let ways = [
            way("direct", vec![run(10.0), run(1000.0), run(100.0)]),
            way("pgx", vec![run(50.0), run(50.0), run(50.0)]),
        ];
        let text = report(&ways, 8);
        assert!(text.lines().last().unwrap().contains("0.50"), "{text}");
    }
}
