//! From the app to the mesh: HTTP or TCP, filters, then an endpoint of the service, over mTLS where it has an identity.
//!
//! With redirection the original destination alone names the service; without it Host, `:authority` or the CONNECT target
//! does (ARCHITECTURE.md, decisions 3 and 10).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep};
use tracing::{debug, info};
use weft_policy::Calls;
use weft_policy::balance::Balance;
use weft_policy::breaker::Breaker;
use weft_policy::egress::Egress;

use crate::balance::{self, Picked, Wish, verdict};
use crate::connect::{self, ConnectError, Target};
use crate::cx::{Cx, Worker};
use crate::deadline::{self, Deadline, Reader};
use crate::detect::{self, Patience, Protocol};
use crate::discovery::endpoint::Endpoint;
use crate::discovery::{Service as Destination, ServiceName};
use crate::drain::Lifetime;
use crate::egress;
use crate::exchange::Exchange;
use crate::filter;
use crate::forward::{self, Early, Sent};
use crate::http::body::{Body, Source};
use crate::http::failure::Processed;
use crate::http::h1;
use crate::http::h1::conn::Conn;
use crate::http::h1::server::Service;
use crate::http::headers;
use crate::http::interim::Interim;
use crate::http::malformed::Malformed;
use crate::http::upgrade::Upgraded;
use crate::http::{h2, upgrade};
use crate::io::{self, Io};
use crate::orig_dst::{OrigDst, orig_dst};
use crate::policy::Active;
use crate::policy::calls::CallPolicy;
use crate::pool::{self, Key, Lane, Open};
use crate::reject::{Caller, Reject};
use crate::retry::{self, Attempt, Failed, Outcome};
use crate::route::Way;
use crate::telemetry::record::{ConnectionFacts, DestinationFacts, Direction};
use crate::telemetry::tries::Tries;
use crate::tls::{self, Speaks};

/// Serves one connection that was accepted on an outbound port.
pub(crate) async fn serve(worker: Rc<Worker>, io: TcpStream, client: SocketAddr) {
    if let Err(error) = connect::tune(&io) {
        return debug!(%client, %error, "outbound connection is gone already");
    }
    let original = match original(&worker, &io) {
        Ok(original) => original,
        Err(reason) => {
            return worker
                .telemetry
                .metrics()
                .refused(Direction::Outbound, reason);
        }
    };
    let opaque = original
        .is_some_and(|OrigDst(address)| worker.settings.opaque_ports.contains(&address.port()));
    let detected = if opaque {
        Ok((Protocol::Opaque, detect::declared(io)))
    } else {
        tokio::select! {
            biased;
            detected = detect::detect(io, patience(&worker, original)) => detected,
            () = drained(&worker) => return,
        }
    };
    match detected {
        Ok((protocol, io)) => {
            let facts = ConnectionFacts {
                direction: Direction::Outbound,
                client,
                peer: None,
                secure: false,
            };
            let cx = Cx {
                limits: worker.settings.limits,
                worker,
                facts: Rc::new(facts),
                port: 0,
                caller: None,
            };
            Outbound {
                cx,
                original,
                last: RefCell::default(),
            }
            .serve(Io::Tcp(io), protocol)
            .await;
        }
        Err(error) => debug!(%client, %error, "outbound connection failed before its first bytes"),
    }
}

/// Without redirection nothing but HTTP is spoken here, and a client may open its connection before it has a request.
fn patience(worker: &Worker, original: Option<OrigDst>) -> Patience {
    let rest = worker.settings.detect_timeout;
    Patience {
        silence: match original {
            Some(_) => rest,
            None => worker.settings.limits.idle_timeout,
        },
        rest,
    }
}

/// Waits until a client that has said nothing need not be waited for any more.
async fn drained(worker: &Worker) {
    worker.drain.started().await;
    sleep(worker.settings.detect_timeout).await;
}

fn original(worker: &Worker, io: &TcpStream) -> Result<Option<OrigDst>, &'static str> {
    if !worker.settings.redirect {
        return Ok(None);
    }
    orig_dst(io, &worker.settings.own_ports)
        .map(Some)
        .map_err(|error| {
            debug!(%error, "outbound connection refused");
            "original_destination"
        })
}

/// One outbound connection.
struct Outbound {
    cx: Cx,
    /// With redirection.
    original: Option<OrigDst>,
    /// Without: an app calls the same service on one connection, as a rule.
    last: RefCell<Option<LastCalled>>,
}

