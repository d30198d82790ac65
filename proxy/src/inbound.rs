//! From the network to the app: mTLS in, then HTTP or TCP, then the original destination.
//!
//! Comes after `listener`; reads top to bottom as the list of stages. Plaintext passes only where policy is permissive,
//! an app's own TLS only there too.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use http::header::EXPECT;
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use weft_certs::identity::Identity;
use weft_certs::verify::Peer;

use self::app::App;
use crate::connect::{self, Target};
use crate::cx::{Cx, Worker};
use crate::deadline::Deadline;
use crate::detect::{self, Patience, Protocol};
use crate::discovery::service::ServiceName;
use crate::drain::Lifetime;
use crate::exchange::Exchange;
use crate::filter::{self, limits};
use crate::forward::{self, Early};
use crate::http::body::Body;
use crate::http::h1;
use crate::http::h1::server::Service;
use crate::http::headers;
use crate::http::interim::Interim;
use crate::http::{h2, upgrade};
use crate::io::Io;
use crate::policy::Active;
use crate::policy::ports::{Declared, PortRules};
use crate::pool::{Key, Lane};
use crate::reject::{Caller, Reject};
use crate::retry::{self, Returns};
use crate::telemetry::record::{ConnectionFacts, DestinationFacts, Direction};
use crate::telemetry::waits::timed;
use crate::tls::Speaks;

mod app;
mod attempt;
mod marks;
mod several;
mod tcp;
mod transport;

/// Serves one connection that was accepted on an inbound port.
pub(crate) async fn serve(worker: Rc<Worker>, io: TcpStream, client: SocketAddr) {
    if let Err(error) = connect::tune(&io) {
        return debug!(%client, %error, "inbound connection is gone already");
    }
    let Some(_place) = worker.policies.inbound_place() else {
        let metrics = worker.telemetry.metrics();
        return metrics.refused(Direction::Inbound, "connection_limit");
    };
    let destination = match app::destination(&worker, &io) {
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
        Ok((Protocol::Tls, io)) => transport::tls(worker, io, client, destination).await,
        Ok((protocol, io)) => transport::plain(worker, io, client, destination, protocol).await,
        Err(error) => debug!(%client, %error, "inbound connection failed before its first bytes"),
    }
}

/// Where HTTP is declared, or must say which app is meant, nobody speaks first but the client.
fn patience(worker: &Worker, app: Option<App>) -> Patience {
    let rest = worker.settings.detect_timeout;
    let silence = match rules(worker, app).declared {
        Some(Declared::Http | Declared::Http2) => worker.settings.limits.header_timeout,
        None if app.is_none() => worker.settings.limits.header_timeout,
        Some(Declared::Opaque | Declared::OwnTls) | None => rest,
    };
    Patience { silence, rest }
}

fn rules(worker: &Worker, app: Option<App>) -> PortRules {
    let policy = worker.policies.current();
    policy.port(&worker.settings, app.map(|app| app.port))
}

/// Serves HTTP until either side ends; `service` answers.
async fn serve_http<S: Service + 'static>(
    cx: &Cx,
    (io, speaks): (Io, Speaks),
    lifetime: &Lifetime,
    service: Rc<S>,
) {
    match speaks {
        Speaks::Http1 => {
            let conn = h1::conn::Conn::new(io, BytesMut::new());
            let served = h1::server::serve(conn, cx.limits, lifetime, &*service).await;
            forward::log_end(Direction::Inbound, cx, served.err());
        }
        Speaks::Http2 => {
            let served =
                h2::server::serve(io, cx.limits, lifetime, service, &cx.worker.tasks).await;
            forward::log_http2_end(Direction::Inbound, &cx.worker, served.err());
        }
        Speaks::Opaque => {}
    }
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
        let caller = peer.and_then(|(peer, own)| marks::caller_headers(peer, own));
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
        let lifetime = Lifetime::new(worker.drain.clone(), self.expires);
        let this = Rc::new(self);
        // On the heap: what opaque bytes need beside it is the other half.
        let served = Box::pin(serve_http(
            &this.cx,
            (io, speaks),
            &lifetime,
            Rc::clone(&this),
        ));
        match this.expires {
            None => served.await,
            // It has been told to go; a stream, a tunnel or a client that does not listen stays no longer than opaque bytes.
            Some(at) => {
                let _cut = timeout_at(at + tcp::EXPIRED_GRACE, served).await;
            }
        }
    }

    fn destination(&self) -> DestinationFacts {
        DestinationFacts {
            service: Arc::clone(&self.service),
            endpoint: Some(self.app.address),
            peer: None,
            workload: None,
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
        if self.cx.facts.secure && request.headers().contains_key(headers::HELD) {
            // The caller's proxy waits, not the caller; our server answers when the app has been reached.
            request.headers_mut().remove(EXPECT);
        }
        let queued = Cell::default();
        let filters = filter::inbound(&self.cx, &policy, &mut request, exchange.passed());
        let passed = timed(filters, &queued).await;
        exchange.queued(queued.get());
        passed?;
        headers::add_host(request.headers_mut(), self.app.address);
        let waited = Cell::default();
        let deadline = Deadline::of(request.headers(), None, exchange.start());
        exchange.to(self.destination());
        let answer = retry::run(
            request,
            &self.cx.worker,
            (policy.unnamed_calls(), deadline, Returns::Never),
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

    /// A kept connection may be older than the policy that would not have let it in.
    fn check_plaintext(&self, policy: &Active) -> Result<(), Reject> {
        let settings = &self.cx.worker.settings;
        match !self.cx.facts.secure && policy.port(settings, Some(self.app.port)).strict {
            true => Err(Reject::Plaintext),
            false => Ok(()),
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

    fn stalled(&self) {
        let metrics = self.cx.worker.telemetry.metrics();
        metrics.refused(Direction::Inbound, "idle");
    }
}
