//! A resource of the control plane as it is sent, and what is in it.

use prost::Message;
use weft_api::ads::{Payload, Resource};
use weft_api::weft::{InboundPolicy, Layer, RoutePolicy};
use weft_api::workload::{Address, NetworkMode, Service, Workload, address};
use weft_api::{ADDRESS, INBOUND_POLICY, ROUTE_POLICY};

/// A type of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Address,
    RoutePolicy,
    InboundPolicy,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::InboundPolicy, Self::Address, Self::RoutePolicy];

    pub(super) fn url(self) -> &'static str {
        match self {
            Self::Address => ADDRESS,
            Self::RoutePolicy => ROUTE_POLICY,
            Self::InboundPolicy => INBOUND_POLICY,
        }
    }

    pub(super) fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// What a resource says.
pub(super) enum Read {
    Address(Box<Address>),
    Layers(Vec<Layer>),
}

/// Name, version and content.
pub(super) fn read(kind: Kind, one: &Resource) -> Result<(String, String, Read), String> {
    let Resource {
        name,
        version,
        resource,
        ..
    } = one;
    let payload = resource
        .as_ref()
        .map(|payload| payload.value.clone())
        .unwrap_or_default();
    let wrong = |error: prost::DecodeError| format!("{name}: {error}");
    let content = match kind {
        Kind::Address => Read::Address(Box::new(Address::decode(payload).map_err(wrong)?)),
        Kind::RoutePolicy => Read::Layers(RoutePolicy::decode(payload).map_err(wrong)?.layers),
        Kind::InboundPolicy => Read::Layers(InboundPolicy::decode(payload).map_err(wrong)?.layers),
    };
    Ok((name.clone(), version.clone(), content))
}

pub(super) fn resource(kind: Kind, name: &str, version: &str, value: Vec<u8>) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        aliases: Vec::new(),
        resource: Some(Payload {
            type_url: kind.url().to_owned(),
            value: value.into(),
        }),
    }
}

pub(super) fn service(address: &Address) -> Option<&Service> {
    match &address.r#type {
        Some(address::Type::Service(service)) => Some(service),
        Some(address::Type::Workload(_)) | None => None,
    }
}

pub(super) fn workload(address: &Address) -> Option<&Workload> {
    match &address.r#type {
        Some(address::Type::Workload(workload)) => Some(workload),
        Some(address::Type::Service(_)) | None => None,
    }
}

/// `/10.0.0.1` for each address; the address of a node is not that of a workload on it.
pub(super) fn aliases(address: &Address) -> impl Iterator<Item = String> {
    let of_service = service(address)
        .into_iter()
        .flat_map(|service| &service.addresses);
    let of_service =
        of_service.filter_map(|one| Some((one.network.as_str(), super::ip(&one.address)?)));
    let of_workload = workload(address).filter(|one| one.network_mode() == NetworkMode::Standard);
    let of_workload = of_workload.into_iter().flat_map(|workload| {
        let ips = workload
            .addresses
            .iter()
            .filter_map(|bytes| super::ip(bytes));
        ips.map(|ip| (workload.network.as_str(), ip))
    });
    of_service
        .chain(of_workload)
        .map(|(network, ip)| format!("{network}/{ip}"))
}
