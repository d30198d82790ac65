//! From the control plane's words to services as the directory has them; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use weft_api::workload::{
    AppProtocol as Spoken, Port, PortList, Service, TunnelProtocol, Workload, WorkloadStatus,
};
use weft_policy::spiffe::{SpiffeId, TrustDomain};

use super::ip;
use super::session::Session;
use crate::discovery::endpoint;
use crate::discovery::file::declared::{DeclaredEndpoint, DeclaredService};
use crate::discovery::service::{AppProtocol, ServiceName};

/// What the words do not say.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) trust_domain: TrustDomain,
    pub(super) zone: Option<Arc<str>>,
}

/// Each port of each service, and each port of a workload that the app called without a service: `called`.
pub(super) fn services(
    session: &Session,
    called: &BTreeSet<SocketAddr>,
    place: &Place,
) -> Vec<DeclaredService> {
    let mut members: BTreeMap<&str, Vec<(&Workload, &PortList)>> = BTreeMap::new();
    for workload in session.workloads() {
        for (service, ports) in &workload.services {
            members.entry(service).or_default().push((workload, ports));
        }
    }
    let mut declared = Vec::new();
    for (name, service) in session.services() {
        let members = members.get(name).map_or(&[][..], Vec::as_slice);
        let ports = service.ports.iter();
        declared.extend(ports.filter_map(|port| of_service(service, port, members, place)));
    }
    for workload in session.workloads() {
        let ips = workload.addresses.iter().filter_map(|bytes| ip(bytes));
        let ips: Vec<_> = ips.collect();
        let called = called.iter().filter(|address| ips.contains(&address.ip()));
        declared.extend(called.filter_map(|address| of_workload(workload, *address, place)));
    }
    declared
}

fn of_service(
    service: &Service,
    port: &Port,
    members: &[(&Workload, &PortList)],
    place: &Place,
) -> Option<DeclaredService> {
    let number = u16::try_from(port.service_port)
        .ok()
        .filter(|port| *port > 0)?;
    let name = ServiceName {
        name: service.name.as_str().into(),
        namespace: service.namespace.as_str().into(),
        host: service.hostname.to_ascii_lowercase().into(),
        port: number,
    };
    let hinted = members.iter().all(|(_, ports)| !ports.zones.is_empty());
    let v4 = service
        .addresses
        .iter()
        .filter_map(|one| ip(&one.address))
        .next()
        .is_none_or(|ip| ip.is_ipv4());
    let endpoints = members.iter().filter_map(|(workload, ports)| {
        let target = ports
            .ports
            .iter()
            .find(|one| one.service_port == port.service_port)?;
        let target = u16::try_from(target.target_port)
            .ok()
            .filter(|port| *port > 0)?;
        let ips: Vec<_> = workload
            .addresses
            .iter()
            .filter_map(|bytes| ip(bytes))
            .collect();
        let ip = ips.iter().find(|ip| ip.is_ipv4() == v4).or(ips.first())?;
        let near = place.zone.as_deref().filter(|_| hinted);
        let near = near.map(|own| ports.zones.iter().any(|zone| zone == own));
        endpoint(workload, (*ip, target).into(), near, place)
    });
    Some(DeclaredService {
        protocol: protocol(port.app_protocol()),
        addresses: service
            .addresses
            .iter()
            .filter_map(|one| ip(&one.address))
            .collect(),
        endpoints: endpoints.collect(),
        name,
    })
}

/// A pod that is called by its own address, on a port of no service.
fn of_workload(workload: &Workload, address: SocketAddr, place: &Place) -> Option<DeclaredService> {
    let endpoint = endpoint(workload, address, None, place)?;
    let name = match workload.workload_name.as_str() {
        "" => workload.name.as_str(),
        name => name,
    };
    let name = ServiceName {
        name: name.into(),
        namespace: workload.namespace.as_str().into(),
        host: address.ip().to_string().into(),
        port: address.port(),
    };
    Some(DeclaredService {
        name,
        protocol: None,
        addresses: Vec::new(),
        endpoints: vec![endpoint],
    })
}

/// A workload whose identity cannot be read is left out: it can neither be verified nor is it outside the mesh.
fn endpoint(
    workload: &Workload,
    address: SocketAddr,
    near: Option<bool>,
    place: &Place,
) -> Option<DeclaredEndpoint> {
    let identity = match workload.tunnel_protocol() {
        TunnelProtocol::None => None,
        TunnelProtocol::Hbone | TunnelProtocol::LegacyIstioMtls => Some(identity(workload, place)?),
    };
    let zone = workload
        .locality
        .as_ref()
        .map(|locality| locality.zone.as_str());
    Some(DeclaredEndpoint {
        address,
        inbound: None,
        identity,
        workload: named(workload),
        weight: workload.capacity.unwrap_or(1).min(MAX_WEIGHT),
        priority: match workload.status() {
            WorkloadStatus::Healthy => 0,
            WorkloadStatus::Unhealthy => 1,
        },
        zone: zone.filter(|zone| !zone.is_empty()).map(Arc::from),
        near,
    })
}

/// For telemetry; what is not told is not known.
fn named(workload: &Workload) -> Option<Arc<endpoint::Workload>> {
    let named = endpoint::Workload {
        name: workload.workload_name.as_str().into(),
        namespace: workload.namespace.as_str().into(),
        app: match workload.canonical_name.as_str() {
            "" => workload.workload_name.as_str().into(),
            app => app.into(),
        },
        revision: match workload.canonical_revision.as_str() {
            "" => "latest".into(),
            revision => revision.into(),
        },
    };
    (!named.name.is_empty()).then(|| Arc::new(named))
}

fn identity(workload: &Workload, place: &Place) -> Option<SpiffeId> {
    let domain = match workload.trust_domain.as_str() {
        "" => place.trust_domain.clone(),
        domain => domain.parse().ok()?,
    };
    let account = match workload.service_account.as_str() {
        "" => "default",
        account => account,
    };
    SpiffeId::workload(&domain, &workload.namespace, account).ok()
}

fn protocol(spoken: Spoken) -> Option<AppProtocol> {
    match spoken {
        Spoken::Unknown => None,
        Spoken::Http11 => Some(AppProtocol::Http),
        Spoken::Http2 => Some(AppProtocol::Http2),
        Spoken::Grpc => Some(AppProtocol::Grpc),
        Spoken::Tcp => Some(AppProtocol::Tcp),
        Spoken::Tls => Some(AppProtocol::Tls),
    }
}

/// As in the services file.
const MAX_WEIGHT: u32 = 1_000_000;
