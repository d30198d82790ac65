//! From the network to the app: mTLS in, then HTTP or TCP, then the original destination.
//!
//! Comes after `listener`; reads top to bottom as the list of stages. Plaintext passes only where policy is permissive,
//! an app's own TLS only there too.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant};
use tracing::debug;
use weft_certs::identity::Identity;
use weft_certs::verify::Peer;

use crate::connect::{self, ConnectError, Target};
use crate::cx::{CallerHeaders, Cx, Worker};
use crate::deadline::{self, Deadline, Reader};
use crate::detect::{self, Patience, Protocol};
use crate::discovery::ServiceName;
use crate::drain::Lifetime;
use crate::exchange::Exchange;
use crate::filter::{self, limits};
use crate::forward::{self, Early, Sent};
use crate::http::body::Body;
use crate::http::failure::Processed;
use crate::http::h1;
use crate::http::h1::server::Service;
use crate::http::headers;
use crate::http::interim::Interim;
use crate::http::{h2, upgrade};
use crate::io::Io;
use crate::orig_dst::orig_dst;
use crate::policy::Active;
use crate::policy::ports::{Declared, PortRules};
use crate::pool::{Key, Lane};
use crate::reject::{Caller, Reject};
use crate::retry::{self, Attempt, Failed, Outcome};
use crate::rewind::Rewind;
use crate::telemetry::record::{ConnectionFacts, DestinationFacts, Direction};
use crate::telemetry::waits::timed;
use crate::tls::Speaks;
use crate::tls::accept::{self, Hello};

/// Serves one connection that was accepted on an inbound port.
pub(crate) async fn serve(worker: Rc<Worker>, io: TcpStream, client: SocketAddr) {
    if let Err(error) = connect::tune(&io) {
        return debug!(%client, %error, "inbound connection is gone already");
    }
    let Some(_place) = worker.policies.inbound_place() else {
        let metrics = worker.telemetry.metrics();
        return metrics.refused(Direction::Inbound, "connection_limit");
    };
    let destination = match destination(&worker, &io) {
        Ok(destination) => destination,
        Err(reason) => {
            worker
                .telemetry
                .metrics()
                .refused(Direction::Inbound, reason);
            return;
        }
    };
    match detect::detect(io, patience(&worker, destination)).await {
        Ok((Protocol::Tls, io)) => tls(worker, io, client, destination).await,
        Ok((protocol, io)) => plain(worker, io, client, destination, protocol).await,
        Err(error) => debug!(%client, %error, "inbound connection failed before its first bytes"),
    }
}

/// Where HTTP is declared nobody speaks first but the client.
fn patience(worker: &Worker, app: Option<App>) -> Patience {
    let rest = worker.settings.detect_timeout;
    let silence = match rules(worker, app).declared {
        Some(Declared::Http | Declared::Http2) => worker.settings.limits.header_timeout,
        Some(Declared::Opaque | Declared::OwnTls) | None => rest,
    };
    Patience { silence, rest }
}

fn rules(worker: &Worker, app: Option<App>) -> PortRules {
    let policy = worker.policies.current();
    policy.port(&worker.settings, app.map(|app| app.port))
}

/// The app a connection is for.
#[derive(Clone, Copy, Debug)]
struct App {
    /// Where it listens.
    address: SocketAddr,
    /// The port by which the mesh knows it.
    port: u16,
    /// By redirection: the leg to it needs its own source address.
    redirected: bool,
}

/// With redirection the kernel knows; without it, a single declared app needs no choice, and `None` leaves it to the SNI.
fn destination(worker: &Worker, io: &TcpStream) -> Result<Option<App>, &'static str> {
    let settings = &worker.settings;
    if settings.redirect {
        let original = orig_dst(io, &settings.own_ports).map_err(|error| {
            debug!(%error, "inbound connection refused");
            "original_destination"
        })?;
        let address = original.0;
        return Ok(Some(App {
            address,
            port: address.port(),
            redirected: true,
        }));
    }
    let mut apps = settings.apps.iter();
    Ok(match (apps.next(), apps.next()) {
        (Some((port, address)), None) => Some(App {
            address: *address,
            port: *port,
            redirected: false,
        }),
        _ => None,
    })
}

