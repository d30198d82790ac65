//! Who calls whom through this proxy: Istio's series, with all answers of one caller to one service together.

use std::collections::HashMap;

use serde_json::{Value, json};
use weft_policy::spiffe::SpiffeId;

use super::Families;
use super::cell::{BOUNDS, HistogramTotal};
use super::istio::{self, Hop, RequestSeries, Service};
use crate::telemetry::entry::is_server_failure;

/// What was counted of one edge.
#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    failed: u64,
    duration: HistogramTotal,
    connections: u64,
    open: u64,
    bytes: u64,
}

impl Families {
    /// Every edge, with what was counted since the start.
    pub(crate) fn edges(&self) -> Vec<Value> {
        let mut edges: HashMap<(Hop, &'static str), Counts> = HashMap::new();
        for (series, totals) in self.requests.totals() {
            let protocol = if series.grpc { "grpc" } else { "http" };
            let failed = has_failed(&series);
            let edge = edges.entry((whole(series.hop), protocol)).or_default();
            edge.requests += totals.count;
            edge.failed += if failed { totals.count } else { 0 };
            edge.duration.add(&totals.duration);
        }
        for (series, totals) in self.tcp.totals() {
            let failed = series.flags != istio::NO_FLAGS;
            let edge = edges.entry((whole(series.hop), "tcp")).or_default();
            edge.connections += totals.opened;
            edge.open += totals.opened.wrapping_sub(totals.closed);
            edge.failed += if failed { totals.closed } else { 0 };
            edge.bytes += totals.sent + totals.received;
        }
        let mut edges: Vec<Value> = edges
            .iter()
            .map(|((hop, protocol), counts)| edge(hop, protocol, counts))
            .collect();
        edges.sort_by_cached_key(|edge| format!("{}{}", edge["service"], edge["peer"]));
        edges
    }
}

impl HistogramTotal {
    /// Adds another reading.
    pub(super) fn add(&mut self, other: &Self) {
        for (own, more) in self.buckets.iter_mut().zip(other.buckets) {
            *own = own.wrapping_add(more);
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// An edge goes to a service; which of its workloads answered makes no other edge.
fn whole(hop: Hop) -> Hop {
    Hop {
        workload: None,
        ..hop
    }
}

/// A caller that went away is no failure of the service's.
fn has_failed(series: &RequestSeries) -> bool {
    series.code >= 500
        || series.grpc_status.is_some_and(is_server_failure)
        || ![istio::NO_FLAGS, "DC"].contains(&series.flags)
}

fn edge(hop: &Hop, protocol: &str, counts: &Counts) -> Value {
    let (service, name, namespace) = match &hop.service {
        Service::Named(service) => (&*service.host, &*service.name, &*service.namespace),
        Service::Unknown => ("unknown", "unknown", "unknown"),
        Service::Overflow => ("overflow", "overflow", "overflow"),
    };
    let peer = hop.peer.as_ref();
    json!({
        "direction": hop.direction.label(),
        "service": service,
        "name": name,
        "namespace": namespace,
        "peer": peer.map(SpiffeId::as_str),
        "peer_workload": peer.and_then(SpiffeId::service_account),
        "peer_namespace": peer.and_then(SpiffeId::namespace),
        "mutual_tls": hop.secure,
        "protocol": protocol,
        "requests": counts.requests,
        "failed": counts.failed,
        "duration_ms_sum": counts.duration.sum / 1000,
        "buckets": counts.duration.buckets,
        "p50_ms": quantile(&counts.duration.buckets, 0.5),
        "p95_ms": quantile(&counts.duration.buckets, 0.95),
        "p99_ms": quantile(&counts.duration.buckets, 0.99),
        "connections": counts.connections,
        "open": counts.open,
        "bytes": counts.bytes,
    })
}

/// Upper bounds of `buckets` in milliseconds; the last bucket has none.
pub(crate) fn bounds_ms() -> Vec<f64> {
    BOUNDS
        .iter()
        .map(|bound| super::collect::as_f64(*bound) / 1000.0)
        .collect()
}

/// Reads a quantile off `buckets`, which are not cumulative, as Prometheus' `histogram_quantile` does: evenly within a
/// bucket. `None` where nothing was counted.
fn quantile(buckets: &[u64], share: f64) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    let wanted = share * super::collect::as_f64(total);
    let bounds = bounds_ms();
    let mut below = 0_u64;
    for (index, count) in buckets.iter().enumerate() {
        let reached = super::collect::as_f64(below + count);
        if *count > 0 && reached >= wanted {
            let lower = index.checked_sub(1).and_then(|before| bounds.get(before));
            let lower = lower.copied().unwrap_or(0.0);
            // What is above all bounds is as good as the last one.
            let upper = bounds.get(index).copied().unwrap_or(lower);
            let part = (wanted - super::collect::as_f64(below)) / super::collect::as_f64(*count);
            return Some(lower + (upper - lower) * part);
        }
        below += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::Direction;
    use crate::telemetry::sample;

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let mut buckets = vec![0; BOUNDS.len() + 1];
        assert_eq!(quantile(&buckets, 0.5), None);
        buckets[1] = 10;
        assert_eq!(quantile(&buckets, 0.5), Some(0.75));
        buckets[2] = 10;
        assert_eq!(quantile(&buckets, 0.5), Some(1.0));
        assert_eq!(quantile(&buckets, 0.75), Some(3.0));
        buckets[BOUNDS.len()] = 1000;
        assert_eq!(quantile(&buckets, 0.99), Some(3_600_000.0));
    }

    #[test]
    fn all_answers_of_one_caller_are_one_edge() {
        let families = Families::default();
        let worker = families.worker();
        let mut record = sample::request(Direction::Inbound);
        worker.request(&record);
        record.status = http::StatusCode::from_u16(503).ok();
        worker.request(&record);
        worker.request(&sample::request(Direction::Outbound));
        let edges = families.edges();
        assert_eq!(edges.len(), 2, "{edges:#?}");
        let served = edges.iter().find(|edge| edge["direction"] == "inbound");
        let served = served.unwrap();
        assert_eq!(
            (&served["requests"], &served["failed"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(served["peer_workload"], "web");
        assert_eq!(served["mutual_tls"], true);
    }
}
