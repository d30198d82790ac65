//! Opaque connections and CONNECT tunnels: one connection to an endpoint for one from the app.
//!
//! Comes after `detect`, or after a request that asks for a tunnel. Bytes are moved by `forward` and `http/upgrade`.

use bytes::BytesMut;
use http::{HeaderMap, Response};
use tokio::time::Instant;
use tracing::debug;
use weft_policy::Calls;
use weft_policy::balance::Balance;
use weft_policy::breaker::Breaker;
use weft_policy::egress::Egress;

use super::Outbound;
use super::lane::plain_target;
use super::route::Route;
use super::verdict::UNREACHABLE_FOR;
use crate::balance::{self, Picked, Wish};
use crate::connect::ConnectError;
use crate::detect::Protocol;
use crate::egress;
use crate::exchange::Exchange;
use crate::forward::{self, Early};
use crate::http::body::{Body, Source};
use crate::http::h1::conn::Conn;
use crate::http::upgrade::Upgraded;
use crate::io::{self, Io};
use crate::orig_dst::OrigDst;
use crate::pool::{Key, Open};
use crate::reject::Reject;
use crate::telemetry::record::Direction;
use crate::tls::{self, Speaks};

/// Whether opaque bytes get mesh TLS around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrap {
    /// Where the endpoint has an identity.
    Mesh,
    /// The app's own TLS passes untouched.
    Never,
}

impl Outbound {
    /// Opaque bytes go where they were meant to go; without redirection nobody knows where that is. Gives back what turns
    /// out to be HTTP.
    pub(super) async fn tcp(&self, io: Io, protocol: Protocol) -> Option<(Io, Speaks)> {
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

    /// CONNECT: the tunnel's far end (RFC 9110 section 9.3.6).
    pub(super) async fn connect(
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

/// Endpoints tried for one opaque connection.
const MAX_DIALS: usize = 4;