/// Mesh TLS is terminated, other TLS is the app's.
async fn tls(worker: Rc<Worker>, io: Rewind, client: SocketAddr, app: Option<App>) {
    let limit = worker.settings.handshake_timeout;
    let refused = |reason| {
        worker
            .telemetry
            .metrics()
            .handshake_failed(Direction::Inbound, reason);
    };
    let hello = match accept::hello(io, limit).await {
        Ok(hello) => hello,
        Err(error) => {
            debug!(%client, %error, "inbound handshake failed");
            return refused(error.reason());
        }
    };
    let Some(speaks) = hello.speaks else {
        return app_tls(worker, hello, client, app).await;
    };
    let Some(app) = named_app(&worker, hello.server_name.as_deref(), app) else {
        let metrics = worker.telemetry.metrics();
        return metrics.refused(Direction::Inbound, Reject::NoApp.label());
    };
    let Some(identity) = worker.identities.current() else {
        return refused(Reject::NoIdentity.label());
    };
    let Ok(config) = worker.accept_configs.config(&identity, speaks) else {
        return refused("own_certificate");
    };
    let stream = match accept::accept(hello.io, config, limit).await {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%client, %error, reason = error.reason(), "inbound handshake failed");
            return refused(error.reason());
        }
    };
    let peer = match weft_certs::verify::peer_of(
        stream.get_ref().1.peer_certificates(),
        SystemTime::now(),
    ) {
        Ok(peer) => peer,
        Err(error) => return refused(error.reason()),
    };
    worker
        .telemetry
        .metrics()
        .handshake_done(Direction::Inbound);
    let io = Io::Accepted(Box::new(Rewind::new(Bytes::new(), stream)));
    let speaks = match io.alpn() {
        Some(b"h2" | b"istio-h2") => Speaks::Http2,
        Some(b"http/1.1" | b"istio-http/1.1") => Speaks::Http1,
        _ => Speaks::Opaque,
    };
    let early = match rules(&worker, Some(app)).declared {
        Some(Declared::Opaque) => Early::Opaque,
        _ => Early::Unknown,
    };
    let connection = Inbound::new(worker, client, app, Some((&peer, &identity)));
    connection.serve(io, speaks, early).await;
}

/// The app that the SNI names, where more than one is declared. Only declared ports are ever served.
fn named_app(worker: &Worker, server_name: Option<&str>, app: Option<App>) -> Option<App> {
    if app.is_some_and(|app| app.redirected) {
        return app;
    }
    match server_name.and_then(accept::port_of) {
        Some(port) => {
            let address = *worker.settings.apps.get(&port)?;
            Some(App {
                address,
                port,
                redirected: false,
            })
        }
        None => app,
    }
}

/// TLS that the app itself will terminate: untouched where policy is permissive, closed where it is strict.
async fn app_tls(worker: Rc<Worker>, hello: Hello, client: SocketAddr, app: Option<App>) {
    plain(worker, hello.io, client, app, Protocol::Tls).await;
}

async fn plain(
    worker: Rc<Worker>,
    io: Rewind,
    client: SocketAddr,
    app: Option<App>,
    protocol: Protocol,
) {
    let metrics = worker.telemetry.metrics();
    let rules = rules(&worker, app);
    let own_tls = protocol == Protocol::Tls && rules.declared == Some(Declared::OwnTls);
    if rules.strict && !own_tls {
        metrics.refused(Direction::Inbound, "plaintext");
        return;
    }
    metrics.plaintext_connection();
    let Some(app) = app else {
        metrics.refused(Direction::Inbound, Reject::NoApp.label());
        return;
    };
    let speaks = match (rules.declared, protocol) {
        (Some(Declared::Opaque), _) => Speaks::Opaque,
        (_, Protocol::Http1) => Speaks::Http1,
        (_, Protocol::Http2) => Speaks::Http2,
        // HTTP that is none is answered as such.
        (Some(Declared::Http), _) => Speaks::Http1,
        (Some(Declared::Http2), Protocol::Silent) => Speaks::Http2,
        (Some(Declared::Http2), _) => Speaks::Http1,
        (Some(Declared::OwnTls) | None, _) => Speaks::Opaque,
    };
    let silent = protocol == Protocol::Silent && rules.declared != Some(Declared::Opaque);
    let early = if silent {
        Early::Unknown
    } else {
        Early::Opaque
    };
    Inbound::new(worker, client, app, None)
        .serve(Io::Tcp(io), speaks, early)
        .await;
}

/// One inbound connection whose caller and app are known.
struct Inbound {
    cx: Cx,
    app: App,
    lane: Rc<Lane>,
    service: Arc<ServiceName>,
    expires: Option<Instant>,
    /// An answer has told the caller that we drain.
    told: Cell<bool>,
}

impl Inbound {
    fn new(
        worker: Rc<Worker>,
        client: SocketAddr,
        app: App,
        peer: Option<(&Peer, &Identity)>,
    ) -> Self {
        let facts = Rc::new(ConnectionFacts {
            direction: Direction::Inbound,
            client,
            peer: peer.map(|(peer, _)| peer.id.clone()),
            secure: peer.is_some(),
        });
        let target = Target {
            address: app.address,
            inbound_leg: app.redirected,
            expected: None,
            endpoint: None,
        };
        let lane = worker.pool.lane(Key::App(app.address), || target);
        let service = worker.settings.own_service(app.port);
        let expires =
            peer.map(|(peer, own)| connect::expiry(peer.not_after.min(own.leaf.not_after())));
        let caller = peer.and_then(|(peer, own)| caller_headers(peer, own));
        let rule = &worker.policies.current().policy.inbound.limits;
        let limits = limits::of_connection(&worker.settings.limits, rule);
        Self {
            cx: Cx {
                worker,
                facts,
                port: app.port,
                caller,
                limits,
            },
            app,
            lane,
            service,
            expires,
            told: Cell::new(false),
        }
    }

