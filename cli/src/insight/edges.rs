//! Who calls whom: the counts of all proxies put together, one edge for each caller and service.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Answer, EdgesAnswer};

/// What one proxy has counted of an edge since it started.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Counted {
    pub(crate) direction: String,
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// Verified.
    pub(crate) peer: Option<String>,
    pub(crate) peer_workload: Option<String>,
    pub(crate) mutual_tls: bool,
    pub(crate) protocol: String,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) buckets: Vec<u64>,
    pub(crate) connections: u64,
    pub(crate) open: u64,
    pub(crate) bytes: u64,
}

/// An edge as people read it.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(crate) struct Edge {
    /// Who calls; `unknown` where it has no identity.
    pub(crate) source: String,
    /// Who is called.
    pub(crate) destination: String,
    pub(crate) namespace: String,
    /// Of the caller, where it is verified.
    pub(crate) source_identity: Option<String>,
    /// Of who answers, where it is verified.
    pub(crate) destination_identity: Option<String>,
    pub(crate) mutual_tls: bool,
    pub(crate) protocol: String,
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
}

/// What passes.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub(crate) struct Traffic {
    /// Requests since the proxies started.
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Requests a second, now.
    pub(crate) rate: f64,
    /// Share of requests that did not fail, 0 to 1, now; `None` where there were none.
    pub(crate) success: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p95_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// Opaque connections that are open.
    pub(crate) open: u64,
    pub(crate) connections: u64,
    pub(crate) bytes: u64,
}

/// Looks again and again, and tells what has happened between.
#[derive(Debug, Default)]
pub(crate) struct Window {
    last: Option<(Instant, HashMap<Key, Counted>)>,
}

/// One proxy's edge.
type Key = (SocketAddr, String, String, Option<String>, bool, String);

/// What is added up.
#[derive(Clone, Debug, Default)]
struct Sum {
    requests: u64,
    failed: u64,
    new: u64,
    new_failed: u64,
    new_buckets: Vec<u64>,
    buckets: Vec<u64>,
    open: u64,
    connections: u64,
    bytes: u64,
}

impl Window {
    /// Takes in a look; what is told as happening now has happened since the one before, or ever if there is none.
    pub(crate) fn edges(
        &mut self,
        now: Instant,
        answers: &[(SocketAddr, Answer<EdgesAnswer>)],
    ) -> Vec<Edge> {
        let mut sums: BTreeMap<String, (Edge, [Sum; 2])> = BTreeMap::new();
        let mut seen = HashMap::new();
        for (proxy, answer) in answers {
            for counted in &answer.rest.edges {
                let key = key(*proxy, counted);
                let before = self.last.as_ref().and_then(|(_, last)| last.get(&key));
                let edge = edge(answer, counted);
                let place = sums
                    .entry(name(&edge))
                    .or_insert_with(|| (edge.clone(), Default::default()));
                place.0.learn(edge);
                let [served, called] = &mut place.1;
                match counted.direction.as_str() {
                    "inbound" => served.add(counted, before),
                    _ => called.add(counted, before),
                }
                seen.insert(key, counted.clone());
            }
        }
        let since = self
            .last
            .as_ref()
            .map(|(last, _)| now.duration_since(*last));
        let bounds = answers
            .first()
            .map(|(_, answer)| answer.rest.bounds_ms.clone());
        let bounds = bounds.unwrap_or_default();
        self.last = Some((now, seen));
        let finish = |(edge, [served, called]): (Edge, [Sum; 2])| Edge {
            traffic: served.with(called).traffic(since, &bounds),
            ..edge
        };
        sums.into_values().map(finish).collect()
    }
}

fn key(proxy: SocketAddr, counted: &Counted) -> Key {
    let Counted {
        direction,
        service,
        peer,
        mutual_tls,
        protocol,
        ..
    } = counted.clone();
    (proxy, direction, service, peer, mutual_tls, protocol)
}

fn edge(answer: &Answer<EdgesAnswer>, counted: &Counted) -> Edge {
    let own = answer.workload.clone();
    let peer = counted
        .peer_workload
        .clone()
        .unwrap_or_else(|| UNKNOWN.to_owned());
    let inbound = counted.direction == "inbound";
    let destination = match inbound {
        true => own.clone(),
        false => counted.name.clone(),
    };
    Edge {
        source: if inbound { peer } else { own },
        destination,
        namespace: match inbound {
            true => answer.namespace.clone(),
            false => counted.namespace.clone(),
        },
        source_identity: counted.peer.clone().filter(|_| inbound),
        destination_identity: counted.peer.clone().filter(|_| !inbound),
        mutual_tls: counted.mutual_tls,
        protocol: counted.protocol.clone(),
        traffic: Traffic::default(),
    }
}