/// The service that a Host meant a moment ago.
struct LastCalled {
    host: HeaderValue,
    service: Arc<Destination>,
    until: Instant,
}

/// One request on its way.
struct Call<'a> {
    route: &'a Route,
    /// How the service is called that it goes to.
    calls: &'a Calls,
    interim: &'a Interim,
    /// The endpoint of the latest attempt.
    chosen: RefCell<Option<Picked>>,
    tries: RefCell<Tries>,
    /// For connections.
    waited: Cell<Option<Duration>>,
}

/// Where a request goes.
enum Route {
    /// To an endpoint of a known service.
    Service(Arc<Destination>),
    /// To an address outside the mesh, as the app dialled it.
    Outside(SocketAddr),
}

impl Outbound {
    async fn serve(self, io: Io, protocol: Protocol) {
        let worker = Rc::clone(&self.cx.worker);
        let _open = worker
            .telemetry
            .metrics()
            .connection(Direction::Outbound, false);
        let (io, speaks) = match protocol {
            Protocol::Http1 => (io, Speaks::Http1),
            Protocol::Http2 => (io, Speaks::Http2),
            Protocol::Tls | Protocol::Opaque | Protocol::Silent => {
                match self.tcp(io, protocol).await {
                    Some(turned) => turned,
                    None => return,
                }
            }
        };
        let limits = worker.settings.limits;
        let lifetime = Lifetime::new(worker.drain.clone(), None);
        match speaks {
            Speaks::Http1 => {
                let served =
                    h1::server::serve(Conn::new(io, BytesMut::new()), limits, &lifetime, &self)
                        .await;
                forward::log_end(Direction::Outbound, &self.cx, served.err());
            }
            Speaks::Http2 => {
                let served =
                    h2::server::serve(io, limits, &lifetime, Rc::new(self), &worker.tasks).await;
                forward::log_http2_end(Direction::Outbound, &worker, served.err().as_ref());
            }
            Speaks::Opaque => {}
        }
    }

    /// Opaque bytes go where they were meant to go; without redirection nobody knows where that is. Gives back what turns
    /// out to be HTTP.
    async fn tcp(&self, io: Io, protocol: Protocol) -> Option<(Io, Speaks)> {
        let (wrap, early) = match protocol {
            Protocol::Tls => (Wrap::Never, Early::Opaque),
            Protocol::Silent => (Wrap::Mesh, Early::Unknown),
            Protocol::Opaque | Protocol::Http1 | Protocol::Http2 => (Wrap::Mesh, Early::Opaque),
        };
        let Some(OrigDst(address)) = self.original else {
            self.cx
                .worker
                .telemetry
                .metrics()
                .refused(Direction::Outbound, "not_http");
            return None;
        };
        let route = match self.route_address(address).await {
            Ok(route) => route,
            Err(reject) => {
                let metrics = self.cx.worker.telemetry.metrics();
                metrics.refused(Direction::Outbound, reject.label());
                io::reset(&io);
                return None;
            }
        };
        let io = self.may_leave(io, protocol, &route).await?;
        let destination = route.facts(None);
        // A copy, for the connection must not hold the policy of its first moment.
        let (balance, breaker, idle) = {
            let policy = self.cx.worker.policies.current();
            let calls = &route.calls(&policy).calls;
            (calls.balance.clone(), calls.breaker, calls.timeout.idle)
        };
        let upstream = self.dial(&route, wrap, (&balance, &breaker));
        let idle = idle.unwrap_or(self.cx.limits.idle_timeout);
        forward::tcp(&self.cx, io, (early, idle), destination, upstream).await
    }

    /// Gives the connection back if policy lets it go where it was meant to.
    async fn may_leave(&self, io: Io, protocol: Protocol, route: &Route) -> Option<Io> {
        let worker = &self.cx.worker;
        let policy = worker.policies.current();
        let egress = &policy.policy.egress;
        let (io, allowed) = match (io, route) {
            (io, Route::Service(service)) => (io, egress::check_service(egress, service)),
            (io, Route::Outside(_)) if *egress == Egress::Allow => (io, Ok(())),
            (Io::Tcp(io), Route::Outside(address)) if protocol == Protocol::Tls => {
                let hello = tls::accept::hello(io, worker.settings.detect_timeout).await;
                match hello {
                    Ok(hello) => {
                        let name = hello.server_name.as_deref();
                        let allowed = egress::check_address(egress, *address, name);
                        (Io::Tcp(hello.io), allowed)
                    }
                    Err(error) => {
                        debug!(%error, "an app's own TLS does not say where it goes");
                        worker
                            .telemetry
                            .metrics()
                            .refused(Direction::Outbound, Reject::EgressDenied.label());
                        return None;
                    }
                }
            }
            (io, Route::Outside(address)) => (io, egress::check_address(egress, *address, None)),
        };
        match allowed {
            Ok(()) => Some(io),
            Err(reject) => {
                let metrics = worker.telemetry.metrics();
                metrics.refused(Direction::Outbound, reject.label());
                io::reset(&io);
                None
            }
        }
    }