    async fn serve(self, io: Io, speaks: Speaks, early: Early) {
        let worker = Rc::clone(&self.cx.worker);
        let _open = worker
            .telemetry
            .metrics()
            .connection(Direction::Inbound, self.cx.facts.secure);
        let (io, speaks) = match speaks {
            Speaks::Opaque => match self.tcp(io, early).await {
                Some(turned) => turned,
                None => return,
            },
            Speaks::Http1 | Speaks::Http2 => (io, speaks),
        };
        let limits = self.cx.limits;
        let lifetime = Lifetime::new(worker.drain.clone(), self.expires);
        match speaks {
            Speaks::Http1 => {
                let served = h1::server::serve(
                    h1::conn::Conn::new(io, BytesMut::new()),
                    limits,
                    &lifetime,
                    &self,
                )
                .await;
                forward::log_end(Direction::Inbound, &self.cx, served.err());
            }
            Speaks::Http2 => {
                let served =
                    h2::server::serve(io, limits, &lifetime, Rc::new(self), &worker.tasks).await;
                forward::log_http2_end(Direction::Inbound, &worker, served.err().as_ref());
            }
            Speaks::Opaque => {}
        }
    }

    /// Opaque bytes: one connection to the app for one from the caller. Gives back what turns out to be HTTP.
    async fn tcp(&self, mut io: Io, early: Early) -> Option<(Io, Speaks)> {
        let destination = self.destination();
        let declared = rules(&self.cx.worker, Some(self.app)).declared;
        let judged = self.cx.worker.policies.current().opaque(&self.cx, declared);
        let http = matches!(declared, Some(Declared::Http | Declared::Http2));
        // Who may not pass unread may still be late with HTTP, which has more to show.
        if http || (judged.is_err() && early == Early::Unknown) {
            match self.listen(&mut io).await {
                Some(speaks) => return Some((io, speaks)),
                // HTTP that is none is answered as such.
                None if http => return Some((io, Speaks::Http1)),
                None => {}
            }
        }
        if let Err(reject) = judged {
            forward::refuse_tcp(&self.cx, &io, destination, reject);
            return None;
        }
        let idle = self.cx.limits.idle_timeout;
        let forwarded = forward::tcp(&self.cx, io, (early, idle), destination, self.lane.opaque());
        match self.expires {
            None => forwarded.await,
            // Opaque bytes have no moment at which to say goodbye: they get a minute after the identities' end.
            Some(at) => {
                let cut = tokio::time::timeout_at(at + EXPIRED_GRACE, forwarded).await;
                cut.ok().flatten()
            }
        }
    }

    /// What the client speaks, if it is HTTP; the app hears nothing of it yet.
    async fn listen(&self, io: &mut Io) -> Option<Speaks> {
        let settings = &self.cx.worker.settings;
        let patience = Patience {
            silence: settings.limits.header_timeout,
            rest: settings.detect_timeout,
        };
        let heard = detect::client_word(io, patience).await;
        heard.ok().and_then(forward::http_of)
    }

    fn destination(&self) -> DestinationFacts {
        DestinationFacts {
            service: Arc::clone(&self.service),
            endpoint: Some(self.app.address),
            peer: None,
            secure: false,
        }
    }

