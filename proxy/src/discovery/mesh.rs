//! What the control plane has told, as workers see it; a snapshot.
//!
//! Beside services it knows which addresses were asked for and belong to nobody in the mesh, so that each is asked for once.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::discovery::directory::Directory;
use crate::discovery::file::declared::DeclaredService;
use crate::discovery::name::Key;
use crate::discovery::service::Service;

/// The snapshot.
#[derive(Debug, Default)]
pub(in crate::discovery) struct Mesh {
    directory: Directory,
    /// Virtual addresses of services: a port that is not among the service's is no reason to ask.
    virtual_ips: HashSet<IpAddr>,
    /// Addresses of nobody in the mesh; set when it was used since the last sweep.
    outside: HashMap<IpAddr, AtomicBool>,
}

/// What is behind an address.
#[derive(Debug)]
pub(in crate::discovery) enum Behind {
    Service(Arc<Service>),
    /// Nobody in the mesh.
    Nobody,
    /// Only the control plane can tell.
    Unasked,
}

impl Mesh {
    /// An empty one, of a proxy that runs in `zone`.
    pub(in crate::discovery) fn in_zone(zone: Option<&str>) -> Self {
        Self {
            directory: Directory::in_zone(zone),
            ..Self::default()
        }
    }

    /// The next snapshot; what stays the same are the same objects.
    pub(in crate::discovery) fn updated(
        &self,
        services: Vec<DeclaredService>,
        outside: impl Iterator<Item = IpAddr>,
        namespace: &str,
    ) -> Self {
        let used = |ip: &IpAddr| {
            self.outside
                .get(ip)
                .is_none_or(|used| used.load(Ordering::Relaxed))
        };
        Self {
            virtual_ips: services
                .iter()
                .flat_map(|service| service.addresses.iter().copied())
                .collect(),
            outside: outside.map(|ip| (ip, AtomicBool::new(used(&ip)))).collect(),
            directory: self.directory.updated(services, namespace),
        }
    }

    pub(in crate::discovery) fn behind(&self, address: SocketAddr) -> Behind {
        if let Some(service) = self.directory.by_address(address) {
            return Behind::Service(service);
        }
        if let Some(used) = self.outside.get(&address.ip()) {
            touch(used);
            return Behind::Nobody;
        }
        match self.virtual_ips.contains(&address.ip()) {
            true => Behind::Nobody,
            false => Behind::Unasked,
        }
    }

    pub(in crate::discovery) fn by_key(&self, key: &Key) -> Option<Arc<Service>> {
        self.directory.by_key(key)
    }

    pub(in crate::discovery) fn services(&self) -> &[Arc<Service>] {
        self.directory.services()
    }

    /// The names of what was used since the last call: `shop/orders.shop.svc.cluster.local`, `/10.0.0.1`.
    pub(in crate::discovery) fn take_used(&self) -> HashSet<String> {
        let taken = |used: &AtomicBool| used.swap(false, Ordering::Relaxed);
        let named = self
            .directory
            .services()
            .iter()
            .filter(|service| taken(&service.used));
        let mut names: HashSet<String> = named.map(|service| resource(service)).collect();
        for (address, service) in self.directory.by_addresses() {
            if taken(&service.used) || names.contains(&resource(service)) {
                names.insert(resource(service));
                names.insert(format!("/{}", address.ip()));
            }
        }
        let outside = self.outside.iter().filter(|(_, used)| taken(used));
        names.extend(outside.map(|(ip, _)| format!("/{ip}")));
        names
    }
}

/// The name of a service in the control plane.
fn resource(service: &Service) -> String {
    format!("{}/{}", service.name.namespace, service.name.host)
}

/// Set mostly already; a store each time would move the cache line between the workers.
pub(in crate::discovery) fn touch(used: &AtomicBool) {
    if !used.load(Ordering::Relaxed) {
        used.store(true, Ordering::Relaxed);
    }
}
