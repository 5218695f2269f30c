//! Reads queries as far as names go: which metrics a query asks for, and by which labels. Whether
//! it says something sensible is for `promtool` and people.

use std::collections::BTreeSet;

use super::super::list::{ALL, Kind};

/// Labels that Prometheus itself gives to all series.
const OWN: [&str; 2] = ["instance", "job"];

/// Aggregations, functions and operators; what else stands in a query is the name of a metric.
const WORDS: [&str; 20] = [
    "and",
    "avg",
    "bool",
    "changes",
    "count",
    "delta",
    "histogram_quantile",
    "increase",
    "label_values",
    "max",
    "max_over_time",
    "min",
    "min_over_time",
    "or",
    "rate",
    "resets",
    "sum",
    "time",
    "topk",
    "unless",
];

/// A query that has been read.
#[derive(Debug, Default)]
pub(super) struct Query {
    /// What is wrong with it.
    pub(super) problems: Vec<String>,
    /// The labels that its result may have.
    pub(super) labels: BTreeSet<String>,
    /// The variables of a dashboard in it.
    pub(super) variables: BTreeSet<String>,
}

/// Reads one.
pub(super) fn read(text: &str) -> Query {
    let tokens = match tokens(text) {
        Ok(tokens) => tokens,
        Err(problem) => return Query { problems: vec![problem], ..Query::default() },
    };
    let mut query = Query { variables: variables(text), ..Query::default() };
    let mut grouped = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        match *word {
            "by" => match group(&tokens, at + 1) {
                Ok((labels, end)) => {
                    let inner = scope(&tokens, end);
                    query.problems.extend(lacking(inner, &labels));
                    grouped.extend(labels.into_iter().map(str::to_owned));
                }
                Err(problem) => query.problems.push(problem),
            },
            "on" => match group(&tokens, at + 1) {
                Ok((labels, _)) => query.problems.extend(lacking(&tokens, &labels)),
                Err(problem) => query.problems.push(problem),
            },
            _ => {}
        }
    }
    let metrics = metrics(&tokens);
    if metrics.is_empty() {
        query.problems.push("it asks for no metric".to_owned());
    }
    for (name, matchers) in &metrics {
        let Some(labels) = labels_of(name) else {
            query.problems.push(format!("no such metric: {name}"));
            continue;
        };
        for label in matchers.iter().filter(|label| !labels.contains(*label)) {
            query.problems.push(format!("{name} has no label {label}"));
        }
    }
    query.labels = if grouped.is_empty() {
        let first = metrics.first().and_then(|(name, _)| labels_of(name));
        first.unwrap_or_default().into_iter().map(str::to_owned).collect()
    } else {
        grouped
    };
    if text.contains("histogram_quantile") {
        query.labels.remove("le");
    }
    query
}

/// The labels of a metric by the name that its series have; `None` if pgx exports no such series.
fn labels_of(name: &str) -> Option<BTreeSet<&'static str>> {
    let own = || OWN.into_iter();
    if name == "up" {
        return Some(own().collect());
    }
    let stem = name.strip_prefix("pgx_")?;
    let metric = ALL.iter().find(|metric| match metric.kind {
        Kind::Counter => stem.strip_suffix("_total") == Some(metric.name),
        Kind::Gauge => stem == metric.name,
        Kind::Histogram => ["_bucket", "_count", "_sum"]
            .iter()
            .any(|end| stem.strip_suffix(end) == Some(metric.name)),
    })?;
    let bound = name.ends_with("_bucket").then_some("le");
    Some(own().chain(metric.labels.iter().copied()).chain(bound).collect())
}

/// A part of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A name, a function, an operator in letters.
    Word(&'a str),
    /// What stands between quotes.
    Text,
    /// Anything else of one character; numbers and ranges are left out.
    Sign(char),
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_:.$".contains(c);
        let ends = |close: char| {
            let end = rest[1..].find(close).map(|end| end + 2);
            end.ok_or_else(|| format!("{first} is not closed in {text:?}"))
        };
        let length = match first {
            '"' => {
                tokens.push(Token::Text);
                ends('"')?
            }
            '[' => ends(']')?,
            c if is_word(c) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                if !c.is_ascii_digit() {
                    tokens.push(Token::Word(&rest[..length]));
                }
                length
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token::Sign(c));
                }
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    Ok(tokens)
}

/// The names between parentheses, and where these end.
fn group<'a>(tokens: &[Token<'a>], at: usize) -> Result<(Vec<&'a str>, usize), String> {
    let close = tokens.iter().skip(at).position(|token| *token == Token::Sign(')'));
    let (Some(Token::Sign('(')), Some(close)) = (tokens.get(at), close) else {
        return Err("by and on are to be followed by labels between parentheses".to_owned());
    };
    let names = tokens[at..at + close].iter().filter_map(|token| match token {
        Token::Word(name) => Some(*name),
        Token::Text | Token::Sign(_) => None,
    });
    Ok((names.collect(), at + close + 1))
}

