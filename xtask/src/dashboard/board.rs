//! The dashboard as Grafana reads it: its queries, and its variables with what stands for them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::prometheus::SCRAPE_SECONDS;

const FILE: &str = "observability/grafana-dashboard.json";

/// What the dashboard asks.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) panels: usize,
    pub(super) variables: Vec<Variable>,
    pub(super) queries: Vec<Query>,
}

/// What people choose at the top, out of what a label has.
#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) series: String,
    pub(super) label: String,
    /// What stands for all of them, which is chosen at first.
    pub(super) all: Option<String>,
}

/// A query of a panel or an annotation.
#[derive(Debug)]
pub(super) struct Query {
    /// Whose it is.
    pub(super) place: String,
    pub(super) expr: String,
    /// How far apart its points are; none where only the newest is asked for.
    pub(super) step_seconds: Option<u64>,
}

impl Board {
    pub(super) fn read() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(crate::root().join(FILE)).context(FILE)?;
        Self::of(&serde_json::from_str(&text).context(FILE)?)
    }

    fn of(board: &Value) -> anyhow::Result<Self> {
        let asked = list(&board["templating"]["list"]).iter().filter(|one| one["type"] == "query");
        let variables = asked.map(variable).collect::<anyhow::Result<_>>()?;
        let mut queries = Vec::new();
        for note in list(&board["annotations"]["list"]).iter().filter(|one| !one["expr"].is_null())
        {
            let step = note["step"].as_str().and_then(|step| step.strip_suffix('s')?.parse().ok());
            let place = format!("annotation {}", text(&note["name"]));
            let step = step.with_context(|| format!("{place} has no step in seconds"))?;
            queries.push(Query { place, expr: text(&note["expr"]), step_seconds: Some(step) });
        }
        let outer = list(&board["panels"]).iter();
        let panels: Vec<_> =
            outer.flat_map(|one| std::iter::once(one).chain(list(&one["panels"]))).collect();
        let panels: Vec<_> = panels.into_iter().filter(|panel| panel["type"] != "row").collect();
        for panel in &panels {
            for target in list(&panel["targets"]) {
                let step_seconds = (target["instant"] != true).then_some(SCRAPE_SECONDS);
                let place = format!("panel {}", text(&panel["title"]));
                queries.push(Query { place, expr: text(&target["expr"]), step_seconds });
            }
        }
        ensure!(!queries.is_empty(), "{FILE} asks nothing");
        Ok(Self { panels: panels.len(), variables, queries })
    }
}

fn variable(variable: &Value) -> anyhow::Result<Variable> {
    let query = text(&variable["query"]["query"]);
    let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let parts = inside.and_then(|inside| inside.rsplit_once(", "));
    let (series, label) = parts.with_context(|| format!("{query:?} is no label_values(…)"))?;
    Ok(Variable {
        name: text(&variable["name"]),
        series: series.to_owned(),
        label: label.to_owned(),
        all: variable["allValue"].as_str().map(str::to_owned),
    })
}

/// Grafana's own variables, for all that was seen in so long a time.
pub(super) fn own_variables(age: Duration) -> BTreeMap<String, String> {
    // As Grafana has it for points that are as near to each other as scrapes.
    let rate = 4 * SCRAPE_SECONDS;
    let own = [
        ("__interval", SCRAPE_SECONDS),
        ("__rate_interval", rate),
        ("__range", age.as_secs().max(rate)),
    ];
    own.into_iter().map(|(name, seconds)| (name.to_owned(), format!("{seconds}s"))).collect()
}

/// A query with values in the places of its variables.
///
/// # Errors
/// When one is left that has none.
pub(super) fn fill(expr: &str, values: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let mut filled = expr.to_owned();
    // One name may be the beginning of another, which comes after it.
    for (name, value) in values.iter().rev() {
        filled = filled.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    ensure!(!filled.contains('$'), "a variable of {filled:?} has no value");
    Ok(filled)
}

/// What a query asks for: names of metrics, with the labels that are wanted.
pub(super) fn selectors(expr: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expr;
    while let Some(at) = rest.find(is_word) {
        let here = &rest[at..];
        let name = here.split(|c| !is_word(c)).next().unwrap_or(here);
        let labels = here[name.len()..].starts_with('{').then(|| here.find('}')).flatten();
        let end = labels.map_or(name.len(), |close| close + 1);
        if name == "up" || name.starts_with("pgx_") {
            found.push(&here[..end]);
        }
        rest = &here[end..];
    }
    found
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_their_variables_stood() {
        let values = [("job", "a"), ("job_of", "b"), ("__range", "9s")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(
            fill(r#"x{j="$job_of",k="${job}"}[$__range]"#, &values).unwrap(),
            r#"x{j="b",k="a"}[9s]"#
        );
        assert!(fill("x{j=\"$host\"}", &values).is_err());
    }

    #[test]
    fn what_a_query_asks_for_is_told_with_its_labels() {
        let expr = "sum by (pgx) (rate(pgx_a_total{b=\"up\"}[5m])) > on (job) up and max(pgx_c)";
        assert_eq!(selectors(expr), ["pgx_a_total{b=\"up\"}", "up", "pgx_c"]);
    }

    #[test]
    fn every_query_of_the_dashboard_is_read() {
        let board = Board::read().unwrap();
        let place = |place: &str| board.queries.iter().filter(|one| one.place == place).count();
        assert_eq!(board.variables.len(), 3);
        assert_eq!(place("annotation Changes of primary"), 1);
        assert_eq!(place("panel Who serves"), 2);
        assert!(board.panels > 40 && board.queries.len() > board.panels);
    }
}
