//! Services and workloads as `istio.workload.Address`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use weft_api::workload::load_balancing::{Mode, Scope};
use weft_api::workload::{
    Address, AppProtocol, LoadBalancing, Locality, NetworkAddress, NetworkMode, Port, PortList,
    Service, TunnelProtocol, Workload, WorkloadStatus, WorkloadType, address,
};

use super::{Model, alias, octets};
use crate::board::{Board, Entry, Kind};
use crate::cluster::{Condition, Key, OwnerRef, Pod, Slice, SliceEndpoint};

impl Model {
    /// A service; `None` if there is none, or its name is one of somewhere else.
    pub(super) fn address_of_service(&self, key: &Key) -> Option<Entry> {
        let service = self.services.get(key).filter(|service| !service.external)?;
        let ports = service.ports.iter().map(|port| Port {
            service_port: port.port.into(),
            target_port: 0,
            app_protocol: port.protocol.into(),
        });
        let network = |ip| NetworkAddress {
            network: String::new(),
            address: octets(ip),
        };
        let message = Service {
            name: key.name.as_ref().to_owned(),
            namespace: key.namespace.as_ref().to_owned(),
            hostname: self.names.host(key),
            addresses: service.addresses.iter().map(network).collect(),
            ports: ports.collect(),
            load_balancing: service.same_zone.then(|| LoadBalancing {
                routing_preference: vec![Scope::Zone.into()],
                mode: Mode::Failover.into(),
            }),
            ..Service::default()
        };
        let aliases = service.addresses.iter().map(alias).collect();
        let address = Address {
            r#type: Some(address::Type::Service(message)),
        };
        Some(Entry {
            aliases,
            ..Entry::new(self.names.service(key).into(), address.encode_to_vec())
        })
    }

    /// A pod; `None` if it has no address (any more).
    pub(super) fn address_of_pod(&self, key: &Key) -> Option<Entry> {
        let pod = self
            .pods
            .get(key)
            .filter(|pod| !pod.over && !pod.addresses.is_empty())?;
        let part = self.part_in_services(key);
        let (workload_type, workload_name) = self.made_by(key, pod);
        let name = self.names.pod(key);
        let message = Workload {
            uid: name.clone(),
            name: key.name.as_ref().to_owned(),
            namespace: key.namespace.as_ref().to_owned(),
            addresses: pod.addresses.iter().map(octets).collect(),
            tunnel_protocol: match pod.meshed {
                true => TunnelProtocol::LegacyIstioMtls.into(),
                false => TunnelProtocol::None.into(),
            },
            trust_domain: self.names.trust_domain.to_string(),
            service_account: pod.account.clone(),
            node: pod.node.clone(),
            canonical_name: pod.canonical_name.clone(),
            canonical_revision: pod.canonical_revision.clone(),
            workload_type: workload_type.into(),
            workload_name,
            services: part.services,
            status: part.status.into(),
            cluster_id: CLUSTER.to_owned(),
            locality: part.zone.map(locality),
            network_mode: match pod.host_network {
                true => NetworkMode::HostNetwork.into(),
                false => NetworkMode::Standard.into(),
            },
            ..Workload::default()
        };
        let aliases = pod
            .addresses
            .iter()
            .filter(|_| !pod.host_network)
            .map(alias);
        Some(Entry {
            aliases: aliases.collect(),
            ..workload(name.into(), message)
        })
    }

    /// Addresses of services that are no pods: those of the API server, or of machines elsewhere.
    pub(super) fn put_bare_addresses(&mut self, key: &Key, board: &mut Board) {
        let entries = self.bare_addresses(key);
        let now: BTreeSet<Arc<str>> = entries.iter().map(|entry| Arc::clone(&entry.key)).collect();
        let before = self.index.bare.remove(key).unwrap_or_default();
        for name in before.difference(&now) {
            board.take(Kind::Address, name);
        }
        for entry in entries {
            board.put(Kind::Address, entry);
        }
        if !now.is_empty() {
            self.index.bare.insert(key.clone(), now);
        }
    }