/// What an aggregation is over: the parentheses after its labels. None there means those before,
/// which no query here needs, and everything is taken for it.
fn scope<'t, 'a>(tokens: &'t [Token<'a>], at: usize) -> &'t [Token<'a>] {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token {
            Token::Sign('(') => depth += 1,
            Token::Sign(')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return if index == at { tokens } else { &tokens[at..=index] };
        }
    }
    tokens
}

/// The metrics that are asked for, each with the labels in its selector.
fn metrics<'a>(tokens: &[Token<'a>]) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut is_within = ' ';
    for (at, token) in tokens.iter().enumerate() {
        match *token {
            Token::Sign('{') => is_within = '{',
            Token::Sign('}' | ')') => is_within = ' ',
            Token::Word("by" | "on") => is_within = '(',
            // After its comma `label_values` has a label, which whoever reads it looks at.
            Token::Word(label) if is_within == '{' => {
                if let Some((_, labels)) = found.last_mut() {
                    labels.push(label);
                }
            }
            Token::Word(word) if is_within == ' ' && !WORDS.contains(&word) => {
                let is_label =
                    at > 0 && tokens[at - 1] == Token::Sign(',') && tokens.len() == at + 2;
                if !(is_label && tokens.contains(&Token::Word("label_values"))) {
                    found.push((word, Vec::new()));
                }
            }
            _ => {}
        }
    }
    found
}

/// Labels that one of the metrics there does not have, so that grouping by them says nothing.
fn lacking(tokens: &[Token<'_>], labels: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, _) in metrics(tokens) {
        let known = labels_of(name).unwrap_or_default();
        let strange = labels.iter().filter(|label| !known.contains(*label));
        problems
            .extend(strange.map(|label| format!("{name} is grouped by {label}, not its label")));
    }
    problems
}

/// The names after each `$`.
fn variables(text: &str) -> BTreeSet<String> {
    let after = text.split('$').skip(1).map(|rest| rest.trim_start_matches('{'));
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    after.map(|rest| rest.chars().take_while(|c| is_name(*c)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        read(text).problems.join("; ")
    }

    #[test]
    fn names_that_pgx_exports_pass_with_their_endings_and_others_are_found() {
        for text in [
            "pgx_clients > 0.9 * pgx_clients_max",
            "rate(pgx_wait_seconds_count[5m]) / rate(pgx_wait_seconds_sum[5m])",
            "max by (job) (increase(pgx_control_epochs_total[10m])) > 0",
            r#"up{job=~"pgx.*"} == 0"#,
        ] {
            assert_eq!(problem(text), "", "{text}");
        }
        for text in [
            "pgx_client",
            "pgx_clients_total",
            "pgx_control_epochs",
            "rate(pgx_wait_seconds[5m])",
            "pgx_clients_bucket",
            "rates(pgx_clients)",
            "node_load1",
        ] {
            assert!(problem(text).contains("no such metric"), "{text}: {}", problem(text));
        }
        assert!(problem("1 > 0").contains("no metric"));
    }

    #[test]
    fn labels_that_the_metric_does_not_have_are_found() {
        assert_eq!(problem(r#"pgx_vip_held{lease="1", instance=~"a|b"}"#), "");
        let found = problem(r#"pgx_clients or pgx_vip_held{node="1"}"#);
        assert_eq!(found, "pgx_vip_held has no label node");
        assert!(problem(r#"pgx_wait_seconds_count{le="1"}"#).contains("no label le"));
        assert!(problem(r#"up{lease="1"}"#).contains("up has no label lease"));
    }

    #[test]
    fn grouping_is_by_labels_of_what_is_grouped() {
        let good = "histogram_quantile(0.9, sum by (user, le) (rate(pgx_wait_seconds_bucket[5m])))";
        assert_eq!(problem(good), "");
        let found = problem("sum by (node) (pgx_peer_connected + pgx_clients) > pgx_servers");
        assert_eq!(found, "pgx_clients is grouped by node, not its label");
        let found = problem("pgx_clients and on (job, lease) pgx_vip_held");
        assert_eq!(found, "pgx_clients is grouped by lease, not its label");
        assert!(problem("sum by job (pgx_clients)").contains("between parentheses"));
    }

    #[test]
    fn result_has_the_labels_that_are_grouped_by_or_those_of_the_first_metric() {
        let labels = |text: &str| read(text).labels.into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(labels("max by (job, role) (pgx_vip_held)"), "job role");
        assert_eq!(labels("pgx_vip_held"), "instance job lease role");
        let text = "histogram_quantile(1, sum by (le) (pgx_pause_seconds_bucket))";
        assert_eq!(labels(text), "");
    }

    #[test]
    fn variables_are_found_in_selectors_and_ranges() {
        let text = r#"rate(pgx_pause_seconds_sum{job="$job"}[${__range}])"#;
        let found: Vec<_> = read(text).variables.into_iter().collect();
        assert_eq!(found, ["__range", "job"]);
    }
}
