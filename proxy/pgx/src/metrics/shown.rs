//! What shows metrics to people, `observability/` at the top: compared with what pgx exports, so
//! that no panel stays empty and no alert stays silent because a name has changed.
//!
//! The alerts are YAML and are read line by line, without a parser: each rule there has the same
//! lines in the same order, and whatever else is in the file is refused. So nothing is passed over.

mod promql;

use std::collections::BTreeSet;

use clap::Parser;
use serde_json::Value;

use self::promql::read;

const ALERTS: &str = include_str!("../../../../observability/alerts.yml");
const ALERT_TESTS: &str = include_str!("../../../../observability/alerts-test.yml");
const DASHBOARD: &str = include_str!("../../../../observability/grafana-dashboard.json");

/// A rule of the file of alerts.
#[derive(Debug)]
struct Alert<'a> {
    name: &'a str,
    expr: String,
    holds_for: &'a str,
    severity: &'a str,
    summary: &'a str,
    description: &'a str,
}

/// The lines that mean something, each with its number.
struct Lines<'a>(std::iter::Peekable<std::vec::IntoIter<(usize, &'a str)>>);

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        Self(lines.collect::<Vec<_>>().into_iter().peekable())
    }

    /// What follows `start` on the next line, if that begins so.
    fn next_if(&mut self, start: &str) -> Option<&'a str> {
        let (_, line) = self.0.next_if(|(_, line)| line.starts_with(start))?;
        Some(line[start.len()..].trim())
    }

    /// The same of a line that has to be there.
    fn take(&mut self, start: &str) -> Result<&'a str, String> {
        self.next_if(start).ok_or_else(|| match self.0.peek() {
            Some((number, line)) => format!("line {number} is {line:?}, expected {start:?}"),
            None => format!("the file ends, expected {start:?}"),
        })
    }
}

/// Every rule, or the first line that is not as it should be.
fn alerts(text: &str) -> Result<Vec<Alert<'_>>, String> {
    let mut lines = Lines::of(text);
    let mut alerts = Vec::new();
    lines.take("groups:")?;
    while lines.0.peek().is_some() {
        lines.take("  - name: ")?;
        lines.take("    rules:")?;
        while let Some(name) = lines.next_if("      - alert: ") {
            alerts.push(alert(name, &mut lines).map_err(|problem| format!("{name}: {problem}"))?);
        }
    }
    Ok(alerts)
}

fn alert<'a>(name: &'a str, lines: &mut Lines<'a>) -> Result<Alert<'a>, String> {
    let mut expr = lines.take("        expr: ")?.to_owned();
    if expr == "|" {
        expr.clear();
        while let Some(line) = lines.next_if("          ") {
            expr = format!("{expr}{line}\n");
        }
    }
    let holds_for = lines.take("        for: ")?;
    lines.take("        labels:")?;
    let severity = lines.take("          severity: ")?;
    lines.take("        annotations:")?;
    let mut quoted = |start: &str| {
        let text = lines.take(start)?.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let text = text.filter(|text| !text.is_empty() && !text.contains(['"', '\\']));
        text.ok_or_else(|| format!("{start:?} is to be followed by a text between quotes"))
    };
    let summary = quoted("          summary: ")?;
    let description = quoted("          description: ")?;
    Ok(Alert { name, expr, holds_for, severity, summary, description })
}

/// What is wrong with one alert.
fn problems_of_alert(alert: &Alert<'_>) -> Vec<String> {
    let Alert { expr, holds_for, severity, summary, description, .. } = alert;
    let query = read(expr);
    let mut problems = query.problems;
    if !query.variables.is_empty() {
        problems.push(format!("{:?} are variables of dashboards", query.variables));
    }
    let number = holds_for.trim_end_matches(['s', 'm', 'h']);
    if number.parse::<u32>().is_err() || holds_for.len() != number.len() + 1 {
        problems.push(format!("{holds_for:?} is no time"));
    }
    if !["critical", "warning", "info"].contains(severity) {
        problems.push(format!("{severity:?} is no severity"));
    }
    for label in [summary, description].into_iter().flat_map(|text| templates(text)) {
        match label.strip_prefix("$labels.") {
            Some(label) if query.labels.contains(label) => {}
            _ => problems.push(format!("its texts name {label}, which the result does not have")),
        }
    }
    let commands = commands(description);
    if commands.is_empty() {
        problems.push("its description has no command of pgx to run next".to_owned());
    }
    for command in commands {
        if let Err(error) = crate::cli::Command::try_parse_from(command.split_whitespace()) {
            problems.push(format!("`{command}` is no command: {error}"));
        }
    }
    problems
}