    async fn route_address(&self, address: SocketAddr) -> Result<Route, Reject> {
        match self.cx.worker.discovery.at(address).await {
            Ok(Some(service)) => Ok(Route::Service(service)),
            Ok(None) => Ok(Route::Outside(address)),
            Err(error) => {
                debug!(%error, "nobody knows who is there");
                Err(Reject::DiscoveryAway)
            }
        }
    }

    /// Opens a connection of its own; refused endpoints are passed over.
    async fn dial(
        &self,
        route: &Route,
        wrap: Wrap,
        (balance, breaker): (&Balance, &Breaker),
    ) -> Result<(Io, (Open, Option<Picked>)), ConnectError> {
        let worker = &self.cx.worker;
        let Route::Service(service) = route else {
            return self
                .lane(route, None)
                .opaque()
                .await
                .map(|(io, open)| (io, (open, None)));
        };
        let mut avoid = Vec::new();
        let key = balance::hash::key(balance, &HeaderMap::new(), self.cx.facts.client.ip());
        loop {
            let wish = Wish {
                balance,
                breaker,
                key,
                avoid: &avoid,
                now: Instant::now(),
            };
            let Some(picked) = balance::pick(service, &wish) else {
                return self
                    .lane(route, None)
                    .opaque()
                    .await
                    .map(|(io, open)| (io, (open, None)));
            };
            if self.is_ourselves(picked.dial()) {
                return Err(ConnectError::Loop {
                    endpoint: picked.dial(),
                });
            }
            let lane = match wrap {
                Wrap::Mesh => self.lane(route, Some(&picked)),
                Wrap::Never => worker.pool.lane(Key::Outside(picked.address), || {
                    plain_target(picked.address)
                }),
            };
            match lane.opaque().await {
                Ok((io, open)) => return Ok((io, (open, Some(picked)))),
                Err(error) if avoid.contains(&picked.id) || avoid.len() >= MAX_DIALS => {
                    return Err(error);
                }
                Err(error) => {
                    debug!(%error, "endpoint taken out");
                    picked.take_out(Instant::now(), UNREACHABLE_FOR);
                    avoid.push(picked.id);
                }
            }
        }
    }

    fn lane(&self, route: &Route, picked: Option<&Picked>) -> Rc<Lane> {
        let pool = &self.cx.worker.pool;
        match (route, picked) {
            (Route::Service(service), Some(picked)) => pool.lane(Key::Endpoint(picked.id), || {
                endpoint_target(&service.name, picked)
            }),
            (Route::Outside(address), _) => {
                pool.lane(Key::Outside(*address), || plain_target(*address))
            }
            // Without an endpoint there is nothing to dial; the unspecified address refuses at once.
            (Route::Service(_), None) => pool.lane(Key::Outside(NOWHERE), || plain_target(NOWHERE)),
        }
    }

