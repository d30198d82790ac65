//! What the authority counts, and the small HTTP server that shows it.
//!
//! `docs/ca.md` lists all of them; a test compares it with what is served.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use weft_certs::bundle::fingerprint;

use crate::issuer::Issuer;

/// Handles of all metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    handshake_failures: IntCounterVec,
    open_connections: IntGauge,
    reload_failures: IntCounterVec,
    issuer_expiry: IntGauge,
    root_expiry: IntGauge,
    issuer_info: IntGaugeVec,
    root_info: IntGaugeVec,
    token_reviews: IntCounterVec,
    bundle_writes: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let fingerprints = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["fingerprint"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            requests: counter("weft_ca_requests_total", "Requests for a leaf.", "result")?,
            handshake_failures: counter(
                "weft_ca_handshake_failures_total",
                "Connections that did not become secure.",
                "reason",
            )?,
            open_connections: gauge("weft_ca_open_connections", "Open connections.")?,
            reload_failures: counter(
                "weft_ca_reload_failures_total",
                "Issuers or keys that changed and could not be used.",
                "what",
            )?,
            issuer_expiry: gauge(
                "weft_ca_issuer_expiry_timestamp_seconds",
                "When the issuer ends, in seconds since 1970.",
            )?,
            root_expiry: gauge(
                "weft_ca_root_expiry_timestamp_seconds",
                "When the first root ends, in seconds since 1970.",
            )?,
            issuer_info: fingerprints(
                "weft_identity_issuer_info",
                "The root that is signed under, by its SHA-256.",
            )?,
            root_info: fingerprints(
                "weft_identity_root_info",
                "The roots that are given out, by their SHA-256.",
            )?,
            token_reviews: counter(
                "weft_ca_token_reviews_total",
                "Tokens that the API server was asked about, or had been a moment ago.",
                "result",
            )?,
            bundle_writes: counter(
                "weft_ca_bundle_writes_total",
                "ConfigMaps with the roots that were written.",
                "result",
            )?,
            registry,
        })
    }

    pub(crate) fn request(&self, result: &'static str) {
        self.requests.with_label_values(&[result]).inc();
    }

    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures.with_label_values(&[reason]).inc();
    }

    pub(crate) fn reload_failed(&self, what: &'static str) {
        self.reload_failures.with_label_values(&[what]).inc();
    }

    pub(crate) fn issuer(&self, issuer: &Issuer) {
        self.issuer_expiry.set(unix_seconds(issuer.not_after()));
        self.root_expiry
            .set(issuer.bundle().first_expiry().map_or(0, unix_seconds));
        self.issuer_info.reset();
        let root = fingerprint(issuer.root());
        self.issuer_info.with_label_values(&[&root]).set(1);
        self.root_info.reset();
        for root in issuer.bundle().roots() {
            self.root_info
                .with_label_values(&[&fingerprint(root)])
                .set(1);
        }
    }

    /// Whether the issuer has not ended at `now`.
    fn can_sign(&self, now: SystemTime) -> bool {
        unix_seconds(now) < self.issuer_expiry.get()
    }

    pub(crate) fn reviewed(&self, result: &'static str) {
        self.token_reviews.with_label_values(&[result]).inc();
    }

    pub(crate) fn bundle_written(&self, result: &'static str) {
        self.bundle_writes.with_label_values(&[result]).inc();
    }

    /// Counts a connection as open until the guard is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.open_connections.inc();
        OpenConnection(self.open_connections.clone())
    }

    fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// One connection that is open.
pub(crate) struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves `/metrics`, `/live` and `/ready` until `stop`.
pub(crate) async fn serve(listener: TcpListener, metrics: Metrics, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if tasks.len() >= MAX_CONNECTIONS {
            continue;
        }
        let metrics = metrics.clone();
        tasks.spawn(async move {
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let answer = answer(request.uri().path(), &metrics);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(TIME_LIMIT)
                .serve_connection(TokioIo::new(stream), answer);
            if let Ok(Err(error)) = tokio::time::timeout(MAX_AGE, connection).await {
                debug!(%error, "metrics connection ended");
            }
        });
    }
}

fn answer(path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/metrics" => match metrics.text() {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => {
                warn!(%error, "metrics not encoded");
                (StatusCode::INTERNAL_SERVER_ERROR, String::new())
            }
        },
        "/live" => (StatusCode::OK, "ok\n".to_owned()),
        "/ready" if metrics.can_sign(SystemTime::now()) => (StatusCode::OK, "ok\n".to_owned()),
        "/ready" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the issuer has ended\n".to_owned(),
        ),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

const MAX_CONNECTIONS: usize = 64;
const TIME_LIMIT: Duration = Duration::from_secs(5);
const MAX_AGE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use weft_policy::spiffe::TrustDomain;

    use super::*;

    #[test]
    fn an_authority_whose_issuer_has_ended_is_not_ready() {
        let metrics = Metrics::new().unwrap();
        assert_eq!(answer("/ready", &metrics).status(), 503);
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let issuer = Issuer::generate(&domain).unwrap();
        metrics.issuer(&issuer);
        assert_eq!(answer("/ready", &metrics).status(), 200);
        assert!(!metrics.can_sign(issuer.not_after()));
        assert_eq!(answer("/live", &metrics).status(), 200);
    }

    #[test]
    fn the_documentation_has_every_metric() {
        let metrics = Metrics::new().unwrap();
        metrics.request("issued");
        metrics.handshake_failed("closed");
        metrics.reload_failed("keys");
        metrics.reviewed("good");
        metrics.bundle_written("ok");
        let domain = TrustDomain::parse("cluster.local").unwrap();
        metrics.issuer(&Issuer::generate(&domain).unwrap());
        let text = metrics.text().unwrap();
        let served: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let documentation = include_str!("../../docs/ca.md").lines();
        let rows = documentation.filter_map(|line| line.strip_prefix("| `weft_"));
        let told: BTreeSet<String> = rows
            .filter_map(|row| Some(format!("weft_{}", row.split(['`', '{']).next()?)))
            .collect();
        assert_eq!(
            told.iter().map(String::as_str).collect::<BTreeSet<_>>(),
            served
        );
    }
}
