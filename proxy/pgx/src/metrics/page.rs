//! One scrape: what was found of each metric, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt;

use pgx_session::stats::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::list::{Kind, Metric};

/// The form's name among media types.
pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Page(BTreeMap<&'static str, (Metric, Vec<Sample>)>);

/// One series.
#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Count(u64),
    Number(f64),
    Times(Histogram),
}

impl Page {
    /// How often something happened.
    pub(super) fn count(&mut self, metric: Metric, labels: &[&str], count: u64) {
        assert_eq!(metric.kind, Kind::Counter, "{metric:?}");
        self.add(metric, labels, Value::Count(count));
    }

    /// How much there is.
    pub(super) fn gauge(&mut self, metric: Metric, labels: &[&str], value: f64) {
        assert_eq!(metric.kind, Kind::Gauge, "{metric:?}");
        self.add(metric, labels, Value::Number(value));
    }

    /// How many there are.
    pub(super) fn number(&mut self, metric: Metric, labels: &[&str], value: u64) {
        self.gauge(metric, labels, float(value));
    }

    /// Whether it is so.
    pub(super) fn is(&mut self, metric: Metric, labels: &[&str], is_so: bool) {
        self.gauge(metric, labels, f64::from(u8::from(is_so)));
    }

    /// How long things took.
    pub(super) fn times(&mut self, metric: Metric, labels: &[&str], times: &Histogram) {
        assert_eq!(metric.kind, Kind::Histogram, "{metric:?}");
        self.add(metric, labels, Value::Times(times.clone()));
    }

    fn add(&mut self, metric: Metric, labels: &[&str], value: Value) {
        assert_eq!(metric.labels.len(), labels.len(), "labels of {metric:?}");
        let values = labels.iter().map(|value| (*value).to_owned());
        let labels = metric.labels.iter().copied().zip(values).collect();
        let (_, samples) = self.0.entry(metric.name).or_insert_with(|| (metric, Vec::new()));
        samples.push(Sample { labels, value });
    }

    /// All of it as text.
    pub(super) fn into_text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("pgx");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (metric, samples) in self.0.values() {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for sample in samples {
                write(family.encode_family(&sample.labels)?, &sample.value)?;
            }
        }
        Ok(())
    }
}

fn write(mut encoder: MetricEncoder<'_>, value: &Value) -> Result<(), fmt::Error> {
    match value {
        Value::Count(count) => encoder.encode_counter::<NoLabelSet, _, f64>(count, None),
        Value::Number(number) => encoder.encode_gauge(number),
        Value::Times(times) => {
            let bound = |us: Option<u64>| us.map_or(f64::INFINITY, seconds);
            let buckets: Vec<_> = times.buckets().map(|(us, count)| (bound(us), count)).collect();
            let sum = seconds(times.sum_us());
            encoder.encode_histogram::<NoLabelSet>(sum, times.count(), &buckets, None)
        }
    }
}

/// Prometheus' seconds.
pub(super) fn seconds(us: u64) -> f64 {
    float(us) / 1e6
}

/// The same of milliseconds.
pub(super) fn seconds_of_ms(ms: u64) -> f64 {
    float(ms) / 1e3
}

/// All numbers of Prometheus are floating; large ones lose their last digits there.
#[expect(clippy::cast_precision_loss, reason = "so it is with gauges")]
fn float(value: u64) -> f64 {
    value as f64
}