    /// One request: filters, route, then attempts until one answers or nothing more may be tried.
    async fn request(
        &self,
        mut request: Request<Body>,
        interim: &Interim,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Reject> {
        let route = self.route(&request).await?;
        // Who is called for the first time has told us just now how.
        let policy = self.cx.worker.policies.current();
        exchange.to(route.facts(None));
        if *request.method() == Method::CONNECT {
            route.check(&policy, &request)?;
            let calls = &route.calls(&policy).calls;
            return Box::pin(self.connect(&route, calls, exchange)).await;
        }
        let switches = upgrade::prepare(request.headers_mut()).is_some();
        self.add_host(&mut request);
        filter::outbound(&self.cx, &policy, &mut request, exchange.passed())?;
        let (called, own) = (route.port(), route.calls(&policy));
        let mut way = match own.routes.as_ref().filter(|_| !route.is_alone()) {
            None => Way::default(),
            Some(table) => Box::pin(table.take(&self.cx, called, &mut request, exchange)).await?,
        };
        if let Some(redirection) = way.redirection.take() {
            return Ok(redirection);
        }
        let route = way.service.take().map_or(route, Route::Service);
        exchange.to(route.facts(None));
        route.check(&policy, &request)?;
        let call = Call {
            route: &route,
            calls: &route.calls(&policy).calls,
            interim,
            chosen: RefCell::new(None),
            tries: RefCell::new(Tries::of(exchange.trace())),
            waited: Cell::default(),
        };
        let calls = way.calls(own);
        let timeout = calls.calls.timeout;
        let deadline = Deadline::of(request.headers(), timeout.request, exchange.start());
        let answer = retry::run(
            request,
            &self.cx.worker,
            (calls, deadline),
            exchange.attempts(),
            async |attempt| self.attempt(attempt, &call).await,
        );
        let answer = answer.await;
        exchange.tried(call.tries.into_inner());
        exchange.connected(call.waited.get());
        let picked: Option<Picked> = call.chosen.into_inner();
        exchange.to(route.facts(picked.as_ref()));
        let meshed = picked
            .as_ref()
            .is_some_and(|picked| picked.identity.is_some());
        exchange.picked(picked);
        let mut response = match answer {
            Ok(response) => response,
            Err(reject) => return self.fall_back(reject, &way, calls, exchange),
        };
        forward::clean_answer(&mut response, switches);
        strip_marks(response.headers_mut(), meshed);
        self.note_exhausted(&response, exchange);
        if let Some(deadline) = deadline.filter(|_| exchange.is_grpc()) {
            response.body_mut().until(deadline);
        }
        if let Some(idle) = timeout.idle {
            response.body_mut().idle(idle);
        }
        way.answer(&mut response);
        Ok(response)
    }

    /// Should our app fail because of this answer, its caller is not to try again.
    fn note_exhausted(&self, response: &Response<Body>, exchange: &Exchange) {
        let failed = response.status().is_server_error() || exchange.is_grpc();
        if failed && response.headers().contains_key(headers::EXHAUSTED) {
            let exhausted = self.cx.worker.policies.exhausted();
            exhausted.note(exchange.trace().trace_id, Instant::now());
        }
    }

    /// What policy answers in place of a service that was not there.
    fn fall_back(
        &self,
        reject: Reject,
        way: &Way<'_>,
        calls: &CallPolicy,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Reject> {
        if exchange.is_grpc() {
            return Err(reject);
        }
        let answer = way.fall_back(calls, reject).ok_or(reject)?;
        let metrics = self.cx.worker.telemetry.metrics();
        metrics.refused(Direction::Outbound, reject.label());
        exchange.fell_back(reject);
        Ok(answer)
    }

    /// The service a request is for.
    async fn route(&self, request: &Request<Body>) -> Result<Route, Reject> {
        if let Some(OrigDst(address)) = self.original {
            return self.route_address(address).await;
        }
        let called = request.headers().get(HOST);
        let now = Instant::now();
        if let Some(last) = &*self.last.borrow()
            && now < last.until
            && called == Some(&last.host)
        {
            return Ok(Route::Service(Arc::clone(&last.service)));
        }
        let service = Box::pin(self.look_up(request)).await?;
        if let Some(host) = called.cloned() {
            let last = LastCalled {
                host,
                service: Arc::clone(&service),
                until: now + REMEMBER,
            };
            *self.last.borrow_mut() = Some(last);
        }
        Ok(Route::Service(service))
    }

    async fn look_up(&self, request: &Request<Body>) -> Result<Arc<Destination>, Reject> {
        let (host, port) = named(request)?;
        let discovery = &self.cx.worker.discovery;
        let found = match discovery.known(&host, port) {
            Some(service) => Ok(service),
            None => {
                // Nor may its name be asked for.
                let policy = self.cx.worker.policies.current();
                egress::check_host(&policy.policy.egress, &host)?;
                discovery.by_name(&host, port).await
            }
        };
        found.map_err(|error| {
            debug!(%error, "no such service");
            Reject::UnknownService
        })
    }

    /// HTTP/1.0 may leave Host out; the next hop may not.
    fn add_host(&self, request: &mut Request<Body>) {
        if let (false, Some(OrigDst(address))) =
            (request.headers().contains_key(HOST), self.original)
            && let Ok(value) = HeaderValue::from_str(&address.to_string())
        {
            request.headers_mut().insert(HOST, value);
        }
    }

    /// One attempt, and what its span is to say.
    async fn attempt(&self, attempt: Attempt<'_>, call: &Call<'_>) -> Outcome {
        let head = call.tries.borrow_mut().begin(attempt.head);
        let attempt = Attempt {
            head: head.as_ref().unwrap_or(attempt.head),
            ..attempt
        };
        let outcome = self.send(attempt, call).await;
        call.tries
            .borrow_mut()
            .end(outcome.status(), outcome.failure());
        outcome
    }

    async fn send(&self, attempt: Attempt<'_>, call: &Call<'_>) -> Outcome {
        let picked = match call.route {
            Route::Outside(_) => None,
            Route::Service(service) => match self.pick(service, &attempt, call) {
                Some(picked) => Some(picked),
                None => return failed(nobody(service), None),
            },
        };
        if picked
            .as_ref()
            .is_some_and(|picked| self.is_ourselves(picked.dial()))
        {
            return failed(Reject::Loop, None);
        }
        if let Some(picked) = &picked {
            call.tries
                .borrow_mut()
                .to(picked.address, picked.identity.as_ref());
        }
        let lane = self.lane(call.route, picked.as_ref());
        lane.obey(pool::Rule {
            pool: call.calls.pool,
            connect: call.calls.timeout.connect,
        });
        let until = attempt.until;
        let told = until.map(|until| deadline::told(attempt.head, until, reader(picked.as_ref())));
        let attempt = Attempt {
            head: told.as_deref().unwrap_or(attempt.head),
            ..attempt
        };
        let sending = forward::send(&lane, attempt, call.interim, &self.cx.worker, &call.waited);
        let outcome = match deadline::by(until, pin!(sending)).await {
            Ok(sent) => judge(sent, picked.as_ref(), until),
            Err(whose) => late(whose, picked.as_ref()),
        };
        if let (Route::Service(service), Some(picked)) = (call.route, &picked) {
            self.learn(service, picked, &outcome, &call.calls.breaker);
        }
        *call.chosen.borrow_mut() = picked;
        outcome
    }

    /// Has the endpoint's breaker learn from an attempt.
    fn learn(&self, service: &Destination, picked: &Picked, outcome: &Outcome, rule: &Breaker) {
        if !rule.is_on() {
            return;
        }
        let changed = picked.learn(service, verdict::of(outcome, rule), rule);
        let Some(change) = changed else { return };
        let (to, endpoint) = (change.as_str(), picked.address);
        info!(service = %service.name.host, %endpoint, to, "circuit breaker");
        self.cx.worker.telemetry.metrics().breaker(to);
    }

    /// Without redirection a name can mean this very proxy, which would call itself without end.
    fn is_ourselves(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let own_port = self.cx.worker.settings.own_ports.contains(&address.port());
        own_port && (ip.is_loopback() || ip.is_unspecified() || ip == self.cx.facts.client.ip())
    }

    /// A stale connection is replaced at the same endpoint, everything else goes to another one first.
    fn pick(
        &self,
        service: &Destination,
        attempt: &Attempt<'_>,
        call: &Call<'_>,
    ) -> Option<Picked> {
        let again = call
            .chosen
            .borrow_mut()
            .take()
            .filter(|picked| attempt.fresh && !attempt.avoid.contains(&picked.id));
        let balance = &call.calls.balance;
        let client = self.cx.facts.client.ip();
        again.or_else(|| {
            let wish = Wish {
                balance,
                breaker: &call.calls.breaker,
                key: balance::hash::key(balance, &attempt.head.headers, client),
                avoid: attempt.avoid,
                now: Instant::now(),
            };
            balance::pick(service, &wish)
        })
    }

    /// CONNECT: the tunnel's far end (RFC 9110 section 9.3.6).
    async fn connect(
        &self,
        route: &Route,
        calls: &Calls,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Reject> {
        let how = (&calls.balance, &calls.breaker);
        let dialled = self.dial(route, Wrap::Mesh, how).await;
        let (io, (open, picked)) = dialled.map_err(|error| {
            debug!(%error, "tunnel has nowhere to go");
            error.reject()
        })?;
        exchange.to(route.facts(picked.as_ref()));
        exchange.picked(picked);
        let mut conn = Conn::new(io, BytesMut::new());
        conn.open = Some(open);
        let mut upgraded = Upgraded::new(conn);
        upgraded.idle = calls.timeout.idle;
        Ok(Response::new(Source::Upgraded(Box::new(upgraded)).into()))
    }
}

impl Service for Outbound {
    async fn call(&self, mut request: Request<Body>, interim: Interim) -> Response<Body> {
        let mut exchange = Exchange::begin(&self.cx, &mut request);
        let outcome = self.request(request, &interim, &mut exchange).await;
        exchange.answer(outcome)
    }

    fn refuse(&self, reject: Reject, caller: Caller) -> Response<Body> {
        let metrics = self.cx.worker.telemetry.metrics();
        match reject {
            Reject::Malformed(malformed) => metrics.malformed(malformed.label()),
            other => metrics.refused(Direction::Outbound, other.label()),
        }
        reject.response(caller)
    }
}

/// Whether opaque bytes get mesh TLS around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrap {
    /// Where the endpoint has an identity.
    Mesh,
    /// The app's own TLS passes untouched.
    Never,
}

impl Route {
    /// How it is to be called.
    fn calls<'a>(&self, policy: &'a Active) -> &'a CallPolicy {
        match self {
            Self::Service(service) => policy.calls(&service.name),
            Self::Outside(_) => policy.unnamed_calls(),
        }
    }

