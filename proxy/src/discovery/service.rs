//! A service: its name, what it speaks, and its endpoints of the moment.
//!
//! Made by the services file, the control plane and DNS alike; `balance` chooses among the endpoints.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::{ArcSwap, Guard};

use super::endpoint::{Endpoints, Member};

/// A name that can be called, and the endpoints behind it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Arc<ServiceName>,
    /// What is spoken there, if the operator said so.
    pub(crate) protocol: Option<AppProtocol>,
    /// Named by the services file, not only by DNS.
    pub(crate) in_mesh: bool,
    /// Turns that were taken, for those who take turns.
    pub(crate) turns: AtomicU64,
    /// One endpoint that was called by its own address: nothing may lead elsewhere.
    pub(crate) alone: bool,
    /// Since the control plane's part of it last looked.
    pub(super) used: AtomicBool,
    /// How often breakers of its endpoints opened since all were closed; 0 while all are.
    pub(crate) tripped: AtomicU64,
    endpoints: ArcSwap<Endpoints>,
}

impl Service {
    pub(crate) fn new(
        name: Arc<ServiceName>,
        protocol: Option<AppProtocol>,
        endpoints: Endpoints,
    ) -> Self {
        Self {
            name,
            protocol,
            in_mesh: true,
            turns: AtomicU64::new(0),
            alone: false,
            used: AtomicBool::new(true),
            tripped: AtomicU64::new(0),
            endpoints: ArcSwap::from_pointee(endpoints),
        }
    }

    /// A host that only DNS knows, without endpoints yet.
    pub(super) fn outside(name: Arc<ServiceName>) -> Self {
        Self {
            in_mesh: false,
            ..Self::new(name, None, Endpoints::default())
        }
    }

    /// The endpoints at this moment, without a lock; not to be held across an `await`.
    pub(crate) fn endpoints(&self) -> Guard<Arc<Endpoints>> {
        self.endpoints.load()
    }

    /// The service as if `member` were all of it.
    pub(super) fn with_only(&self, member: &Member) -> Self {
        let only = Endpoints::new(vec![member.clone()]);
        Self {
            alone: true,
            used: AtomicBool::new(false),
            ..Self::new(Arc::clone(&self.name), self.protocol, only)
        }
    }

    /// Replaces the endpoints; those that are gone from the service are retired by the caller.
    pub(crate) fn set_endpoints(&self, endpoints: Endpoints) {
        self.endpoints.store(Arc::new(endpoints));
    }
}

/// A service as telemetry, TLS (SNI) and policy name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServiceName {
    /// First part of the name, such as `orders`; the whole host for a name outside of any namespace.
    pub(crate) name: Arc<str>,
    /// `unknown` for a name outside of any namespace.
    pub(crate) namespace: Arc<str>,
    /// `orders.shop.svc.cluster.local`, or the host as it was called; lower-case, without a trailing dot.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// What an application speaks on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AppProtocol {
    /// HTTP/1 or HTTP/2, told apart by the first bytes.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Bytes nobody looks at.
    Tcp,
    /// The application's own TLS, passed through.
    Tls,
}

impl FromStr for AppProtocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            "http" => Ok(Self::Http),
            "http2" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            "tcp" => Ok(Self::Tcp),
            "tls" => Ok(Self::Tls),
            _ => Err(UnknownProtocol),
        }
    }
}

/// A protocol that we have no name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is none of http, http2, grpc, tcp, tls")]
pub(crate) struct UnknownProtocol;