    /// One request: filters, then the app.
    async fn request(
        &self,
        mut request: Request<Body>,
        interim: &Interim,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Reject> {
        let switches = upgrade::prepare(request.headers_mut()).is_some();
        let policy = self.cx.worker.policies.current();
        self.check_plaintext(&policy)?;
        let queued = Cell::default();
        let filters = filter::inbound(&self.cx, &policy, &mut request, exchange.passed());
        let passed = timed(filters, &queued).await;
        exchange.queued(queued.get());
        passed?;
        let waited = Cell::default();
        let deadline = Deadline::of(request.headers(), None, exchange.start());
        exchange.to(self.destination());
        let answer = retry::run(
            request,
            &self.cx.worker,
            (policy.unnamed_calls(), deadline),
            exchange.attempts(),
            async |attempt| self.attempt(attempt, interim, &waited).await,
        );
        let answer = answer.await;
        exchange.connected(waited.get());
        let mut response = answer?;
        forward::clean_answer(&mut response, switches);
        if let Some(deadline) = deadline.filter(|_| exchange.is_grpc()) {
            response.body_mut().until(deadline);
        }
        headers::strip_mesh(response.headers_mut());
        self.mark_exhausted(&mut response, exchange);
        Ok(response)
    }

    /// Our app may have failed because a call of its own did, which was tried as often as it may be.
    fn mark_exhausted(&self, response: &mut Response<Body>, exchange: &Exchange) {
        let exhausted = self.cx.worker.policies.exhausted();
        if response.status().is_server_error()
            && exhausted.has(exchange.trace().trace_id, Instant::now())
        {
            let value = HeaderValue::from_static("1");
            response.headers_mut().insert(headers::EXHAUSTED, value);
        }
    }

    /// A kept connection may be older than the policy that would not have let it in.
    fn check_plaintext(&self, policy: &Active) -> Result<(), Reject> {
        let settings = &self.cx.worker.settings;
        match !self.cx.facts.secure && policy.port(settings, Some(self.app.port)).strict {
            true => Err(Reject::Plaintext),
            false => Ok(()),
        }
    }

    async fn attempt(
        &self,
        attempt: Attempt<'_>,
        interim: &Interim,
        waited: &Cell<Option<Duration>>,
    ) -> Outcome {
        // An app that ends closes the connections it kept: while we drain, none of them is trusted with a request.
        let fresh = attempt.fresh || self.cx.worker.drain.begun();
        let attempt = Attempt { fresh, ..attempt };
        let until = attempt.until;
        let told = until.map(|until| deadline::told(attempt.head, until, Reader::Mesh));
        let attempt = Attempt {
            head: told.as_deref().unwrap_or(attempt.head),
            ..attempt
        };
        let sending = forward::send(&self.lane, attempt, interim, &self.cx.worker, waited);
        let sent = match deadline::by(until, pin!(sending)).await {
            Ok(sent) => sent,
            Err(reject) => return Outcome::Final(reject),
        };
        match sent {
            Sent::Answer(answer) => Outcome::Answer {
                answer,
                endpoint: None,
            },
            Sent::NotConnected(error) => Outcome::Failed(Failed {
                reject: app_reject(&error),
                // Nobody else can serve this app: there is no endpoint to go to.
                processed: Processed::Maybe,
                reused: false,
                endpoint: None,
            }),
            Sent::Failed(failed) if failed.processed == Processed::Maybe && !failed.reused => {
                Outcome::Final(failed.reject)
            }
            Sent::Failed(failed) => Outcome::Failed(failed),
        }
    }

    /// What a mesh caller is told beside the answer itself.
    fn mark(&self, response: &mut Response<Body>, outcome: Option<Reject>) {
        if !self.cx.facts.secure {
            return;
        }
        if outcome.is_some_and(|reject| reject.row().unprocessed) {
            response
                .headers_mut()
                .insert(headers::UNPROCESSED, HeaderValue::from_static("1"));
        }
        if self.cx.worker.drain.begun() {
            self.told.set(true);
            response
                .headers_mut()
                .insert(headers::DRAINING, HeaderValue::from_static("1"));
        }
    }
}

impl Service for Inbound {
    async fn call(&self, mut request: Request<Body>, interim: Interim) -> Response<Body> {
        let mut exchange = Exchange::begin(&self.cx, &mut request);
        let outcome = self.request(request, &interim, &mut exchange).await;
        let reject = outcome.as_ref().err().copied();
        let mut response = exchange.answer(outcome);
        self.mark(&mut response, reject);
        response
    }

    fn refuse(&self, reject: Reject, caller: Caller) -> Response<Body> {
        let metrics = self.cx.worker.telemetry.metrics();
        match reject {
            Reject::Malformed(malformed) => metrics.malformed(malformed.label()),
            other => metrics.refused(Direction::Inbound, other.label()),
        }
        reject.response(caller)
    }
}

/// `By=...;Hash=...;Subject="";URI=...`, Envoy's grammar.
fn caller_headers(peer: &Peer, own: &Identity) -> Option<CallerHeaders> {
    let hash: String = peer
        .sha256
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let xfcc = format!(
        "By={};Hash={hash};Subject=\"\";URI={}",
        own.leaf.id(),
        peer.id
    );
    Some(CallerHeaders {
        xfcc: HeaderValue::from_str(&xfcc).ok()?,
        client_id: HeaderValue::from_str(peer.id.as_str()).ok()?,
    })
}

const EXPIRED_GRACE: Duration = Duration::from_secs(60);

/// A refused connection means that the app does not listen: nothing has seen the request.
fn app_reject(error: &ConnectError) -> Reject {
    match error {
        ConnectError::Tcp { .. } => Reject::AppGone,
        ConnectError::Timeout { .. }
        | ConnectError::NoIdentity { .. }
        | ConnectError::Handshake { .. }
        | ConnectError::Loop { .. }
        | ConnectError::Full { .. } => error.reject(),
    }
}