    /// Whether policy lets our app call it.
    fn check(&self, policy: &Active, request: &Request<Body>) -> Result<(), Reject> {
        let egress = &policy.policy.egress;
        match self {
            Self::Service(service) => egress::check_service(egress, service),
            Self::Outside(_) if *egress == Egress::Allow => Ok(()),
            Self::Outside(address) => {
                egress::check_address(egress, *address, egress::name_in(request.headers()))
            }
        }
    }

    /// One endpoint that was called by its own address: routes are of services.
    fn is_alone(&self) -> bool {
        matches!(self, Self::Service(service) if service.alone)
    }

    /// The port that was called.
    fn port(&self) -> u16 {
        match self {
            Self::Service(service) => service.name.port,
            Self::Outside(address) => address.port(),
        }
    }

    fn facts(&self, picked: Option<&Picked>) -> DestinationFacts {
        match self {
            Self::Service(service) => DestinationFacts {
                service: Arc::clone(&service.name),
                endpoint: picked.map(|picked| picked.address),
                peer: picked.and_then(|picked| picked.identity.clone()),
                secure: picked.is_some_and(|picked| picked.identity.is_some()),
            },
            Self::Outside(address) => DestinationFacts {
                service: Arc::new(outside(*address)),
                endpoint: Some(*address),
                peer: None,
                secure: false,
            },
        }
    }
}

