//! The services of the file, indexed by every spelling of their names and by address.
//!
//! A directory is a snapshot that never changes; an update makes the next one and carries over services and endpoints
//! that stay the same. What the file may contain is known in `file`.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::discovery::endpoint::{Endpoint, Endpoints, Member};
use crate::discovery::file::declared::{DeclaredEndpoint, DeclaredService};
use crate::discovery::mesh::touch;
use crate::discovery::name::Key;
use crate::discovery::service::Service;

#[derive(Debug, Default)]
pub(in crate::discovery) struct Directory {
    /// The proxy's own.
    zone: Option<Arc<str>>,
    services: Vec<Arc<Service>>,
    by_key: HashMap<Box<[u8]>, Arc<Service>>,
    by_address: HashMap<SocketAddr, Arc<Service>>,
}

impl Directory {
    /// An empty one, of a proxy that runs in `zone`.
    pub(in crate::discovery) fn in_zone(zone: Option<&str>) -> Self {
        Self {
            zone: zone.map(Arc::from),
            ..Self::default()
        }
    }

    /// The next directory. Services and endpoints that are the same in it are the same objects; endpoints that are not in
    /// it are retired.
    pub(in crate::discovery) fn updated(
        &self,
        declared: Vec<DeclaredService>,
        namespace: &str,
    ) -> Self {
        let before = self.endpoints();
        let mut next = Self::in_zone(self.zone.as_deref());
        for service in declared {
            next.add(self.carried_over(&service), &service, namespace);
        }
        next.add_endpoint_addresses();
        let kept: HashSet<u64> = next
            .endpoints()
            .iter()
            .map(|endpoint| endpoint.id)
            .collect();
        before
            .iter()
            .filter(|endpoint| !kept.contains(&endpoint.id))
            .for_each(|endpoint| endpoint.retire());
        next
    }

    pub(in crate::discovery) fn by_key(&self, key: &Key) -> Option<Arc<Service>> {
        self.by_key.get(key.as_bytes()).map(used)
    }

    pub(in crate::discovery) fn by_address(&self, address: SocketAddr) -> Option<Arc<Service>> {
        self.by_address.get(&address).map(used)
    }

    /// Everything that has an address.
    pub(in crate::discovery) fn by_addresses(
        &self,
    ) -> impl Iterator<Item = (&SocketAddr, &Arc<Service>)> {
        self.by_address.iter()
    }

    pub(in crate::discovery) fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// `declared` as a service, with what this directory has of it.
    fn carried_over(&self, declared: &DeclaredService) -> Arc<Service> {
        let before =
            Key::new(&declared.name.host, declared.name.port).and_then(|key| self.by_key(&key));
        let known = before.as_ref().map(|service| service.endpoints());
        let known = known.as_deref().map(|known| &**known);
        let endpoints = merged(known, &declared.endpoints, self.zone.as_deref());
        match before {
            Some(service) if service.protocol == declared.protocol => {
                service.set_endpoints(endpoints);
                service
            }
            _ => Arc::new(Service::new(
                Arc::new(declared.name.clone()),
                declared.protocol,
                endpoints,
            )),
        }
    }

    fn add(&mut self, service: Arc<Service>, declared: &DeclaredService, namespace: &str) {
        let port = service.name.port;
        for spelling in service.name.spellings(namespace) {
            if let Some(key) = Key::new(&spelling, port) {
                self.by_key
                    .insert(key.as_bytes().into(), Arc::clone(&service));
            }
        }
        for ip in &declared.addresses {
            self.by_address
                .insert((*ip, port).into(), Arc::clone(&service));
        }
        self.services.push(service);
    }

    /// Who connects to an endpoint's own address means that endpoint and no other.
    fn add_endpoint_addresses(&mut self) {
        for service in &self.services {
            for member in service.endpoints().iter() {
                let alone = || Arc::new(service.with_only(member));
                self.by_address
                    .entry(member.endpoint.address)
                    .or_insert_with(alone);
            }
        }
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let mut all = Vec::new();
        for service in &self.services {
            all.extend(
                service
                    .endpoints()
                    .iter()
                    .map(|member| Arc::clone(&member.endpoint)),
            );
        }
        all
    }
}

fn used(service: &Arc<Service>) -> Arc<Service> {
    touch(&service.used);
    Arc::clone(service)
}

