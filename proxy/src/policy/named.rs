//! How services are called, found by the name that an operator gave them.
//!
//! `orders` in our namespace is found for every spelling of it, also where only DNS knows it; `orders:8080` is that port alone,
//! and more exact than `orders`. A lookup is one hash of the service's host, and none where nothing is named.

use std::collections::{BTreeMap, HashMap};

use weft_policy::Calls;
use weft_policy::route::ServiceRef;

use super::calls::{self, CallPolicy};
use crate::discovery::service::ServiceName;

/// The services that policy names.
#[derive(Default)]
pub(crate) struct Named {
    calls: Vec<CallPolicy>,
    /// What is said of a host: of one of its ports, or of all (`None`).
    by_host: HashMap<Box<str>, Vec<(Option<u16>, usize)>>,
}

impl Named {
    /// Makes `to` ready; `namespace` is our own.
    pub(crate) fn new(
        to: &BTreeMap<ServiceRef, Calls>,
        namespace: &str,
        kept: &calls::Kept,
    ) -> Self {
        let mut named = Self::default();
        for (service, calls) in to {
            let index = named.calls.len();
            let calls = CallPolicy::new(calls.clone(), Some(service), namespace, kept);
            named.calls.push(calls);
            let port = service.port.map(std::num::NonZeroU16::get);
            for host in spellings(service, namespace) {
                let said = named.by_host.entry(host.into()).or_default();
                said.retain(|(known, _)| *known != port);
                said.push((port, index));
            }
        }
        named
    }

    /// How `service` is called, if policy names it.
    pub(crate) fn get(&self, service: &ServiceName) -> Option<&CallPolicy> {
        if self.calls.is_empty() {
            return None;
        }
        let said = self.by_host.get(&*service.host)?;
        let of = |wanted: Option<u16>| said.iter().find(|(port, _)| *port == wanted);
        let (_, index) = of(Some(service.port)).or_else(|| of(None))?;
        self.calls.get(*index)
    }
}

/// The hosts by which discovery may know `service`.
fn spellings(service: &ServiceRef, own: &str) -> Vec<String> {
    let name = service.name.to_ascii_lowercase();
    let Some(namespace) = service.namespace.as_deref() else {
        return vec![name];
    };
    let mut hosts = vec![
        format!("{name}.{namespace}.svc.cluster.local"),
        format!("{name}.{namespace}"),
    ];
    if namespace == own {
        hosts.push(name);
    }
    hosts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn named(names: &[(&str, u64)]) -> Named {
        let to = names.iter().map(|(name, seconds)| {
            let mut calls = Calls::default();
            calls.timeout.request = Some(Duration::from_secs(*seconds));
            let (name, port) = name.split_once(':').unwrap_or((name, "0"));
            let (name, namespace) = match name.split('.').count() {
                1 => (name, Some("shop")),
                2 => name.split_once('.').map(|(a, b)| (a, Some(b))).unwrap(),
                _ => (name, None),
            };
            let service = ServiceRef {
                name: name.to_owned(),
                namespace: namespace.map(str::to_owned),
                port: port.parse().ok().and_then(std::num::NonZeroU16::new),
            };
            (service, calls)
        });
        Named::new(&to.collect(), "shop", &calls::Kept::default())
    }

    fn seconds(named: &Named, host: &str, port: u16) -> Option<u64> {
        let name = ServiceName {
            name: "any".into(),
            namespace: "any".into(),
            host: host.into(),
            port,
        };
        Some(named.get(&name)?.calls.timeout.request?.as_secs())
    }

    #[test]
    fn a_service_is_found_by_what_it_is_and_not_by_what_is_like_it() {
        let named = named(&[
            ("orders", 1),
            ("orders.bank", 2),
            ("orders:8080", 3),
            ("api.example.com", 4),
        ]);
        let rows = [
            ("orders.shop.svc.cluster.local", 80, Some(1)),
            ("orders.shop", 80, Some(1)),
            ("orders", 80, Some(1)),
            ("orders.shop.svc.cluster.local", 8080, Some(3)),
            ("orders.bank.svc.cluster.local", 80, Some(2)),
            ("orders.bank.svc.cluster.local", 8080, Some(2)),
            ("orders.other.svc.cluster.local", 80, None),
            ("orders.example.com", 80, None),
            ("api.example.com", 443, Some(4)),
            ("a.api.example.com", 443, None),
            ("order", 80, None),
        ];
        for (host, port, want) in rows {
            assert_eq!(seconds(&named, host, port), want, "{host}:{port}");
        }
    }

    #[test]
    fn where_nothing_is_named_nothing_is_looked_up() {
        assert_eq!(seconds(&named(&[]), "orders", 80), None);
    }
}
