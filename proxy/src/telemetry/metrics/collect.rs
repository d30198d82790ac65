//! Sums the cells of all workers into what the `prometheus` crate writes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use super::cell::{BOUNDS, HistogramTotal};
use super::istio::{RequestSeries, RequestTotals};
use super::labels::{self, Labels, Own};
use super::open::{self, Exemplars};
use super::table::{self, Kind, Point};
use super::{Families, gateway, process};

/// All metrics of a proxy: where workers, other threads and whoever reads them meet. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    families: Families,
    sources: Sources,
    sums: Arc<Sums>,
    registry: Registry,
}

impl Metrics {
    /// Metrics of a proxy that is `own`.
    #[cfg(test)]
    pub(crate) fn new(own: Own) -> Self {
        Self::with_families(own, Families::default())
    }

    /// Metrics of a proxy that is `own`, of `families`.
    pub(crate) fn with_families(own: Own, families: Families) -> Self {
        let sources = Sources::default();
        let registry = Registry::new();
        let sums = Arc::new(Sums {
            own,
            families: families.clone(),
            sources: sources.clone(),
        });
        let registered = registry.register(Box::new(Shared(Arc::clone(&sums))));
        registered.expect("a first collector collides with none");
        Self {
            families,
            sources,
            sums,
            registry,
        }
    }

    /// What workers write to.
    pub(crate) fn families(&self) -> &Families {
        &self.families
    }

    /// A number that any thread may change, and rarely does.
    pub(crate) fn number(&self, point: Point) -> Number {
        let number = Number::default();
        let read = number.clone();
        self.read_from(point, move || as_f64(read.0.load(Ordering::Relaxed)));
        number
    }

    /// Asks `read` for the value of `point` whenever metrics are read.
    pub(crate) fn read_from(&self, point: Point, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.sources.points.lock().push((point, Box::new(read)));
    }

    /// Asks `read` for names whenever metrics are read; each is a series of `metric` that is 1. There must be few.
    pub(crate) fn name_from(
        &self,
        metric: &'static table::Metric,
        read: impl Fn() -> Vec<String> + Send + Sync + 'static,
    ) {
        self.sources.names.lock().push((metric, Box::new(read)));
    }