/// `declared` as endpoints, with the objects that `before` has for them.
fn merged(
    before: Option<&Endpoints>,
    declared: &[DeclaredEndpoint],
    own_zone: Option<&str>,
) -> Endpoints {
    let known: HashMap<SocketAddr, &Arc<Endpoint>> = before
        .iter()
        .flat_map(|before| before.iter())
        .map(|member| (member.endpoint.address, &member.endpoint))
        .collect();
    let now = Instant::now();
    // Where nothing is known of zones, theirs or ours, all are near.
    let zoned = own_zone.filter(|_| declared.iter().any(|endpoint| endpoint.zone.is_some()));
    let members = declared.iter().map(|declared| {
        let same = known
            .get(&declared.address)
            .filter(|endpoint| declared.describes(endpoint));
        let endpoint = same.map_or_else(
            || Arc::new(declared.endpoint(now)),
            |endpoint| Arc::clone(endpoint),
        );
        Member {
            endpoint,
            weight: declared.weight,
            priority: declared.priority,
            zone: declared.zone.clone(),
            near: declared
                .near
                .unwrap_or_else(|| zoned.is_none_or(|own| declared.zone.as_deref() == Some(own))),
        }
    });
    Endpoints::new(members.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::file::declared::parse;

    fn directory(before: &Directory, text: &str) -> Directory {
        before.updated(parse(text, "default").unwrap(), "default")
    }

    fn by_name(directory: &Directory, host: &str) -> Option<Arc<Service>> {
        directory.by_key(&Key::new(host, 80).unwrap())
    }

    fn endpoints(service: &Service) -> Vec<Arc<Endpoint>> {
        service
            .endpoints()
            .iter()
            .map(|member| Arc::clone(&member.endpoint))
            .collect()
    }

    const SHOP: &str = "
services:
- {name: orders, port: 80, addresses: [10.96.0.1], endpoints: [{address: 10.0.0.1:8080}, {address: 10.0.0.2:8080}]}
- {name: users.shop, port: 80, protocol: grpc, endpoints: [{address: 10.0.0.3:8080, weight: 5}]}
";

    #[test]
    fn a_service_is_found_by_every_spelling_of_its_name() {
        let directory = directory(&Directory::default(), SHOP);
        let rows = [
            ("orders", Some("orders")),
            ("Orders.Default", Some("orders")),
            ("orders.default.svc", Some("orders")),
            ("orders.default.svc.cluster.local.", Some("orders")),
            ("orders.shop", None),
            ("users", None),
            ("users.shop", Some("users")),
            ("users.shop.svc.cluster.local", Some("users")),
        ];
        for (host, want) in rows {
            let got = by_name(&directory, host).map(|service| String::from(&*service.name.name));
            assert_eq!(got.as_deref(), want, "{host}");
        }
        assert!(
            directory.by_key(&Key::new("orders", 81).unwrap()).is_none(),
            "another port"
        );
    }

    #[test]
    fn an_address_names_the_service_or_one_endpoint() {
        let directory = directory(&Directory::default(), SHOP);
        let at = |address: &str| directory.by_address(address.parse().unwrap());
        let service = at("10.96.0.1:80").unwrap();
        assert_eq!(service.endpoints().len(), 2);
        let alone = at("10.0.0.2:8080").unwrap();
        assert_eq!(alone.name, service.name);
        assert_eq!(endpoints(&alone)[0].id, endpoints(&service)[1].id);
        assert_eq!(alone.endpoints().len(), 1);
        assert!(at("10.96.0.1:81").is_none());
        assert!(at("10.0.0.9:8080").is_none());
    }

    #[test]
    fn endpoints_and_services_that_stay_are_the_same_objects() {
        let first = directory(&Directory::default(), SHOP);
        let held = by_name(&first, "orders").unwrap();
        let before = endpoints(&held);
        let second = directory(
            &first,
            "
services:
- name: orders
  port: 80
  endpoints:
  - {address: 10.0.0.2:8080, weight: 7}
  - {address: 10.0.0.4:8080}
  - {address: 10.0.0.1:8080, identity: spiffe://cluster.local/ns/default/sa/orders}
",
        );
        let after = endpoints(&held);
        assert!(
            Arc::ptr_eq(&held, &by_name(&second, "orders").unwrap()),
            "a held service sees the update"
        );
        assert_eq!(after[0].id, before[1].id);
        assert!(before[0].retired(), "another identity is another endpoint");
        assert!(!before[1].retired());
        assert_eq!(
            held.endpoints()
                .iter()
                .map(|member| member.weight)
                .collect::<Vec<_>>(),
            [7, 1, 1]
        );
        assert!(by_name(&second, "users.shop").is_none());
        assert!(endpoints(&by_name(&first, "users.shop").unwrap())[0].retired());
        assert!(second.by_address("10.96.0.1:80".parse().unwrap()).is_none());
    }

    #[test]
    fn another_protocol_is_another_service_with_the_same_endpoints() {
        let first = directory(&Directory::default(), SHOP);
        let held = by_name(&first, "users.shop").unwrap();
        let second = directory(&first, &SHOP.replace("grpc", "http2"));
        let next = by_name(&second, "users.shop").unwrap();
        assert!(!Arc::ptr_eq(&held, &next));
        assert_eq!(endpoints(&held)[0].id, endpoints(&next)[0].id);
        assert!(!endpoints(&next)[0].retired());
    }
}
