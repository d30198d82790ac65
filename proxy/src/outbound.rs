//! From the app to the mesh: HTTP or TCP, filters, then an endpoint of the service, over mTLS where it has an identity.
//!
//! With redirection the original destination alone names the service; without it Host, `:authority` or the CONNECT target
//! does (ARCHITECTURE.md, decisions 3 and 10).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::BytesMut;
use http::{Method, Request, Response};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tracing::debug;

use self::attempt::Call;
use self::route::{LastCalled, Route};
use crate::balance::Picked;
use crate::connect;
use crate::cx::{Cx, Worker};
use crate::deadline::Deadline;
use crate::detect::{self, Patience, Protocol};
use crate::drain::Lifetime;
use crate::exchange::Exchange;
use crate::filter;
use crate::forward;
use crate::http::body::Body;
use crate::http::h1;
use crate::http::h1::conn::Conn;
use crate::http::h1::server::Service;
use crate::http::headers;
use crate::http::interim::Interim;
use crate::http::{h2, upgrade};
use crate::io::Io;
use crate::orig_dst::{OrigDst, orig_dst};
use crate::policy::calls::CallPolicy;
use crate::reject::{Caller, Reject};
use crate::retry;
use crate::route::Way;
use crate::telemetry::record::{ConnectionFacts, Direction};
use crate::telemetry::tries::Tries;
use crate::tls::Speaks;

mod attempt;
pub(crate) mod lane;
mod route;
mod tcp;
mod verdict;

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
                forward::log_http2_end(Direction::Outbound, &worker, served.err());
            }
            Speaks::Opaque => {}
        }
    }

    /// One request: filters, route, then attempts until one answers or nothing more may be tried.
    async fn request(
        &self,
        mut request: Request<Body>,
        interim: &Interim,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Reject> {
        let route = self.route(&request, exchange.start()).await?;
        // Who is called for the first time has told us just now how.
        let policy = self.cx.worker.policies.current();
        exchange.to(route.facts(None));
        // With redirection it is said to a proxy of the app's own choice, which gets it as any other request.
        if *request.method() == Method::CONNECT && self.original.is_none() {
            route.check(&policy, &request)?;
            let calls = &route.calls(&policy).calls;
            return Box::pin(self.connect(&route, calls, exchange)).await;
        }
        let switches = upgrade::prepare(request.headers_mut()).is_some();
        if let Some(OrigDst(address)) = self.original {
            headers::add_host(request.headers_mut(), address);
        }
        filter::outbound(&self.cx, &policy, &mut request, exchange.passed())?;
        let (called, own) = (route.port(), route.calls(&policy));
        let mut way = match own.routes.as_ref().filter(|_| !route.is_alone()) {
            None => Way::default(),
            Some(table) => Box::pin(table.take(&self.cx, called, &mut request, exchange)).await?,
        };
        if let Some(redirection) = way.redirection.take() {
            return Ok(redirection);
        }
        let (route, to) = match way.service.take().map(Route::Service) {
            Some(route) => {
                let to = route.calls(&policy);
                (route, to)
            }
            None => (route, own),
        };
        exchange.to(route.facts(None));
        route.check(&policy, &request)?;
        let call = Call {
            route: &route,
            calls: &to.calls,
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
            (calls, deadline, route.returns()),
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
        verdict::strip_marks(response.headers_mut(), meshed);
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

    fn stalled(&self) {
        let metrics = self.cx.worker.telemetry.metrics();
        metrics.refused(Direction::Outbound, "idle");
    }
}