/// What lies outside the mesh has one name in telemetry: addresses are not labels.
fn outside(address: SocketAddr) -> ServiceName {
    let name: Arc<str> = Arc::from("outside");
    ServiceName {
        name: Arc::clone(&name),
        namespace: Arc::from("unknown"),
        host: name,
        port: address.port(),
    }
}

/// The name and port that an explicit request names.
fn named(request: &Request<Body>) -> Result<(String, u16), Reject> {
    let authority = match (request.uri().authority(), request.headers().get(HOST)) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => Authority::try_from(host.as_bytes())
            .map_err(|_not_an_authority| Reject::Malformed(Malformed::HostInvalid))?,
        (None, None) => return Err(Reject::Malformed(Malformed::HostMissing)),
    };
    let port = authority.port_u16().unwrap_or(80);
    Ok((authority.host().to_owned(), port))
}

pub(crate) fn endpoint_target(service: &ServiceName, endpoint: &Arc<Endpoint>) -> Target {
    let expected = endpoint
        .identity
        .clone()
        .map(|identity| tls::connect::Expected {
            identity,
            server_name: tls::connect::server_name(&service.host, service.port),
        });
    Target {
        address: endpoint.dial(),
        inbound_leg: false,
        expected,
        endpoint: Some(Arc::clone(endpoint)),
    }
}

fn plain_target(address: SocketAddr) -> Target {
    Target {
        address,
        inbound_leg: false,
        expected: None,
        endpoint: None,
    }
}

