//! `split`: the services that a route leads to, each with its share of the requests.
//!
//! Shares are turns, not chances: of a thousand requests each service has its part, whichever worker they came to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::debug;
use weft_policy::route::ServiceRef;

use crate::cx::Cx;
use crate::discovery::Discovery;
use crate::discovery::service::Service;
use crate::reject::Reject;
use crate::rotation::Rotation;

/// The parts of a route.
pub(super) struct Split {
    parts: Vec<Part>,
    rotation: Rotation,
    turns: AtomicU64,
}

/// A service that a route names.
pub(super) struct Part {
    host: String,
    /// The request's own unless written.
    port: Option<u16>,
}

impl Split {
    /// `None` where the route leads to the service itself.
    pub(super) fn new(parts: &[weft_policy::route::Split], namespace: &str) -> Option<Self> {
        let weights: Vec<u32> = parts.iter().map(|part| part.weight).collect();
        (!parts.is_empty()).then(|| Self {
            parts: parts
                .iter()
                .map(|part| Part::new(&part.service, namespace))
                .collect(),
            rotation: Rotation::new(&weights),
            turns: AtomicU64::new(0),
        })
    }

    /// The service of the next turn; `port` is the one that was called.
    ///
    /// # Errors
    /// [`Reject::UnknownDestination`] if there is none of that name, or no part has a weight.
    pub(super) async fn next(&self, cx: &Cx, port: u16) -> Result<Arc<Service>, Reject> {
        let part = self.part().ok_or(Reject::UnknownDestination)?;
        let found = part.find(&cx.worker.discovery, port).await;
        found.ok_or(Reject::UnknownDestination)
    }

    fn part(&self) -> Option<&Part> {
        let turn = match self.rotation.len() {
            1 => 0,
            _ => self.turns.fetch_add(1, Ordering::Relaxed),
        };
        self.parts.get(self.rotation.at(turn)?)
    }
}

impl Part {
    /// `own` is our namespace, where short names are looked up.
    pub(super) fn new(service: &ServiceRef, own: &str) -> Self {
        let host = match service.namespace.as_deref() {
            Some(namespace) if namespace != own => format!("{}.{namespace}", service.name),
            _ => service.name.clone(),
        };
        Self {
            host,
            port: service.port.map(std::num::NonZeroU16::get),
        }
    }

    pub(super) async fn find(&self, discovery: &Discovery, called: u16) -> Option<Arc<Service>> {
        let port = self.port.unwrap_or(called);
        if let Some(service) = discovery.known(&self.host, port) {
            return Some(service);
        }
        match discovery.by_name(&self.host, port).await {
            Ok(service) => Some(service),
            Err(error) => {
                debug!(%error, "a route leads nowhere");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(weights: &[u32]) -> Split {
        let part = |(index, weight): (usize, &u32)| weft_policy::route::Split {
            service: ServiceRef {
                name: format!("v{index}"),
                namespace: None,
                port: None,
            },
            weight: *weight,
        };
        let parts: Vec<_> = weights.iter().enumerate().map(part).collect();
        Split::new(&parts, "shop").unwrap()
    }

    #[test]
    fn a_thousand_requests_are_split_exactly() {
        let rows: &[(&[u32], &[usize])] = &[
            (&[90, 10], &[900, 100]),
            (&[1, 1, 2], &[250, 250, 500]),
            (&[100, 0], &[1000, 0]),
            (&[99, 1], &[990, 10]),
        ];
        for (weights, want) in rows {
            let split = split(weights);
            let mut hosts: Vec<_> = (0..1_000)
                .map(|_| split.part().unwrap().host.clone())
                .collect();
            hosts.sort_unstable();
            for (index, want) in want.iter().enumerate() {
                let host = format!("v{index}");
                let got = hosts.iter().filter(|one| **one == host).count();
                assert_eq!(got, *want, "{weights:?}: {host}");
            }
        }
    }

    #[test]
    fn without_weights_nothing_is_sent_anywhere() {
        assert!(split(&[0, 0]).part().is_none());
    }
}
