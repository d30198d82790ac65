//! What people and machines ask of a running proxy: metrics, liveness, readiness, dumps.
//!
//! Three listeners, because three audiences: the scraper, the kubelet, and whoever is on the machine. On the control
//! thread, with limits of its own; nothing here touches the data path.

mod app_health;
mod insight;
pub(crate) mod ready;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, sleep, timeout};
use tracing::{debug, warn};
use weft_policy::probe::PATH_PREFIX;

use crate::config::Config;
use crate::discovery::Discovery;
use crate::drain::Drain;
use crate::identity::Identities;
use crate::listener::{self, Sharing};
use crate::log;
use crate::policy::Policies;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::open;
use ready::Readiness;

/// What the answers are made from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) config: Arc<Config>,
    pub(crate) telemetry: Telemetry,
    pub(crate) discovery: Discovery,
    pub(crate) identities: Identities,
    pub(crate) policies: Policies,
    pub(crate) readiness: Readiness,
    pub(crate) drain: Drain,
}

/// Who asks: it decides which paths there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// `/metrics`, `/live`.
    Scraper,
    /// `/ready`, `/live`, `/app-health/...`.
    Kubelet,
    /// Everything.
    Local,
}

/// Where the three listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) metrics: SocketAddr,
    pub(crate) ready: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Addresses {
    /// Ports that nothing may be redirected to.
    pub(crate) fn ports(self) -> [u16; 3] {
        [self.metrics.port(), self.ready.port(), self.admin.port()]
    }
}

/// The bound sockets.
pub(crate) struct Sockets([(Audience, std::net::TcpListener); 3]);

/// Binds the three addresses.
///
/// # Errors
/// One cannot be bound; which, and why.
pub(crate) fn bind(config: &Config) -> anyhow::Result<(Sockets, Addresses)> {
    let bind = |address: SocketAddr| -> anyhow::Result<_> {
        let socket =
            listener::bind(address, Sharing::Alone).with_context(|| format!("bind {address}"))?;
        let local = socket.local_addr().context("read a bound address")?;
        Ok((socket, local))
    };
    let (metrics, metrics_at) = bind(config.metrics_listen)?;
    let (ready, ready_at) = bind(config.ready_listen)?;
    let (admin, admin_at) = bind(config.admin_listen)?;
    let sockets = [
        (Audience::Scraper, metrics),
        (Audience::Kubelet, ready),
        (Audience::Local, admin),
    ];
    let addresses = Addresses {
        metrics: metrics_at,
        ready: ready_at,
        admin: admin_at,
    };
    Ok((Sockets(sockets), addresses))
}

/// Serves all three until the control thread ends.
pub(crate) fn serve(sockets: Sockets, sources: &Sources, tasks: &Tasks) {
    for (audience, socket) in sockets.0 {
        match TcpListener::from_std(socket) {
            Ok(socket) => {
                let accept = accept(socket, audience, sources.clone(), tasks.clone());
                drop(tasks.spawn("admin", accept));
            }
            Err(error) => warn!(%error, ?audience, "a socket cannot be listened on"),
        }
    }
}

async fn accept(socket: TcpListener, audience: Audience, sources: Sources, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok((io, _client)) => {
                let sources = sources.clone();
                drop(tasks.spawn("admin connection", async move {
                    connection(io, audience, sources).await;
                    drop(place);
                }));
            }
            Err(error) => {
                debug!(%error, "admin connection cannot be accepted");
                sleep(PATIENCE).await;
            }
        }
    }
}

