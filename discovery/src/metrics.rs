//! What discovery counts, and the page it is read from, with readiness and liveness beside it.

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
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weft_certs::identity::Identity;

/// All counters; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    subscribers: IntGauge,
    resources: IntCounter,
    refused: IntCounter,
    cut: IntCounter,
    /// Objects with annotations that cannot be used.
    pub(crate) problems: IntGauge,
    /// Changes that came from the API server.
    pub(crate) events: IntCounter,
    /// Watches that were opened anew after a failure.
    pub(crate) watch_failures: IntCounter,
    /// Services, workloads and addresses that are told of.
    pub(crate) addresses: IntGauge,
    issuer: IntGaugeVec,
    roots: IntGaugeVec,
}

impl Metrics {
    /// Makes and registers all.
    ///
    /// # Errors
    /// If two have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
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
        Ok(Self {
            subscribers: gauge("weft_discovery_subscribers", "Streams that are open.")?,
            resources: counter(
                "weft_discovery_resources_sent_total",
                "Resources sent to subscribers.",
            )?,
            refused: counter(
                "weft_discovery_updates_refused_total",
                "Updates that a subscriber refused.",
            )?,
            cut: counter(
                "weft_discovery_subscribers_cut_total",
                "Streams that were cut because nobody read them.",
            )?,
            problems: gauge(
                "weft_discovery_bad_annotations",
                "Objects with annotations that cannot be used.",
            )?,
            events: counter(
                "weft_discovery_events_total",
                "Changes that came from the API server.",
            )?,
            watch_failures: counter(
                "weft_discovery_watch_failures_total",
                "Watches that failed and were opened anew.",
            )?,
            addresses: gauge(
                "weft_discovery_addresses",
                "Services and workloads that are told of.",
            )?,
            issuer: named(
                "weft_identity_issuer_info",
                "The root that our leaf chains to, by its SHA-256.",
            )?,
            roots: named(
                "weft_identity_root_info",
                "The roots that we trust, by their SHA-256.",
            )?,
            registry: registry.clone(),
        })
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

    pub(crate) fn subscriber(&self) -> Open {
        self.subscribers.inc();
        Open(self.subscribers.clone())
    }

    pub(crate) fn sent(&self, resources: usize) {
        self.resources.inc_by(resources as u64);
    }

    pub(crate) fn nacked(&self) {
        self.refused.inc();
    }

    pub(crate) fn cut(&self) {
        self.cut.inc();
    }

    fn page(&self) -> String {
        let page = TextEncoder::new().encode_to_string(&self.registry.gather());
        page.unwrap_or_default()
    }
}

/// A stream that is open.
pub(crate) struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves `/metrics`, `/live` and `/ready` until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    ready: Arc<dyn Fn() -> bool + Send + Sync>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
        #[expect(
            clippy::disallowed_methods,
            reason = "a page is read in a moment, and nobody waits for it"
        )]
        tokio::spawn(async move {
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

const MAX_CONNECTIONS: usize = 64;
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const HEADER_LIMIT: Duration = Duration::from_secs(5);
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