/// What stands between `{{` and `}}`.
fn templates(text: &str) -> Vec<&str> {
    let inside = text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
    inside.map(str::trim).collect()
}

/// The commands of pgx between backticks, with a word in the place of each template.
fn commands(text: &str) -> Vec<String> {
    let mut plain = text.to_owned();
    for template in text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
        plain = plain.replace(&format!("{{{{{template}}}}}"), "WORD");
    }
    let quoted = plain.split('`').skip(1).step_by(2);
    quoted.filter(|text| text.starts_with("pgx ")).map(str::to_owned).collect()
}

/// What is wrong with the dashboard.
fn problems_of_dashboard(dashboard: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut add = |at: &str, found: Vec<String>| {
        problems.extend(found.into_iter().map(|problem| format!("{at}: {problem}")));
    };
    let variables = list(&dashboard["templating"]["list"]);
    let known: BTreeSet<_> = variables.iter().filter_map(|each| each["name"].as_str()).collect();
    for variable in variables.iter().filter(|each| each["type"] == "query") {
        let text = variable["query"]["query"].as_str().unwrap_or_default();
        let query = read(text);
        let label = text.trim_end_matches(')').rsplit(", ").next().unwrap_or_default();
        let mut found = query.problems;
        if !query.labels.contains(label) {
            found.push(format!("{text} asks for a label that is not there"));
        }
        add(&format!("variable {}", variable["name"]), found);
    }
    for note in list(&dashboard["annotations"]["list"]) {
        if let Some(expr) = note["expr"].as_str() {
            add(&format!("annotation {}", note["name"]), problems_of_query(expr, "", &known));
        }
    }
    let mut ids = BTreeSet::new();
    for panel in panels(dashboard) {
        let mut found = Vec::new();
        if !ids.insert(panel["id"].as_u64()) {
            found.push("its id is another panel's, too".to_owned());
        }
        let targets = list(&panel["targets"]);
        if targets.is_empty() && panel["type"] != "row" {
            found.push("it has no query".to_owned());
        }
        for target in targets {
            let expr = target["expr"].as_str().unwrap_or_default();
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            found.extend(problems_of_query(expr, legend, &known));
        }
        for source in targets.iter().map(|target| &target["datasource"]["uid"]) {
            if source != "${datasource}" {
                found.push(format!("its source of data is {source}, not the variable"));
            }
        }
        add(&format!("panel {}", panel["title"]), found);
    }
    problems
}

fn problems_of_query(expr: &str, legend: &str, known: &BTreeSet<&str>) -> Vec<String> {
    let query = read(expr);
    let mut problems = query.problems;
    // What begins with two underlines is Grafana's own.
    let strange = |name: &&String| !name.starts_with("__") && !known.contains(name.as_str());
    for name in query.variables.iter().filter(strange) {
        problems.push(format!("there is no variable {name}"));
    }
    for label in templates(legend) {
        if !query.labels.contains(label) {
            problems.push(format!("its legend names {label}, which the result does not have"));
        }
    }
    problems
}

/// All panels, also those that a folded row has inside.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let outer = list(&dashboard["panels"]).iter();
    outer.flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"]))).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule as it should be.
    const RULE: &str = "groups:
  - name: pgx-x
    rules:
      - alert: PgxX
        expr: |
          pgx_vip_held
            > 1
        for: 30s
        labels:
          severity: info
        annotations:
          summary: \"Lease {{ $labels.lease }} is held.\"
          description: \"Run `pgx ctl pause {{ $labels.role }}`.\"
