//! Whom a connection or a request calls: a service of discovery, or an address outside of the mesh.
//!
//! Comes before the filters; `crate::route` may lead a request to another service afterwards. Whether policy lets our app call it
//! is asked here, how it is reached is said in `lane`.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderValue, Request};
use tokio::time::{Duration, Instant};
use tracing::debug;
use weft_policy::egress::Egress;

use super::Outbound;
use crate::balance::Picked;
use crate::discovery::service::{Service as Destination, ServiceName};
use crate::egress;
use crate::http::body::Body;
use crate::http::malformed::Malformed;
use crate::orig_dst::OrigDst;
use crate::policy::Active;
use crate::policy::calls::CallPolicy;
use crate::reject::Reject;
use crate::retry::Returns;
use crate::telemetry::record::DestinationFacts;

/// Where a request goes.
pub(super) enum Route {
    /// To an endpoint of a known service.
    Service(Arc<Destination>),
    /// To an address outside the mesh, as the app dialled it.
    Outside(SocketAddr),
}

/// The service that a Host meant a moment ago.
pub(super) struct LastCalled {
    host: HeaderValue,
    service: Arc<Destination>,
    until: Instant,
}

impl Outbound {
    /// The service a request is for.
    pub(super) async fn route(
        &self,
        request: &Request<Body>,
        now: Instant,
    ) -> Result<Route, Reject> {
        if let Some(OrigDst(address)) = self.original {
            return self.route_address(address).await;
        }
        let called = request.headers().get(HOST);
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

    pub(super) async fn route_address(&self, address: SocketAddr) -> Result<Route, Reject> {
        match self.cx.worker.discovery.at(address).await {
            Ok(Some(service)) => Ok(Route::Service(service)),
            Ok(None) => Ok(Route::Outside(address)),
            Err(error) => {
                debug!(%error, "nobody knows who is there");
                Err(Reject::DiscoveryAway)
            }
        }
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
}

impl Route {
    /// How it is to be called.
    pub(super) fn calls<'a>(&self, policy: &'a Active) -> &'a CallPolicy {
        match self {
            Self::Service(service) => policy.calls(&service.name),
            Self::Outside(_) => policy.unnamed_calls(),
        }
    }

    /// Refuses what policy does not let our app call.
    pub(super) fn check(&self, policy: &Active, request: &Request<Body>) -> Result<(), Reject> {
        let egress = &policy.policy.egress;
        match self {
            Self::Service(service) => egress::check_service(egress, service),
            Self::Outside(_) if *egress == Egress::Allow => Ok(()),
            Self::Outside(address) => {
                egress::check_address(egress, *address, egress::name_in(request.headers()))
            }
        }
    }

    /// Whether whoever is called may hand a request back: proxies of the mesh do.
    pub(super) fn returns(&self) -> Returns {
        match self {
            Self::Service(service) if service.in_mesh => Returns::Possible,
            Self::Service(_) | Self::Outside(_) => Returns::Never,
        }
    }

    /// One endpoint that was called by its own address: routes are of services.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self, Self::Service(service) if service.alone)
    }

    /// The port that was called.
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Service(service) => service.name.port,
            Self::Outside(address) => address.port(),
        }
    }

    pub(super) fn facts(&self, picked: Option<&Picked>) -> DestinationFacts {
        match self {
            Self::Service(service) => DestinationFacts {
                service: Arc::clone(&service.name),
                endpoint: picked.map(|picked| picked.address),
                peer: picked.and_then(|picked| picked.identity.clone()),
                workload: picked.and_then(|picked| picked.workload.clone()),
                secure: picked.is_some_and(|picked| picked.identity.is_some()),
            },
            Self::Outside(address) => DestinationFacts {
                service: Arc::new(outside(*address)),
                endpoint: Some(*address),
                peer: None,
                workload: None,
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

/// How long a connection takes a Host for the same service; its endpoints are always those of the moment.
const REMEMBER: Duration = Duration::from_millis(250);
