//! A Prometheus in a host of a lab, and what it answers.

use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use pgx_tests::lab::spec::{CLIENT, METRICS_PORT};
use pgx_tests::lab::{Host, Lab, wait_for};
use serde_json::{Value, json};

use crate::setup;

/// Where it listens, in its host.
pub(super) const LISTEN: &str = "127.0.0.1:9090";
/// How far scrapes are from each other.
pub(super) const SCRAPE_SECONDS: u64 = 1;
/// The cluster's name among scrapes.
const JOB: &str = "pgx";
/// It is there within a second or two, and scrapes come each second.
const START: Duration = Duration::from_secs(30);

/// One that runs. It ends with its lab.
pub(super) struct Prometheus<'a> {
    host: &'a Host,
    since: Instant,
}

/// An alert, as Prometheus has read it, and how it is.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) expr: String,
    pub(super) severity: String,
    /// `inactive`, `pending` or `firing`.
    pub(super) state: String,
    /// Why it could not be evaluated; empty if it could.
    pub(super) error: String,
}

impl Rule {
    /// Whether it wakes somebody, or will if nothing changes.
    pub(super) fn wants_somebody(&self) -> bool {
        self.severity != "info" && self.state != "inactive"
    }
}

impl<'a> Prometheus<'a> {
    /// Starts it where clients are, and waits until it has heard from every pgx.
    ///
    /// # Errors
    /// When it does not come up; its log says why.
    pub(super) fn start(lab: &'a Lab) -> anyhow::Result<Self> {
        let host = lab.host(CLIENT)?;
        let folder = lab.state_dir().join("prometheus");
        std::fs::create_dir_all(&folder)?;
        let names = lab.members().map(|host| format!("{}:{METRICS_PORT}", host.plan().name));
        let targets: Vec<_> = names.collect();
        let often = format!("{SCRAPE_SECONDS}s");
        // JSON is YAML.
        let config = json!({
            "global": {
                "scrape_interval": often, "scrape_timeout": often, "evaluation_interval": often,
            },
            "rule_files": [crate::root().join("observability/alerts.yml")],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": targets}]}],
        });
        let [config_file, log, data] =
            ["prometheus.yml", "log", "data"].map(|name| folder.join(name));
        std::fs::write(&config_file, config.to_string())?;
        let words = [
            setup::PROMETHEUS.to_owned(),
            format!("--config.file={}", config_file.display()),
            format!("--storage.tsdb.path={}", data.display()),
            format!("--web.listen-address={LISTEN}"),
        ];
        let out = std::fs::File::create(&log)?;
        let mut command = host.command(&words)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn()?;
        let own = Self { host, since: Instant::now() };
        let count = f64::from(u32::try_from(targets.len())?);
        let up = format!("sum(up{{job={JOB:?}}})");
        wait_for("Prometheus hears from all", START, || own.number(&up) == Some(count))
            .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        Ok(own)
    }

    /// Since when it runs.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Of how many series a query has values now, or with a step, had since the beginning. What is
    /// no number is none to Grafana either.
    pub(super) fn series(&self, expr: &str, step_seconds: Option<u64>) -> anyhow::Result<usize> {
        let found = match step_seconds {
            Some(step) => self.range(expr, step)?,
            None => self.instant(expr)?,
        };
        Ok(found.iter().filter(|one| has_value(one)).count())
    }

    /// The one number that a query has now.
    pub(super) fn number(&self, expr: &str) -> Option<f64> {
        let found = self.instant(expr).ok()?;
        found.first()?["value"][1].as_str()?.parse().ok()
    }

    /// The labels of all series that a query had since the beginning.
    pub(super) fn values(&self, expr: &str) -> anyhow::Result<Vec<Value>> {
        let found = self.range(expr, SCRAPE_SECONDS)?;
        Ok(found.into_iter().map(|mut one| one["metric"].take()).collect())
    }

    /// What a query finds now.
    pub(super) fn instant(&self, expr: &str) -> anyhow::Result<Vec<Value>> {
        let data = self.get("query", &[("query", expr)]).with_context(|| expr.to_owned())?;
        rows(data["result"].clone())
    }

    fn range(&self, expr: &str, step: u64) -> anyhow::Result<Vec<Value>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let from = now.saturating_sub(self.age());
        let [from, now] = [from, now].map(|at| at.as_secs().to_string());
        let step = step.to_string();
        let asked = [("query", expr), ("start", &*from), ("end", &*now), ("step", &*step)];
        let data = self.get("query_range", &asked).with_context(|| expr.to_owned())?;
        rows(data["result"].clone())
    }

    /// What a label has for values in some series.
    pub(super) fn label_values(&self, series: &str, label: &str) -> anyhow::Result<Vec<String>> {
        let data = self.get(&format!("label/{label}/values"), &[("match[]", series)])?;
        Ok(serde_json::from_value(data)?)
    }

    /// Whether there is, or was, a series that these labels select.
    pub(super) fn has(&self, selector: &str) -> anyhow::Result<bool> {
        Ok(!self.label_values(selector, "__name__")?.is_empty())
    }

    /// All alerts.
    pub(super) fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        let mut all = Vec::new();
        for group in rows(self.get("rules", &[])?["groups"].take())? {
            for rule in rows(group["rules"].clone())? {
                let text = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
                all.push(Rule {
                    name: text("name"),
                    expr: text("query"),
                    severity: rule["labels"]["severity"].as_str().unwrap_or_default().to_owned(),
                    state: text("state"),
                    error: text("lastError"),
                });
            }
        }
        ensure!(!all.is_empty(), "Prometheus has no rules");
        Ok(all)
    }

    /// Asks its API. It listens in its host only, where `curl` gets to.
    fn get(&self, path: &str, asked: &[(&str, &str)]) -> anyhow::Result<Value> {
        let url = format!("http://{LISTEN}/api/v1/{path}");
        let mut words = ["curl", "-sS", "--max-time", "10", "--get"].map(str::to_owned).to_vec();
        for (name, value) in asked {
            words.extend(["--data-urlencode".to_owned(), format!("{name}={value}")]);
        }
        words.push(url);
        let said = self.host.output(None, &words)?;
        let mut answer: Value = serde_json::from_str(&said).context(said)?;
        ensure!(answer["status"] == "success", "Prometheus says {}", answer["error"]);
        Ok(answer["data"].take())
    }
}

fn rows(value: Value) -> anyhow::Result<Vec<Value>> {
    Ok(serde_json::from_value(value)?)
}

/// Whether a series has a number at any time.
fn has_value(series: &Value) -> bool {
    let many = series["values"].as_array().into_iter().flatten();
    let points = many.chain(series.get("value"));
    points.filter_map(|point| point[1].as_str()).any(|value| value != "NaN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_no_data() {
        assert!(has_value(&json!({"values": [[1, "NaN"], [2, "0"]]})));
        assert!(has_value(&json!({"value": [2, "1.5"]})));
        assert!(!has_value(&json!({"values": [[1, "NaN"]]})));
        assert!(!has_value(&json!({})));
    }
}