";

    /// What is found in [`RULE`] when a part of it is another one.
    fn found(from: &str, to: &str) -> String {
        assert!(RULE.contains(from), "{from}");
        let text = RULE.replacen(from, to, 1);
        match alerts(&text) {
            Ok(alerts) => alerts.iter().flat_map(problems_of_alert).collect::<Vec<_>>().join("; "),
            Err(problem) => problem,
        }
    }

    #[test]
    fn alerts_ask_for_what_pgx_exports_and_say_what_to_do() {
        let alerts = alerts(ALERTS).expect("observability/alerts.yml");
        assert!(alerts.len() > 20, "only {} alerts were read", alerts.len());
        let mut names = BTreeSet::new();
        for alert in &alerts {
            let problems = problems_of_alert(alert);
            assert!(problems.is_empty(), "{}: {}", alert.name, problems.join("\n"));
            assert!(names.insert(alert.name), "{} is there twice", alert.name);
            let fires = format!(r#"{{alertname="{}", alertstate="firing", "#, alert.name);
            assert!(ALERT_TESTS.contains(&fires), "alerts-test.yml never sees {} fire", alert.name);
        }
    }

    #[test]
    fn dashboard_asks_for_what_pgx_exports() {
        let dashboard =
            serde_json::from_str(DASHBOARD).expect("observability/grafana-dashboard.json");
        let problems = problems_of_dashboard(&dashboard);
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        assert!(panels(&dashboard).len() > 40);
    }

    #[test]
    fn alert_that_asks_for_what_is_not_there_is_found() {
        assert_eq!(found("PgxX", "PgxY"), "");
        assert!(found("pgx_vip_held", "pgx_vip_kept").contains("no such metric"));
        assert!(found("$labels.lease", "$labels.node").contains("$labels.node"));
        assert!(found("> 1", "> $limit").contains("variables of dashboards"));
    }

    #[test]
    fn alert_without_what_people_are_told_is_found() {
        let line = "          description: \"Run `pgx ctl pause {{ $labels.role }}`.\"\n";
        assert!(found(line, "").contains("description"));
        assert!(found("          summary: ", "          title: ").contains("line 12"));
        assert!(found("\"Lease {{ $labels.lease }} is held.\"", "\"\"").contains("summary"));
        assert!(found("Run `pgx ctl pause", "Look for `top").contains("no command of pgx"));
        assert!(found("pgx ctl pause", "pgx ctl stop").contains("is no command"));
        assert!(found("severity: info", "severity: page").contains("no severity"));
        assert!(found("for: 30s", "for: soon").contains("no time"));
        assert!(found("for: 30s", "keep_firing_for: 30s").contains("line 8"));
    }

    #[test]
    fn panel_that_would_stay_empty_is_found() {
        let panel = |targets: &str, legend: &str| {
            let text = format!(
                r#"{{"templating": {{"list": [{{"name": "job", "type": "query",
                    "query": {{"query": "label_values(pgx_build_info, job)"}}}}]}},
                "panels": [{{"id": 1, "type": "row", "panels": [
                    {{"id": 2, "type": "stat", "title": "x", "targets": [{targets}]}}]}}]}}"#
            );
            let text = text.replace("LEGEND", legend);
            problems_of_dashboard(&serde_json::from_str(&text).expect("a dashboard")).join("; ")
        };
        let target = |expr: &str| {
            format!(
                r#"{{"expr": "{expr}", "legendFormat": "LEGEND",
                    "datasource": {{"uid": "${{datasource}}"}}}}"#
            )
        };
        assert_eq!(panel(&target(r#"pgx_vip_held{job=\"$job\"}"#), "{{role}}"), "");
        assert!(panel("", "").contains("no query"));
        assert!(panel(&target(""), "").contains("no metric"));
        assert!(panel(&target("pgx_vip_kept"), "").contains("no such metric"));
        assert!(panel(&target(r#"pgx_vip_held{job=\"$host\"}"#), "").contains("no variable host"));
        assert!(panel(&target("sum by (job) (pgx_vip_held)"), "{{role}}").contains("names role"));
        assert!(panel(&target("up").replace("${", "{"), "").contains("source of data"));
    }
}
