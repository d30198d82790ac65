//! The apps of the demo's shop: three small servers, each a process, that know nothing of the mesh but the address
//! of their own proxy.
//!
//! `web` asks `orders` over HTTP/1.1, `orders` asks `users` over gRPC. Each tells in its answer, and in a line on its
//! standard output, how the call looked to it: that is what the demo shows and checks. They do the one thing a mesh
//! cannot do for an app, which is to carry the trace's headers from the call they got to the call they make.

mod orders;
mod users;
pub(crate) mod web;

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// The gRPC between `orders` and `users`.
#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/users.proto"
)]
mod wire {
    tonic::include_proto!("shop");
}

/// One app of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AppName {
    Web,
    Orders,
    Users,
}

impl AppName {
    /// In the order in which a call meets them.
    pub(crate) const ALL: [Self; 3] = [Self::Web, Self::Orders, Self::Users];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Orders => "orders",
            Self::Users => "users",
        }
    }
}

/// Where an app listens and how it leaves.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct AppConfig {
    pub(crate) name: AppName,
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Its proxy's outbound port; without redirection an app sends its calls there. `None` for an app that calls nobody.
    #[arg(long)]
    pub(crate) via: Option<SocketAddr>,
}

/// How a call looked to the app that got it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) app: String,
    /// Method and path, or the gRPC method.
    pub(crate) call: String,
    /// `HTTP/1.1` or `gRPC over HTTP/2`.
    pub(crate) protocol: String,
    /// The header `x-forwarded-client-cert`; only a proxy that verified the caller sets it.
    pub(crate) client_cert: Option<String>,
    pub(crate) traceparent: Option<String>,
}

impl Seen {
    fn http<B>(app: AppName, req: &Request<B>) -> Self {
        Self {
            app: app.as_str().to_owned(),
            call: format!("{} {}", req.method(), req.uri().path()),
            protocol: format!("{:?}", req.version()),
            client_cert: text(req.headers(), CLIENT_CERT),
            traceparent: text(req.headers(), TRACEPARENT),
        }
    }

    /// Returns the identity of the caller that the proxy vouches for: the `URI=` of the last element, which is the
    /// nearest hop (the form is Envoy's, `By=…;Hash=…;Subject="";URI=…`).
    pub(crate) fn caller(&self) -> Option<&str> {
        let nearest = self.client_cert.as_deref()?.rsplit(',').next()?;
        nearest
            .split(';')
            .find_map(|pair| pair.trim().strip_prefix("URI="))
    }

    /// Returns the trace this call belongs to, as 32 hexadecimal digits.
    pub(crate) fn trace(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }

    /// Writes the line the demo reads.
    fn announce(&self) {
        if let Ok(line) = serde_json::to_string(self) {
            let _nobody_reads = writeln!(std::io::stdout(), "{line}");
        }
    }
}

/// Runs the app until SIGTERM or SIGINT.
///
/// # Errors
/// The address cannot be bound, or the app needs a way out and has none.
pub(crate) fn run(config: &AppConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("start the app's runtime")?;
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let listener = TcpListener::bind(config.listen);
        let listener = listener
            .await
            .with_context(|| format!("listen on {}", config.listen))?;
        tokio::select! {
            biased;
            _ = stop.recv() => Ok(()),
            ended = serve(config, listener) => ended,
        }
    })
}

async fn serve(config: &AppConfig, listener: TcpListener) -> anyhow::Result<()> {
    match config.name {
        AppName::Web => {
            let web = web::Web::new(config.via.context("web needs --via")?);
            serve_http(listener, move |req| web.clone().answer(req)).await
        }
        AppName::Orders => {
            let orders = orders::Orders::new(config.via.context("orders needs --via")?)?;
            serve_http(listener, move |req| orders.clone().answer(req)).await
        }
        AppName::Users => users::serve(listener).await,
    }
}

async fn serve_http<F>(
    listener: TcpListener,
    answer: impl Fn(Request<Incoming>) -> F + Clone + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let local = tokio::task::LocalSet::new();
    let serving = async {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.context("accept a connection")?;
            stream.set_nodelay(true).context("set TCP_NODELAY")?;
            let answer = answer.clone();
            let service = service_fn(move |req| {
                let answer = answer(req);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            connections.spawn_local(async move {
                let connection = hyper::server::conn::http1::Builder::new();
                // A caller that goes away is no concern of the app's.
                let _gone = connection
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
            while connections.try_join_next().is_some() {}
        }
    };
    local.run_until(serving).await
}

/// Returns the headers that tie the call an app makes to the call it got: W3C Trace Context and Baggage.
fn carried_over(headers: &HeaderMap) -> HeaderMap {
    CARRIED
        .into_iter()
        .filter_map(|name| {
            Some((
                http::HeaderName::from_static(name),
                headers.get(name)?.clone(),
            ))
        })
        .collect()
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name).map(HeaderValue::to_str)?;
    value.ok().map(str::to_owned)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let mut body = serde_json::to_vec_pretty(body).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

const CLIENT_CERT: &str = "x-forwarded-client-cert";
const TRACEPARENT: &str = "traceparent";
const CARRIED: [&str; 3] = [TRACEPARENT, "tracestate", "baggage"];

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(client_cert: Option<&str>) -> Seen {
        Seen {
            app: "orders".to_owned(),
            call: "GET /".to_owned(),
            protocol: "HTTP/1.1".to_owned(),
            client_cert: client_cert.map(str::to_owned),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        }
    }

    #[test]
    fn caller_is_the_uri_of_the_nearest_hop() {
        let rows: &[(&str, Option<&str>, Option<&str>)] = &[
            ("plaintext", None, None),
            ("no uri", Some("By=spiffe://a/b;Hash=00"), None),
            (
                "one hop",
                Some("By=spiffe://t/b;Hash=0;Subject=\"\";URI=spiffe://t/a"),
                Some("spiffe://t/a"),
            ),
            (
                "two hops",
                Some("URI=spiffe://t/far,By=x;URI=spiffe://t/near"),
                Some("spiffe://t/near"),
            ),
        ];
        for (name, header, want) in rows {
            assert_eq!(seen(*header).caller(), *want, "{name}");
        }
    }

    #[test]
    fn trace_is_read_from_the_traceparent() {
        assert_eq!(seen(None).trace(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    }

    #[test]
    fn only_headers_of_the_trace_are_carried_over() {
        let mut headers = HeaderMap::new();
        for name in [
            "traceparent",
            "tracestate",
            "baggage",
            "cookie",
            "x-forwarded-client-cert",
        ] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        let mut carried: Vec<_> = carried_over(&headers)
            .keys()
            .map(ToString::to_string)
            .collect();
        carried.sort();
        assert_eq!(carried, ["baggage", "traceparent", "tracestate"]);
    }
}