/// Reads from an attempt's outcome what it says of the endpoint.
fn judge(sent: Sent, picked: Option<&Picked>, until: Option<Deadline>) -> Outcome {
    let endpoint = picked.map(|picked| picked.id);
    let now = Instant::now();
    match sent {
        Sent::NotConnected(error) => {
            debug!(%error, "attempt has no connection");
            if let Some(picked) = picked {
                picked.take_out(now, UNREACHABLE_FOR);
            }
            failed(error.reject(), endpoint)
        }
        Sent::Failed(failed) => Outcome::Failed(blamed(failed, picked)),
        Sent::Answer(answer) => match picked.filter(|picked| picked.identity.is_some()) {
            None => Outcome::Answer { answer, endpoint },
            Some(picked) => read_marks(answer, picked, now, until),
        },
    }
}

/// What is said of a try that took too long. Whether there is another one is for `retry` to say.
fn late(whose: Reject, picked: Option<&Picked>) -> Outcome {
    match whose {
        Reject::TryTimeout => Outcome::Failed(blamed(lost(whose), picked)),
        whose => Outcome::Final(whose),
    }
}

/// Why a service has nobody to ask.
fn nobody(service: &Destination) -> Reject {
    let endpoints = service.endpoints();
    let mut weighty = endpoints.iter().filter(|member| member.weight > 0);
    match weighty.any(|member| !member.endpoint.breaker.is_closed()) {
        true => Reject::BreakerOpen,
        false => Reject::NoEndpoint,
    }
}

/// Who reads what an attempt sends.
fn reader(picked: Option<&Picked>) -> Reader {
    match picked.is_some_and(|picked| picked.identity.is_some()) {
        true => Reader::Mesh,
        false => Reader::Stranger,
    }
}

/// Marks count only from an endpoint whose identity was verified.
fn read_marks(
    answer: Response<Body>,
    picked: &Picked,
    now: Instant,
    until: Option<Deadline>,
) -> Outcome {
    let endpoint = Some(picked.id);
    if !headers::has_any(answer.headers(), &headers::OF_THE_MESH) {
        return Outcome::Answer { answer, endpoint };
    }
    if answer.headers().contains_key(headers::DRAINING) {
        picked.take_out(now, DRAINING_FOR);
    }
    if answer.headers().contains_key(headers::UNPROCESSED) {
        picked.take_out(now, UNREACHABLE_FOR);
        return Outcome::HandedBack {
            answer,
            endpoint: picked.id,
        };
    }
    if let Some(until) = until.filter(|until| until.was_ours(answer.headers())) {
        return late(until.whose, Some(picked));
    }
    match broken_off(answer.headers()) {
        Some(reject) => Outcome::Failed(blamed(lost(reject), Some(picked))),
        None => Outcome::Answer { answer, endpoint },
    }
}

/// What the endpoint's proxy says of an app that did not answer is as if we had seen it ourselves.
fn broken_off(headers: &HeaderMap) -> Option<Reject> {
    let label = headers.get(headers::REJECT)?;
    [Reject::UpstreamReset, Reject::UpstreamClosed]
        .into_iter()
        .find(|reject| *label == reject.label())
}

fn lost(reject: Reject) -> Failed {
    Failed {
        reject,
        processed: Processed::Maybe,
        reused: false,
        endpoint: None,
    }
}

/// Notes a failure with the endpoint. A stale connection and a caller's own failure say nothing of it.
fn blamed(failed: Failed, picked: Option<&Picked>) -> Failed {
    if let Some(picked) = picked
        && !failed.reused
        && failed.reject != Reject::RequestBody
    {
        picked.observe(picked.elapsed(), balance::Outcome::Failed);
    }
    Failed {
        endpoint: picked.map(|picked| picked.id),
        ..failed
    }
}

fn strip_marks(map: &mut HeaderMap, meshed: bool) {
    if meshed {
        headers::remove_all(map, &headers::MARKS);
    } else {
        headers::strip_mesh(map);
    }
}

fn failed(reject: Reject, endpoint: Option<u64>) -> Outcome {
    Outcome::Failed(Failed {
        reject,
        processed: forward::UNSENT,
        reused: false,
        endpoint,
    })
}

/// How long an endpoint that could not be reached is passed over.
const UNREACHABLE_FOR: Duration = Duration::from_secs(2);
/// How long one that drains is passed over: longer than any drain, and discovery will have removed it.
const DRAINING_FOR: Duration = Duration::from_secs(60);
/// How long a connection takes a Host for the same service; its endpoints are always those of the moment.
const REMEMBER: Duration = Duration::from_millis(250);
/// Endpoints tried for one opaque connection.
const MAX_DIALS: usize = 4;
const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