async fn connection(io: TcpStream, audience: Audience, sources: Sources) {
    let here = io.local_addr().ok();
    let service = service_fn(|request: Request<Incoming>| {
        let sources = &sources;
        async move {
            Ok::<_, Infallible>(match (audience, here) {
                (Audience::Kubelet, Some(here)) if is_app_health(&request) => {
                    app_health(sources, here, &request).await
                }
                _ => answer(sources, audience, request).await,
            })
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(io), service);
    // How a scraper leaves is its own affair.
    let _ended = timeout(MAX_AGE, served).await;
}

fn is_app_health(request: &Request<Incoming>) -> bool {
    request.method() == Method::GET && request.uri().path().starts_with(PATH_PREFIX)
}

/// The kubelet dials the pod's own address, which is where the app is too.
async fn app_health(
    sources: &Sources,
    here: SocketAddr,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let key = request.uri().path().strip_prefix(PATH_PREFIX);
    let probe = key.and_then(|key| sources.config.app_probes.get(key));
    let Some(probe) = probe else {
        return text(StatusCode::NOT_FOUND, "no such probe\n");
    };
    let told = app_health::ask(probe, here.ip(), request.headers().get(USER_AGENT)).await;
    debug!(path = request.uri().path(), status = %told.status, reason = told.text.trim_end(), "app asked");
    text(told.status, told.text)
}

/// One answer; what an audience may not see does not exist for it.
async fn answer<B: Body<Error: std::error::Error + Send + Sync + 'static>>(
    sources: &Sources,
    audience: Audience,
    request: Request<B>,
) -> Response<Full<Bytes>> {
    let local = audience == Audience::Local;
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    if local && !names_this_machine(request.headers()) {
        return text(StatusCode::FORBIDDEN, "call this page by address\n");
    }
    match request.uri().path() {
        "/log-level" if local && request.method() == Method::PUT => set_log_level(request).await,
        "/log-level" if local && read => log_level(),
        "/drain" if local && request.method() == Method::POST => {
            sources.drain.begin();
            text(StatusCode::OK, "draining\n")
        }
        _ if !read => text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n"),
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" | "/healthz/ready" if local || audience == Audience::Kubelet => ready(sources),
        "/metrics" | "/stats/prometheus" if local || audience == Audience::Scraper => {
            metrics(sources, &request).await
        }
        "/config" if local => text(StatusCode::OK, format!("{:#?}\n", sources.config)),
        "/edges" if local => json_text(&insight::edges(sources)),
        "/requests" if local => json_text(&insight::requests(sources, request.uri().query())),
        path if local && path.starts_with(TRACE) => {
            let id = path.strip_prefix(TRACE).unwrap_or_default();
            json_text(&insight::trace(sources, id))
        }
        "/endpoints" if local => json_text(&endpoints(sources)),
        "/policy" if local => json_text(&policy(sources)),
        "/identity" if local => json_text(&identity(sources)),
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

/// A browser on this machine can be made to call us by a name of somebody else's that leads here ("DNS rebinding"): it then says
/// that name.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else {
        return false;
    };
    let host = authority.host().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok()
}

fn ready(sources: &Sources) -> Response<Full<Bytes>> {
    let mut awaited = sources.readiness.awaited();
    if sources.drain.begun() {
        awaited.push("the end of the drain");
    }
    if awaited.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    let status = StatusCode::SERVICE_UNAVAILABLE;
    text(
        status,
        format!("not ready: waiting for {}\n", awaited.join(", ")),
    )
}

/// On a thread of its own, as thousands of series take a while and the control thread has other things to do.
async fn metrics<B>(sources: &Sources, request: &Request<B>) -> Response<Full<Bytes>> {
    let metrics = sources.telemetry.metrics().clone();
    let accept = request.headers().get(ACCEPT);
    if accept.is_some_and(|accept| accept.to_str().is_ok_and(open::is_wanted)) {
        return match spawn_blocking(move || metrics.open_metrics()).await {
            Ok(text) => typed(StatusCode::OK, text, open::CONTENT_TYPE),
            Err(panicked) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{panicked}\n")),
        };
    }
    let text_of = spawn_blocking(move || metrics.text().map_err(|error| error.to_string()));
    let written = text_of
        .await
        .unwrap_or_else(|panicked| Err(panicked.to_string()));
    match written {
        Ok(metrics) => typed(
            StatusCode::OK,
            metrics,
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        Err(error) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("metrics cannot be written: {error}\n"),
        ),
    }
}

fn log_level() -> Response<Full<Bytes>> {
    match log::filter() {
        Some(filter) => text(StatusCode::OK, format!("{filter}\n")),
        None => text(StatusCode::NOT_FOUND, "this process keeps its own log\n"),
    }
}

/// Takes what `WEFT_LOG` takes, until the process ends.
async fn set_log_level<B: Body<Error: std::error::Error + Send + Sync + 'static>>(
    request: Request<B>,
) -> Response<Full<Bytes>> {
    let body = timeout(
        HEADER_TIMEOUT,
        Limited::new(request.into_body(), MAX_FILTER).collect(),
    );
    let Ok(Ok(body)) = body.await else {
        return text(StatusCode::BAD_REQUEST, "no filter arrived\n");
    };
    let body = body.to_bytes();
    match log::set_filter(String::from_utf8_lossy(&body).trim()) {
        Ok(()) => log_level(),
        Err(reason) => text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
    }
}

fn endpoints(sources: &Sources) -> serde_json::Value {
    let now = tokio::time::Instant::now();
    let services = sources.discovery.services();
    let services = services.iter().map(|service| {
        let endpoints = service.endpoints();
        let count = endpoints.len();
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|member| {
                let endpoint = &member.endpoint;
                json!({
                    "address": endpoint.address.to_string(),
                    "dial": endpoint.dial().to_string(),
                    "zone": member.zone.as_deref(),
                    "identity": endpoint.identity.as_ref().map(ToString::to_string),
                    "available": endpoint.is_available(now),
                    "pending": endpoint.pending(),
                })
            })
            .collect();
        json!({ "host": &*service.name.host, "port": service.name.port, "count": count, "endpoints": endpoints })
    });
    json!({ "services": services.collect::<Vec<_>>() })
}

/// What `weft explain` reads.
fn policy(sources: &Sources) -> serde_json::Value {
    let active = sources.policies.current();
    let values = active.values.iter().chain(&active.asked);
    let values = values.map(|value| {
        json!({
            "path": value.path,
            "value": value.value,
            "layer": value.layer.as_str(),
            "object": value.object,
        })
    });
    json!({
        "version": active.version,
        "values": values.collect::<Vec<_>>(),
        "problems": sources.policies.problems(),
    })
}

fn identity(sources: &Sources) -> serde_json::Value {
    let seconds = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    };
    sources.identities.current().map_or_else(
        || json!({ "id": null }),
        |identity| {
            json!({
                "id": identity.leaf.id().to_string(),
                "not_before": seconds(identity.leaf.not_before()),
                "not_after": seconds(identity.leaf.not_after()),
                "trust_domains": identity.trust.iter().map(|(domain, bundle)| {
                    json!({ "domain": domain.to_string(), "roots": bundle.roots().len() })
                }).collect::<Vec<_>>(),
            })
        },
    )
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, body, "text/plain; charset=utf-8")
}

fn json_text(value: &serde_json::Value) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, format!("{value:#}\n"), "application/json")
}

fn typed(status: StatusCode, body: impl Into<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const TRACE: &str = "/trace/";
const MAX_CONNECTIONS: usize = 64;
const MAX_HEADER: usize = 16 * 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after this, however alive it is.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Longest log filter.
const MAX_FILTER: usize = 4096;
const PATIENCE: Duration = Duration::from_millis(50);
