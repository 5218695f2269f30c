//! pgbench, from the client's host of a lab, and what it prints.

use std::str::FromStr;

use anyhow::Context;
use pgx_tests::lab::Lab;
use pgx_tests::lab::spec::CLIENT;

/// Transactions a second.
pub(crate) const TPS: &str = "tps = ";
/// Mean time of a transaction in milliseconds.
const LATENCY: &str = "latency average = ";
/// Transactions, where none was asked for by number.
pub(crate) const TRANSACTIONS: &str = "number of transactions actually processed: ";

/// Rows of the accounts table, in units of 100,000; small enough to stay in memory.
pub(crate) const SCALE: &str = "5";

/// What one run of `--select-only` found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    /// Transactions per second.
    pub(crate) tps: f64,
    /// Mean time of a transaction in milliseconds.
    pub(crate) latency_ms: f64,
    /// How many there were.
    pub(crate) transactions: f64,
}

/// The words of a command for it at a host or address, and a port.
pub(crate) fn words<'a>(at: (&'a str, &'a str), more: &[&'a str]) -> Vec<&'a str> {
    let place = ["pgbench", "--host", at.0, "--port", at.1, "--username", "postgres"];
    [&place[..], more, &["postgres"]].concat()
}

/// Makes its tables.
///
/// # Errors
/// When it fails.
pub(crate) fn fill(lab: &Lab, at: (&str, &str)) -> anyhow::Result<()> {
    let words = words(at, &["--initialize", "--quiet", "--scale", SCALE]);
    lab.host(CLIENT)?.output(None, &words).map(drop)
}

/// Reads for so many seconds with so many clients.
///
/// # Errors
/// When it fails.
pub(crate) fn select_only(
    lab: &Lab,
    at: (&str, &str),
    clients: u32,
    seconds: u32,
) -> anyhow::Result<Run> {
    let (clients, seconds) = (clients.to_string(), seconds.to_string());
    let load = ["--select-only", "--no-vacuum", "--jobs=2", "--client", &clients, "--time"];
    let text = lab.host(CLIENT)?.output(None, &words(at, &[&load[..], &[&seconds]].concat()))?;
    read(&text)
}

fn read(text: &str) -> anyhow::Result<Run> {
    let (tps, latency_ms) = (number(text, TPS)?, number(text, LATENCY)?);
    Ok(Run { tps, latency_ms, transactions: number(text, TRANSACTIONS)? })
}

/// The number after a name.
///
/// # Errors
/// When there is none; the error has the whole text.
pub(crate) fn number<T: FromStr>(text: &str, name: &str) -> anyhow::Result<T> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("pgbench printed no {name:?}:\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "number of transactions actually processed: 318\n\
        number of failed transactions: 0 (0.000%)\n\
        latency average = 0.325 ms\ninitial connection time = 9.1 ms\n\
        tps = 25132.184 (without initial connection time)\n";

    #[test]
    fn numbers_are_read_from_the_report_of_pgbench() {
        let run = Run { tps: 25132.184, latency_ms: 0.325, transactions: 318.0 };
        assert_eq!(read(PRINTED).unwrap(), run);
        let error = read("pgbench: error: connection refused").unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