    /// All metrics in Prometheus' text format (version 0.0.4).
    ///
    /// # Errors
    /// A family without a name, which none of the tables has.
    pub(crate) fn text(&self) -> Result<String, prometheus::Error> {
        let mut text = String::new();
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Metrics {
    /// All metrics in OpenMetrics' form (version 1.0.0), with exemplars.
    pub(crate) fn open_metrics(&self) -> String {
        open::write(&self.registry.gather(), &self.sums.exemplars())
    }
}

/// A number that any thread may change; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Number(Arc<AtomicU64>);

impl Number {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

type Read = Box<dyn Fn() -> f64 + Send + Sync>;

type ReadNames = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Values that are asked for.
#[derive(Clone, Default)]
struct Sources {
    points: Arc<Mutex<Vec<(Point, Read)>>>,
    names: Arc<Mutex<Vec<(&'static table::Metric, ReadNames)>>>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points: Vec<Point> = self.points.lock().iter().map(|(point, _)| *point).collect();
        f.debug_tuple("Sources").field(&points).finish()
    }
}

/// The one collector, as the registry has it.
struct Shared(Arc<Sums>);

/// The one collector.
#[derive(Debug)]
struct Sums {
    own: Own,
    families: Families,
    sources: Sources,
}

impl Collector for Shared {
    fn desc(&self) -> Vec<&Desc> {
        // The registry uses these to refuse two collectors of the same metrics; there is only this one.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sums = &self.0;
        let mut all = sums.own_metrics();
        all.extend(sums.requests());
        all.extend(sums.tcp());
        all.extend(sums.gateway());
        all
    }
}

impl Sums {
    fn own_metrics(&self) -> Vec<MetricFamily> {
        let mut values: Vec<(Point, f64)> = process::read();
        values.push((table::BUILD.at(&[env!("CARGO_PKG_VERSION")]), 1.0));
        values.extend(
            self.sources
                .points
                .lock()
                .iter()
                .map(|(point, read)| (*point, read())),
        );
        let cells = self.families.own.totals();
        values.extend(
            cells
                .into_iter()
                .map(|(point, total)| (point, as_f64(total))),
        );
        let mut samples: BTreeMap<&str, Vec<proto::Metric>> = BTreeMap::new();
        for (point, value) in values {
            let names = point.metric.labels.iter().zip(point.values);
            let labels = names.map(|(name, value)| pair(name, value)).collect();
            let sample = match point.metric.kind {
                Kind::Counter => counter(labels, value),
                Kind::Gauge => gauge(labels, value),
            };
            samples.entry(point.metric.name).or_default().push(sample);
        }
        for (metric, read) in self.sources.names.lock().iter() {
            let series = samples.entry(metric.name).or_default();
            for name in read() {
                let labels = metric.labels.iter().map(|label| pair(label, &name));
                series.push(gauge(labels.collect(), 1.0));
            }
        }
        let family = |metric: &&table::Metric| {
            let mut samples = samples.remove(metric.name).unwrap_or_default();
            // So that a first event is an increase.
            if samples.is_empty() && metric.labels.is_empty() && metric.kind == Kind::Counter {
                samples.push(counter(Vec::new(), 0.0));
            }
            if samples.is_empty() {
                return None;
            }
            Some(family(metric.name, metric.help, kind(metric.kind), samples))
        };
        table::ALL.iter().filter_map(family).collect()
    }

    fn requests(&self) -> Vec<MetricFamily> {
        let (mut count, mut duration, mut sent, mut received) = (vec![], vec![], vec![], vec![]);
        let (mut asked, mut answered) = (vec![], vec![]);
        for (series, totals) in self.families.requests.totals() {
            let labels = pairs(&labels::of_request(&self.own, &series));
            duration.push(histogram(labels.clone(), &totals.duration));
            sent.push(histogram(labels.clone(), &totals.request_bytes));
            received.push(histogram(labels.clone(), &totals.response_bytes));
            if series.grpc {
                asked.push(counter(labels.clone(), as_f64(totals.request_messages)));
                answered.push(counter(labels.clone(), as_f64(totals.response_messages)));
            }
            count.push(counter(labels, as_f64(totals.count)));
        }
        let [requests, durations, request_bytes, response_bytes] = labels::REQUESTS;
        let [request_messages, response_messages] = labels::MESSAGES;
        vec![
            istio(requests, MetricType::COUNTER, count),
            istio(durations, MetricType::HISTOGRAM, duration),
            istio(request_bytes, MetricType::HISTOGRAM, sent),
            istio(response_bytes, MetricType::HISTOGRAM, received),
            istio(request_messages, MetricType::COUNTER, asked),
            istio(response_messages, MetricType::COUNTER, answered),
        ]
    }

    /// The newest sampled request of each series.
    fn exemplars(&self) -> Exemplars {
        let totals = self.families.requests.totals();
        let named = |(series, totals): (RequestSeries, RequestTotals)| {
            let pairs = pairs(&labels::of_request(&self.own, &series));
            Some(((open::DURATION, open::labels(&pairs)), totals.exemplar?))
        };
        totals.into_iter().filter_map(named).collect()
    }

    /// By route template, and status for the count.
    fn gateway(&self) -> Vec<MetricFamily> {
        let Some(family) = &self.families.gateway else {
            return Vec::new();
        };
        let (mut count, mut durations) = (vec![], BTreeMap::<_, HistogramTotal>::new());
        for (series, totals) in family.totals() {
            let route = [pair("method", series.method), pair("route", &series.route)];
            let status = pair("status", &series.status.to_string());
            count.push(counter(
                [&route[..], &[status]].concat(),
                as_f64(totals.count),
            ));
            let route = (series.method, series.route);
            durations.entry(route).or_default().add(&totals.duration);
        }
        let duration = |((method, route), total): ((&str, Arc<str>), HistogramTotal)| {
            seconds(vec![pair("method", method), pair("route", &route)], &total)
        };
        let durations = durations.into_iter().map(duration).collect();
        vec![
            istio(gateway::REQUESTS, MetricType::COUNTER, count),
            istio(gateway::DURATION, MetricType::HISTOGRAM, durations),
        ]
    }

    fn tcp(&self) -> [MetricFamily; 4] {
        let (mut opened, mut closed, mut sent, mut received) = (vec![], vec![], vec![], vec![]);
        for (series, totals) in self.families.tcp.totals() {
            let labels = pairs(&labels::of_tcp(&self.own, &series));
            opened.push(counter(labels.clone(), as_f64(totals.opened)));
            closed.push(counter(labels.clone(), as_f64(totals.closed)));
            sent.push(counter(labels.clone(), as_f64(totals.sent)));
            received.push(counter(labels, as_f64(totals.received)));
        }
        let [opens, closes, sends, receives] = labels::TCP;
        [
            istio(opens, MetricType::COUNTER, opened),
            istio(closes, MetricType::COUNTER, closed),
            istio(sends, MetricType::COUNTER, sent),
            istio(receives, MetricType::COUNTER, received),
        ]
    }
}

fn istio(
    (name, help): (&str, &str),
    kind: MetricType,
    samples: Vec<proto::Metric>,
) -> MetricFamily {
    family(name, help, kind, samples)
}

fn family(name: &str, help: &str, kind: MetricType, samples: Vec<proto::Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(samples);
    family
}

fn kind(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    }
}

fn pairs(labels: &Labels<'_>) -> Vec<LabelPair> {
    labels
        .iter()
        .map(|(name, value)| pair(name, value))
        .collect()
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn counter(labels: Vec<LabelPair>, value: f64) -> proto::Metric {
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    let mut sample = proto::Metric::from_label(labels);
    sample.set_counter(counter);
    sample
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> proto::Metric {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    let mut sample = proto::Metric::from_label(labels);
    sample.set_gauge(gauge);
    sample
}

fn histogram(labels: Vec<LabelPair>, total: &HistogramTotal) -> proto::Metric {
    scaled(labels, total, THOUSANDTHS)
}

/// Of durations, which are kept in thousandths of a millisecond.
fn seconds(labels: Vec<LabelPair>, total: &HistogramTotal) -> proto::Metric {
    scaled(labels, total, THOUSANDTHS * 1000.0)
}

fn scaled(labels: Vec<LabelPair>, total: &HistogramTotal, scale: f64) -> proto::Metric {
    let mut histogram = proto::Histogram::default();
    let mut seen = 0;
    let mut buckets = Vec::with_capacity(BOUNDS.len());
    for (bound, count) in BOUNDS.iter().zip(total.buckets) {
        seen += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(as_f64(*bound) / scale);
        bucket.set_cumulative_count(seen);
        buckets.push(bucket);
    }
    histogram.set_bucket(buckets);
    // From the same reading as the buckets, so that it is never less than they are.
    histogram.set_sample_count(total.buckets.iter().sum());
    histogram.set_sample_sum(as_f64(total.sum) / scale);
    let mut sample = proto::Metric::from_label(labels);
    sample.set_histogram(histogram);
    sample
}

/// Prometheus knows only floating point; 2^53 is exact.
#[expect(
    clippy::cast_precision_loss,
    reason = "a counter above 2^53 is off by a billionth of a per cent"
)]
pub(crate) fn as_f64(value: u64) -> f64 {
    value as f64
}

/// Histograms are kept in these.
const THOUSANDTHS: f64 = 1000.0;
