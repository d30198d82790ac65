//! The connections to an endpoint or an address: what is dialled, and what it must prove to be.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::Outbound;
use super::route::Route;
use crate::balance::Picked;
use crate::connect::Target;
use crate::discovery::endpoint::Endpoint;
use crate::discovery::service::ServiceName;
use crate::pool::{Key, Lane};
use crate::tls;

impl Outbound {
    pub(super) fn lane(&self, route: &Route, picked: Option<&Picked>) -> Rc<Lane> {
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

    /// Without redirection a name can mean this very proxy, which would call itself without end.
    pub(super) fn is_ourselves(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let own_port = self.cx.worker.settings.own_ports.contains(&address.port());
        own_port && (ip.is_loopback() || ip.is_unspecified() || ip == self.cx.facts.client.ip())
    }
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

pub(super) fn plain_target(address: SocketAddr) -> Target {
    Target {
        address,
        inbound_leg: false,
        expected: None,
        endpoint: None,
    }
}

const NOWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