impl Edge {
    /// Each side knows who the other is.
    fn learn(&mut self, other: Self) {
        let Self {
            source_identity,
            destination_identity,
            ..
        } = other;
        self.source_identity = self.source_identity.take().or(source_identity);
        self.destination_identity = self.destination_identity.take().or(destination_identity);
    }
}

fn name(edge: &Edge) -> String {
    format!(
        "{} {} {} {} {}",
        edge.namespace, edge.destination, edge.source, edge.protocol, edge.mutual_tls
    )
}

impl Sum {
    fn add(&mut self, counted: &Counted, before: Option<&Counted>) {
        let empty = Vec::new();
        // A proxy that has started anew counts from 0.
        let before = before.filter(|before| before.requests <= counted.requests);
        let (requests, failed) = before.map_or((0, 0), |before| (before.requests, before.failed));
        let buckets = before.map_or(&empty, |before| &before.buckets);
        self.requests += counted.requests;
        self.failed += counted.failed;
        self.new += counted.requests - requests;
        self.new_failed += counted.failed.saturating_sub(failed);
        let length = counted.buckets.len();
        self.buckets.resize(length, 0);
        self.new_buckets.resize(length, 0);
        for (index, count) in counted.buckets.iter().enumerate() {
            let old = buckets.get(index).copied().unwrap_or(0);
            if let Some(sum) = self.buckets.get_mut(index) {
                *sum += count;
            }
            if let Some(sum) = self.new_buckets.get_mut(index) {
                *sum += count.saturating_sub(old);
            }
        }
        self.open += counted.open;
        self.connections += counted.connections;
        self.bytes += counted.bytes;
    }

    /// A call between two proxies that are both asked is counted by both. The one that serves knows its times, the one that
    /// calls also what never arrived.
    fn with(self, called: Self) -> Self {
        if self.requests == 0 && self.connections == 0 {
            return called;
        }
        Self {
            requests: self.requests.max(called.requests),
            failed: self.failed.max(called.failed),
            new: self.new.max(called.new),
            new_failed: self.new_failed.max(called.new_failed),
            ..self
        }
    }

    /// Without anything new, times are those since the start.
    fn traffic(&self, since: Option<Duration>, bounds: &[f64]) -> Traffic {
        let new = self.new > 0;
        let buckets = if new {
            &self.new_buckets
        } else {
            &self.buckets
        };
        let (all, failed) = match new {
            true => (self.new, self.new_failed),
            false => (self.requests, self.failed),
        };
        let seconds = since
            .map(|since| since.as_secs_f64())
            .filter(|seconds| *seconds > 0.0);
        Traffic {
            requests: self.requests,
            failed: self.failed,
            rate: seconds.map_or(0.0, |seconds| as_f64(self.new) / seconds),
            success: (all > 0).then(|| 1.0 - as_f64(failed) / as_f64(all)),
            p50_ms: quantile(buckets, bounds, 0.5),
            p95_ms: quantile(buckets, bounds, 0.95),
            p99_ms: quantile(buckets, bounds, 0.99),
            open: self.open,
            connections: self.connections,
            bytes: self.bytes,
        }
    }
}

/// A service: what all its callers see of it.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(crate) struct Service {
    pub(crate) service: String,
    pub(crate) namespace: String,
    /// Share of its callers' edges that are encrypted, 0 to 1.
    pub(crate) mutual_tls: f64,
    #[serde(flatten)]
    pub(crate) traffic: Traffic,
}

/// Puts edges together by who is called. Times are the worst of its edges, as quantiles cannot be added.
pub(crate) fn services(edges: &[Edge]) -> Vec<Service> {
    let mut services: BTreeMap<(String, String), Vec<&Edge>> = BTreeMap::new();
    for edge in edges {
        let name = (edge.namespace.clone(), edge.destination.clone());
        services.entry(name).or_default().push(edge);
    }
    services
        .into_iter()
        .map(|((namespace, service), edges)| {
            let encrypted = edges.iter().filter(|edge| edge.mutual_tls).count();
            Service {
                service,
                namespace,
                mutual_tls: as_f64(encrypted as u64) / as_f64(edges.len() as u64),
                traffic: together(&edges),
            }
        })
        .collect()
}

