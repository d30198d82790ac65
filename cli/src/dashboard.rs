//! `weft dashboard`: one page with the live service graph, a service's requests with reasons, and a trace as a waterfall.
//!
//! Everything is in this binary: the page asks only us, and we ask the proxies' admin listeners. On loopback, for whoever sits
//! at this machine: a name that is not this machine's is refused, so that no web page can ask through a browser.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::insight::edges::{Window, services};
use crate::insight::request::Passed;
use crate::insight::{Proxies, ProxiesArgs};
use crate::waterfall::json_of;

/// Where the page is served, and whom it tells of.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct DashboardArgs {
    /// Address of the page
    #[arg(long, value_name = "ADDR", default_value_t = ADDRESS)]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) proxies: ProxiesArgs,
}

/// Serves the page until it is interrupted; `say` gets its address.
///
/// # Errors
/// The address is not to be had, or the proxies are not found.
pub(crate) async fn run(args: &DashboardArgs, say: impl Fn(&str)) -> anyhow::Result<()> {
    let proxies = Proxies::of(&args.proxies).await?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("listen on {}", args.listen))?;
    let address = listener.local_addr().context("read the page's address")?;
    say(&format!("dashboard: http://{address}\n"));
    serve(listener, proxies).await;
    Ok(())
}

/// A listener for the page: on its usual port if that is free, else on any.
///
/// # Errors
/// Neither is to be had.
pub(crate) async fn listener() -> std::io::Result<TcpListener> {
    match TcpListener::bind(ADDRESS).await {
        Ok(listener) => Ok(listener),
        Err(_taken) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
    }
}

/// Serves the page for ever.
pub(crate) async fn serve(listener: TcpListener, proxies: Proxies) {
    let looker = Arc::new(Looker::new(proxies));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let Ok((io, _browser)) = accepted else { continue };
                let looker = Arc::clone(&looker);
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let looker = Arc::clone(&looker);
                        async move { Ok::<_, Infallible>(answer(&looker, &request).await) }
                    });
                    // How a browser leaves is its own affair.
                    let _ended = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(PATIENCE)
                        .serve_connection(TokioIo::new(io), service)
                        .await;
                });
            }
        }
    }
}

async fn answer(looker: &Looker, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !is_for_us(request.headers().get(HOST)) {
        return typed(
            StatusCode::MISDIRECTED_REQUEST,
            "this is not the name of this machine\n",
            TEXT,
        );
    }
    if request.method() != Method::GET {
        return typed(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is served here\n",
            TEXT,
        );
    }
    match request.uri().path() {
        "/" => typed(StatusCode::OK, PAGE, "text/html; charset=utf-8"),
        "/page.css" => typed(StatusCode::OK, STYLE, "text/css; charset=utf-8"),
        "/page.js" => typed(StatusCode::OK, SCRIPT, "text/javascript; charset=utf-8"),
        "/api/mesh" => told(looker.mesh().await),
        path => match path.strip_prefix("/api/trace/") {
            Some(id) if id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                told(looker.trace(id).await)
            }
            _ => typed(StatusCode::NOT_FOUND, "no such page\n", TEXT),
        },
    }
}

/// `localhost` or an address, with a port; a name of somebody's domain may be made to mean us.
fn is_for_us(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || host.parse::<SocketAddr>().is_ok() || name.parse::<Ipv4Addr>().is_ok()
}

fn told(answer: anyhow::Result<Value>) -> Response<Full<Bytes>> {
    let (status, value) = match answer {
        Ok(value) => (StatusCode::OK, value),
        Err(error) => (
            StatusCode::BAD_GATEWAY,
            json!({ "error": format!("{error:#}") }),
        ),
    };
    typed(status, value.to_string(), "application/json")
}

fn typed(status: StatusCode, body: impl Into<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'self'; img-src data:"),
    );
    response
}

/// Asks the proxies, once for all browsers.
struct Looker {
    proxies: Proxies,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    window: Window,
    since: HashMap<SocketAddr, u64>,
    requests: VecDeque<Passed>,
    /// The last answer, and when it was made.
    last: Option<(Instant, Value)>,
}

impl Looker {
    fn new(proxies: Proxies) -> Self {
        Self {
            proxies,
            seen: Mutex::default(),
        }
    }

    /// The graph, the services and the last requests.
    async fn mesh(&self) -> anyhow::Result<Value> {
        let mut seen = self.seen.lock().await;
        let now = Instant::now();
        if let Some((made, answer)) = &seen.last
            && now < *made + FRESH
        {
            return Ok(answer.clone());
        }
        let answers = self.proxies.edges().await?;
        let edges = seen.window.edges(now, &answers);
        let requests = self.proxies.requests(&mut seen.since).await?;
        seen.requests.extend(requests);
        let excess = seen.requests.len().saturating_sub(SHOWN);
        seen.requests.drain(..excess);
        let answer = json!({
            "proxies": answers.len(),
            "services": services(&edges),
            "edges": edges,
            "requests": seen.requests,
        });
        seen.last = Some((now, answer.clone()));
        Ok(answer)
    }

    async fn trace(&self, id: &str) -> anyhow::Result<Value> {
        let spans = self.proxies.trace(id).await?;
        Ok(json!({ "id": id, "spans": json_of(&spans) }))
    }
}

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15080);
const PAGE: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/page.css");
const SCRIPT: &str = include_str!("dashboard/page.js");
const TEXT: &str = "text/plain; charset=utf-8";
const MAX_CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
/// Several browsers get the same answer for so long, less than the page waits between two looks.
const FRESH: Duration = Duration::from_millis(900);
const SHOWN: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_called_by_its_name() {
        let rows = [
            (Some("localhost:15080"), true),
            (Some("127.0.0.1:15080"), true),
            (Some("127.0.0.1"), true),
            (Some("[::1]:15080"), true),
            (Some("evil.example:15080"), false),
            (Some("localhost.evil.example"), false),
            (None, false),
        ];
        for (host, want) in rows {
            let value = host.map(HeaderValue::from_static);
            assert_eq!(is_for_us(value.as_ref()), want, "{host:?}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for text in [PAGE, STYLE, SCRIPT] {
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"));
            assert!(
                !text.contains("innerHTML"),
                "what a client sent must stay text"
            );
        }
    }
}