    fn bare_addresses(&self, key: &Key) -> Vec<Entry> {
        let Some(slice) = self.slices.get(key) else {
            return Vec::new();
        };
        let bare = slice.endpoints.iter().filter(|one| one.pod.is_none());
        let addresses = bare.flat_map(|one| one.addresses.iter().map(move |ip| (one, ip)));
        let entries = addresses.filter_map(|(one, ip)| {
            let (service, ports) = self.ports(slice, one)?;
            let name = format!("Kubernetes/discovery.k8s.io/EndpointSlice/{key}/{ip}");
            let message = Workload {
                uid: name.clone(),
                name: ip.to_string(),
                namespace: key.namespace.as_ref().to_owned(),
                addresses: vec![octets(ip)],
                services: BTreeMap::from([(service, ports)]),
                status: status(one.condition).into(),
                locality: one.zone.clone().map(locality),
                // Others may have the address too, so that it names nobody.
                network_mode: NetworkMode::HostNetwork.into(),
                ..Workload::default()
            };
            Some(workload(name.into(), message))
        });
        entries.collect()
    }

    /// A pod's part in all services.
    fn part_in_services(&self, key: &Key) -> Part {
        let mut part = Part::default();
        for slice in self.index.slices_with.get(key).into_iter().flatten() {
            let Some(slice) = self.slices.get(slice) else {
                continue;
            };
            let own = slice
                .endpoints
                .iter()
                .filter(|one| one.pod.as_ref() == Some(key));
            for one in own {
                part.zone = part.zone.or_else(|| one.zone.clone());
                if let Some((service, ports)) = self.ports(slice, one) {
                    if one.condition == Condition::Ending {
                        part.status = WorkloadStatus::Unhealthy;
                    }
                    part.services.insert(service, ports);
                }
            }
        }
        part
    }

    /// The ports under which an endpoint is part of its service now, and that service's name.
    fn ports(&self, slice: &Slice, one: &SliceEndpoint) -> Option<(String, PortList)> {
        let service = self
            .services
            .get(&slice.service)
            .filter(|service| !service.external)?;
        if one.condition == Condition::Unready {
            return None;
        }
        let ports = service.ports.iter().filter_map(|port| {
            let (_, target) = slice.ports.iter().find(|(name, _)| *name == port.name)?;
            Some(Port {
                service_port: port.port.into(),
                target_port: (*target).into(),
                app_protocol: AppProtocol::Unknown.into(),
            })
        });
        let ports = PortList {
            ports: ports.collect(),
            zones: one.hints.clone(),
        };
        Some((self.names.service(&slice.service), ports))
    }

    /// The Deployment of a ReplicaSet, the CronJob of a Job.
    pub(super) fn top_owner<'a>(&'a self, owner: &'a OwnerRef) -> &'a OwnerRef {
        let above = self
            .owners
            .get(owner)
            .and_then(|owner| owner.owner.as_ref());
        above.unwrap_or(owner)
    }

    fn made_by(&self, key: &Key, pod: &Pod) -> (WorkloadType, String) {
        let owner = pod.owner.as_ref().map(|owner| self.top_owner(owner));
        let Some(OwnerRef { kind, key }) = owner else {
            return (WorkloadType::Pod, key.name.as_ref().to_owned());
        };
        let kind = match &**kind {
            "Job" => WorkloadType::Job,
            "CronJob" => WorkloadType::Cronjob,
            _ => WorkloadType::Deployment,
        };
        (kind, key.name.as_ref().to_owned())
    }
}

#[derive(Default)]
struct Part {
    services: BTreeMap<String, PortList>,
    status: WorkloadStatus,
    zone: Option<String>,
}

fn workload(name: Arc<str>, message: Workload) -> Entry {
    let services = message
        .services
        .keys()
        .map(|name| name.as_str().into())
        .collect();
    let address = Address {
        r#type: Some(address::Type::Workload(message)),
    };
    Entry {
        services,
        ..Entry::new(name, address.encode_to_vec())
    }
}

fn locality(zone: String) -> Locality {
    Locality {
        zone,
        ..Locality::default()
    }
}

fn status(condition: Condition) -> WorkloadStatus {
    match condition {
        Condition::Ready => WorkloadStatus::Healthy,
        Condition::Ending | Condition::Unready => WorkloadStatus::Unhealthy,
    }
}

/// As Istio calls a cluster that has no other name.
const CLUSTER: &str = "Kubernetes";
