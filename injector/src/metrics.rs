//! What the injector counts, and the page it is read from, with readiness and liveness beside it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_certs::identity::Identity;

use crate::review::Verdict;

/// All counters; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    admissions: IntCounterVec,
    unanswered: IntCounterVec,
    /// How long an answer takes once the review is there.
    pub(crate) seconds: Histogram,
    /// Times that the webhook configuration was brought up to date.
    pub(crate) bundles: IntCounter,
    /// Watches that failed and were opened anew.
    pub(crate) watch_failures: IntCounter,
    /// Namespaces that are known.
    pub(crate) namespaces: IntGauge,
    issuer: IntGaugeVec,
    roots: IntGaugeVec,
}

impl Metrics {
    /// # Errors
    /// If two have one name.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters =
            |name: &str, help: &str, label: &str| -> Result<IntCounterVec, prometheus::Error> {
                let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
                registry.register(Box::new(counters.clone()))?;
                Ok(counters)
            };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let named = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["fingerprint"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let options = HistogramOpts::new("weft_injector_answer_seconds", "How long answers take.")
            .buckets(BUCKETS.to_vec());
        let seconds = Histogram::with_opts(options)?;
        registry.register(Box::new(seconds.clone()))?;
        let namespaces = IntGauge::new("weft_injector_namespaces", "Namespaces that are known.")?;
        registry.register(Box::new(namespaces.clone()))?;
        Ok(Self {
            admissions: counters(
                "weft_injector_admissions_total",
                "Objects that were asked about.",
                "verdict",
            )?,
            unanswered: counters(
                "weft_injector_bad_requests_total",
                "Requests that are no review.",
                "status",
            )?,
            bundles: counter(
                "weft_injector_bundle_updates_total",
                "Times that the caBundle was brought up to date.",
            )?,
            watch_failures: counter(
                "weft_injector_watch_failures_total",
                "Watches that failed and were opened anew.",
            )?,
            issuer: named(
                "weft_identity_issuer_info",
                "The root that our certificate chains to, by its SHA-256.",
            )?,
            roots: named(
                "weft_identity_root_info",
                "The roots that we trust, by their SHA-256.",
            )?,
            seconds,
            namespaces,
            registry: registry.clone(),
        })
    }

    pub(crate) fn answered(&self, verdict: Verdict) {
        let label = match verdict {
            Verdict::Injected => "injected",
            Verdict::Unchanged => "unchanged",
            Verdict::Refused => "refused",
        };
        self.admissions.with_label_values(&[label]).inc();
    }

    /// Tells whom `identity` trusts, and who signed it.
    pub(crate) fn identity(&self, identity: &Identity) {
        let show = |gauge: &IntGaugeVec, names: Vec<String>| {
            gauge.reset();
            for name in names {
                gauge.with_label_values(&[&name]).set(1);
            }
        };
        show(&self.roots, identity.root_fingerprints());
        let issuer = identity.issuer_fingerprint();
        show(&self.issuer, issuer.into_iter().collect());
    }

    pub(crate) fn unanswered(&self, status: StatusCode) {
        self.unanswered.with_label_values(&[status.as_str()]).inc();
    }

    fn page(&self) -> String {
        let page = TextEncoder::new().encode_to_string(&self.registry.gather());
        page.unwrap_or_default()
    }
}

/// Serves `/metrics`, `/live` and `/ready` until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    ready: Arc<dyn Fn() -> bool + Send + Sync>,
    stop: CancellationToken,
) {
    let (slots, tasks) = (
        Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        TaskTracker::new(),
    );
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (listener.accept().await, slot)
        };
        let Some((accepted, slot)) = stop.run_until_cancelled(accepted).await else {
            return;
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            continue;
        };
        let (metrics, ready) = (metrics.clone(), Arc::clone(&ready));
        let service = service_fn(move |request: Request<Incoming>| {
            let response = answer(request.uri().path(), &metrics, &*ready);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        tasks.spawn(async move {
            let _ended = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
            drop(slot);
        });
    }
}

fn answer(path: &str, metrics: &Metrics, ready: &dyn Fn() -> bool) -> Response<Full<Bytes>> {
    let (status, body) = match path {
        "/metrics" => (StatusCode::OK, metrics.page()),
        "/live" => (StatusCode::OK, "live\n".to_owned()),
        "/ready" if ready() => (StatusCode::OK, "ready\n".to_owned()),
        "/ready" => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

const BUCKETS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];
const MAX_CONNECTIONS: usize = 64;
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const HEADER_LIMIT: Duration = Duration::from_secs(5);
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let metrics = Metrics::new().unwrap();
        metrics.answered(Verdict::Injected);
        metrics.unanswered(StatusCode::BAD_REQUEST);
        let documentation = include_str!("../../docs/injection.md");
        for family in metrics.registry.gather() {
            let row = format!("| `{}` |", family.name());
            assert!(documentation.contains(&row), "no row {row}");
        }
    }
}
