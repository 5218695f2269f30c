//! pgbench through VIP and pgx, beside the same load on a direct connection.

use pgx_tests::lab::Lab;

use crate::bench::stats::median;
use crate::pgbench::{self, Run};

/// One way from the client to PostgreSQL.
pub(super) struct Way {
    name: &'static str,
    host: String,
    port: String,
    runs: Vec<Run>,
}

/// Loads both ways in turn, and tells medians.
pub(super) fn compare(
    lab: &Lab,
    (rounds, seconds): (usize, u32),
    clients: u32,
    mut ways: [Way; 2],
) -> anyhow::Result<String> {
    for round in 1..=rounds {
        for way in &mut ways {
            eprintln!("demo: round {round} of {rounds}, {}", way.name);
            let at = (way.host.as_str(), way.port.as_str());
            way.runs.push(pgbench::select_only(lab, at, clients, seconds)?);
        }
    }
    Ok(report(&ways, clients))
}

impl Way {
    pub(super) fn new(name: &'static str, host: String, port: u16) -> Self {
        Self { name, host, port: port.to_string(), runs: Vec::new() }
    }
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
    let direct = median(ways[0].runs.iter().map(|run| run.tps));
    for way in ways {
        let tps = median(way.runs.iter().map(|run| run.tps));
        let latency = median(way.runs.iter().map(|run| run.latency_ms));
        text += &format!("{:<12} {tps:>12.0} {:>10.2} {latency:>12.3}\n", way.name, tps / direct);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_relates_each_path_to_the_direct_one_by_medians() {
        let run = |tps| Run { tps, latency_ms: 1.0, transactions: 1.0 };
        let way = |name, runs| Way { name, host: String::new(), port: String::new(), runs };
        let ways = [
            way("direct", vec![run(10.0), run(1000.0), run(100.0)]),
            way("pgx", vec![run(50.0), run(50.0), run(50.0)]),
        ];
        let text = report(&ways, 8);
        assert!(text.lines().last().unwrap().contains("0.50"), "{text}");
    }
}
