//! What pgbench prints.

use std::str::FromStr;

use anyhow::Context;

/// Transactions a second.
pub(crate) const TPS: &str = "tps = ";
/// Mean time of a transaction in milliseconds.
pub(crate) const LATENCY: &str = "latency average = ";
/// Transactions, where none was asked for by number.
pub(crate) const TRANSACTIONS: &str = "number of transactions actually processed: ";

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
        let real = |name| number::<f64>(PRINTED, name).unwrap();
        assert!((real(TPS) - 25132.184).abs() < 1e-9);
        assert!((real(LATENCY) - 0.325).abs() < 1e-9);
        assert_eq!(number::<u64>(PRINTED, TRANSACTIONS).unwrap(), 318);
        let error = number::<f64>("pgbench: error: connection refused", TPS).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