fn together(edges: &[&Edge]) -> Traffic {
    let all = || edges.iter().map(|edge| &edge.traffic);
    let worst = |of: fn(&Traffic) -> Option<f64>| all().filter_map(of).reduce(f64::max);
    let rate: f64 = all().map(|one| one.rate).sum();
    let weight = |one: &Traffic| {
        if rate > 0.0 {
            one.rate
        } else {
            as_f64(one.requests)
        }
    };
    let weights: f64 = all().filter(|one| one.success.is_some()).map(weight).sum();
    let good: f64 = all()
        .filter_map(|one| Some(one.success? * weight(one)))
        .sum();
    Traffic {
        requests: all().map(|one| one.requests).sum(),
        failed: all().map(|one| one.failed).sum(),
        rate,
        success: (weights > 0.0).then(|| good / weights),
        p50_ms: worst(|one| one.p50_ms),
        p95_ms: worst(|one| one.p95_ms),
        p99_ms: worst(|one| one.p99_ms),
        open: all().map(|one| one.open).sum(),
        connections: all().map(|one| one.connections).sum(),
        bytes: all().map(|one| one.bytes).sum(),
    }
}

/// Reads a quantile off buckets that are not cumulative, evenly within a bucket, as Prometheus does.
fn quantile(buckets: &[u64], bounds: &[f64], share: f64) -> Option<f64> {
    let wanted = share * as_f64(buckets.iter().sum());
    let mut below = 0;
    for (index, count) in buckets.iter().enumerate() {
        if *count > 0 && as_f64(below + count) >= wanted {
            let lower = index.checked_sub(1).and_then(|before| bounds.get(before));
            let lower = lower.copied().unwrap_or(0.0);
            let upper = bounds.get(index).copied().unwrap_or(lower);
            return Some(lower + (upper - lower) * (wanted - as_f64(below)) / as_f64(*count));
        }
        below += count;
    }
    None
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts for people, exact to 2^53"
)]
fn as_f64(value: u64) -> f64 {
    value as f64
}

/// Who has no identity.
pub(crate) const UNKNOWN: &str = "unknown";

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(
        workload: &str,
        edges: &[(&str, &str, Option<&str>, u64, u64)],
    ) -> Answer<EdgesAnswer> {
        let edge =
            |(direction, name, peer, requests, failed): &(&str, &str, Option<&str>, u64, u64)| {
                Counted {
                    direction: (*direction).to_owned(),
                    service: (*name).to_owned(),
                    name: (*name).to_owned(),
                    namespace: "shop".to_owned(),
                    peer: peer.map(|peer| format!("spiffe://cluster.local/ns/shop/sa/{peer}")),
                    peer_workload: peer.map(str::to_owned),
                    mutual_tls: peer.is_some(),
                    protocol: "http".to_owned(),
                    requests: *requests,
                    failed: *failed,
                    buckets: vec![0, *requests, 0],
                    connections: 0,
                    open: 0,
                    bytes: 0,
                }
            };
        Answer {
            workload: workload.to_owned(),
            namespace: "shop".to_owned(),
            rest: EdgesAnswer {
                bounds_ms: vec![1.0, 5.0],
                edges: edges.iter().map(edge).collect(),
            },
        }
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_between_two_proxies_is_one_edge_and_now_is_the_difference() {
        let look = |requests, failed| {
            vec![
                (
                    at(1),
                    answer(
                        "web",
                        &[("outbound", "orders", Some("orders"), requests, failed)],
                    ),
                ),
                (
                    at(2),
                    answer(
                        "orders",
                        &[("inbound", "orders", Some("web"), requests, failed)],
                    ),
                ),
            ]
        };
        let mut window = Window::default();
        let first = window.edges(Instant::now(), &look(10, 0));
        assert_eq!(first.len(), 1, "{first:#?}");
        assert_eq!(
            (first[0].traffic.requests, first[0].traffic.rate),
            (10, 0.0)
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        let edges = window.edges(Instant::now(), &look(30, 5));
        let edge = &edges[0];
        assert_eq!(
            (
                edge.source.as_str(),
                edge.destination.as_str(),
                edge.mutual_tls
            ),
            ("web", "orders", true)
        );
        assert_eq!(
            (edge.traffic.rate, edge.traffic.success),
            (10.0, Some(0.75))
        );
        assert_eq!(edge.traffic.p50_ms, Some(3.0));
        let services = services(&edges);
        assert_eq!(
            (services[0].service.as_str(), services[0].traffic.rate),
            ("orders", 10.0)
        );
    }

    #[tokio::test]
    async fn a_proxy_that_begins_anew_counts_no_less_than_nothing() {
        let mut window = Window::default();
        let look = |requests| {
            vec![(
                at(1),
                answer("web", &[("inbound", "web", None, requests, 0)]),
            )]
        };
        window.edges(Instant::now(), &look(100));
        let edges = window.edges(Instant::now(), &look(3));
        assert_eq!(
            (edges[0].traffic.requests, edges[0].source.as_str()),
            (3, UNKNOWN)
        );
    }
}
