//! What a pgx tells Prometheus, read by a parser that is not ours, and checked for its form.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use prometheus_parse::Value;

/// Longer than any answer takes.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// One scrape.
#[derive(Debug)]
pub struct Scrape {
    /// As it came.
    pub text: String,
    samples: Vec<prometheus_parse::Sample>,
}

/// How often something took no longer than what, and how long all of it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// How often.
    pub count: f64,
    /// How long, in seconds.
    pub sum: f64,
}

/// An answer to a request, as it is.
///
/// # Errors
/// When there is none.
pub fn ask(at: SocketAddr, request: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Scrape {
    /// Asks for it.
    ///
    /// # Errors
    /// When there is no answer, or not in the form that is promised.
    pub fn of(at: SocketAddr) -> anyhow::Result<Self> {
        let answer = ask(at, "GET /metrics HTTP/1.1\r\nHost: pgx\r\n\r\n")?;
        let (head, text) = answer.split_once("\r\n\r\n").context("no head")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        ensure!(head.contains("text/plain; version=0.0.4"), "{head}");
        check(text)?;
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let samples = prometheus_parse::Scrape::parse(lines)?.samples;
        Ok(Self { text: text.to_owned(), samples })
    }

    fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Value> {
        let is_it = |sample: &&prometheus_parse::Sample| {
            let has = |(label, value): &(&str, &str)| sample.labels.get(label) == Some(*value);
            sample.metric == name && labels.iter().all(has)
        };
        self.samples.iter().filter(is_it).map(|sample| &sample.value).collect()
    }

    /// The sum of all series of a name that have these labels; zero if there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let number = |value: &Value| match value {
            Value::Counter(number) | Value::Gauge(number) | Value::Untyped(number) => *number,
            Value::Histogram(_) | Value::Summary(_) => f64::NAN,
        };
        self.values(name, labels).into_iter().map(number).sum()
    }

    /// The sums of all histograms of a name that have these labels.
    #[must_use]
    pub fn times(&self, name: &str, labels: &[(&str, &str)]) -> Times {
        let of = |end: &str| self.sum(&format!("{name}{end}"), labels);
        Times { count: of("_count"), sum: of("_sum") }
    }
}

/// Checks what Prometheus' text form asks for and the parser does not see: a HELP and a TYPE before
/// each family, no series twice, and buckets that grow up to the count.
fn check(text: &str) -> anyhow::Result<()> {
    let (mut kinds, mut helped, mut seen) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    let mut buckets: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    ensure!(text.ends_with('\n'), "the last line does not end");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').with_context(|| line.to_owned())?;
            ensure!(helped.insert(name) && !help.is_empty(), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').with_context(|| line.to_owned())?;
            ensure!(helped.contains(name) && kinds.insert(name, kind).is_none(), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            let value: f64 = value.parse().with_context(|| line.to_owned())?;
            ensure!(seen.insert(series), "twice: {line}");
            let name = series.split('{').next().unwrap_or_default();
            ensure!(name.starts_with("pgx_"), "{line}");
            let ends = ["_bucket", "_sum", "_count"];
            let stem = ends.iter().find_map(|end| name.strip_suffix(end));
            let is_of = |stem: &&str| kinds.get(stem) == Some(&"histogram");
            let family = stem.filter(is_of).unwrap_or(name);
            let Some(kind) = kinds.get(family) else { bail!("no TYPE before {line}") };
            ensure!((*kind == "counter") == family.ends_with("_total"), "{line}");
            if name.ends_with("_bucket") && family != name {
                let at = series.find("le=").with_context(|| line.to_owned())?;
                buckets.entry(series[..at].to_owned()).or_default().push(value);
            } else if name.ends_with("_count") && family != name {
                let labels = series.strip_prefix(name).unwrap_or_default();
                let key = match labels.strip_suffix('}') {
                    Some(labels) => format!("{family}_bucket{labels},"),
                    None => format!("{family}_bucket{{"),
                };
                let known = buckets.get(&key).with_context(|| format!("no buckets: {line}"))?;
                ensure!(known.is_sorted() && known.last() == Some(&value), "{line}: {known:?}");
            }
        }
    }
    ensure!(!seen.is_empty(), "nothing is told");
    Ok(())
}
