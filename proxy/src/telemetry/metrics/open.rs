//! The OpenMetrics form of the families that the text form has too, with exemplars: traces that show what a number means.
//!
//! <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// A sampled request that a histogram counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace_id: [u8; 16],
    /// In thousandths, as histograms count.
    pub(super) value: u64,
    pub(super) at: SystemTime,
}

/// Exemplars by family and labels.
pub(super) type Exemplars = HashMap<(&'static str, String), Exemplar>;

/// What scrapers accept it as.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a scraper asks for this form. Prometheus weighs it over the text form wherever it names it.
pub(crate) fn is_wanted(accept: &str) -> bool {
    accept.contains("application/openmetrics-text")
}

/// Writes all families.
pub(super) fn write(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut text = String::new();
    for family in families {
        // "The MetricFamily name MUST NOT have the suffix of its samples."
        let name = family.name();
        let counter = family.get_field_type() == MetricType::COUNTER;
        let bare = name
            .strip_suffix("_total")
            .filter(|_| counter)
            .unwrap_or(name);
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            MetricType::GAUGE => "gauge",
            MetricType::SUMMARY | MetricType::UNTYPED => "unknown",
        };
        let help = escaped(family.help());
        let _infallible = write!(text, "# TYPE {bare} {kind}\n# HELP {bare} {help}\n");
        for metric in family.get_metric() {
            let labels = labels(metric.get_label());
            match family.get_field_type() {
                MetricType::HISTOGRAM => {
                    let exemplar = exemplars.get(&(as_static(name), labels.clone()));
                    histogram(&mut text, name, &labels, metric, exemplar);
                }
                MetricType::COUNTER => sample(
                    &mut text,
                    &format!("{bare}_total"),
                    &labels,
                    metric.get_counter().get_value(),
                ),
                MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
                    sample(&mut text, name, &labels, metric.get_gauge().get_value());
                }
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

fn histogram(
    text: &mut String,
    name: &str,
    labels: &str,
    metric: &Metric,
    exemplar: Option<&Exemplar>,
) {
    let histogram = metric.get_histogram();
    let comma = if labels.is_empty() { "" } else { "," };
    let mut rest = exemplar;
    let mut bucket = |le: &str, bound: f64, count: u64| {
        let _infallible = write!(text, "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {count}");
        if let Some(one) = rest.take_if(|one| one.thousandths() <= bound) {
            let _infallible = write!(
                text,
                " # {{trace_id=\"{}\"}} {} {}",
                one.id(),
                one.thousandths(),
                one.seconds()
            );
        }
        text.push('\n');
    };
    for one in histogram.get_bucket() {
        bucket(
            &one.upper_bound().to_string(),
            one.upper_bound(),
            one.cumulative_count(),
        );
    }
    bucket("+Inf", f64::INFINITY, histogram.get_sample_count());
    let braces = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    };
    let (sum, count) = (histogram.get_sample_sum(), histogram.get_sample_count());
    let _infallible = write!(
        text,
        "{name}_sum{braces} {sum}\n{name}_count{braces} {count}\n"
    );
}

impl Exemplar {
    fn id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace_id))
    }

    fn thousandths(&self) -> f64 {
        super::collect::as_f64(self.value) / 1000.0
    }

    fn seconds(&self) -> String {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        format!("{:.3}", since.as_secs_f64())
    }
}

fn sample(text: &mut String, name: &str, labels: &str, value: f64) {
    let _infallible = match labels.is_empty() {
        true => writeln!(text, "{name} {value}"),
        false => writeln!(text, "{name}{{{labels}}} {value}"),
    };
}

/// `a="b",c="d"`, in the order they have.
pub(super) fn labels(pairs: &[LabelPair]) -> String {
    let mut text = String::new();
    for pair in pairs {
        let comma = if text.is_empty() { "" } else { "," };
        let _infallible = write!(text, "{comma}{}=\"{}\"", pair.name(), escaped(pair.value()));
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Exemplars are kept under names of ours.
fn as_static(name: &str) -> &'static str {
    match name == DURATION {
        true => DURATION,
        false => "",
    }
}

/// The family that has exemplars.
pub(super) const DURATION: &str = "istio_request_duration_milliseconds";
