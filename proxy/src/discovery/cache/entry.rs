//! One name that was asked for: its state, and what a lookup makes of it.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use crate::discovery::LookupError;
use crate::discovery::cache::Waiting;
use crate::discovery::dns::Answer;
use crate::discovery::endpoint::{Endpoint, Endpoints, Member};
use crate::discovery::service::{Service, ServiceName};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Arc<ServiceName>,
    /// With the last good answer; published in every state but dormant.
    pub(super) service: Option<Arc<Service>>,
    pub(super) state: State,
    /// Lookups in a row that nobody answered.
    failures: u32,
    pub(super) last_used: Instant,
    pub(super) due: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum State {
    Asked {
        waiting: Vec<Waiting>,
    },
    Fresh,
    /// Missing if there is no service, else served from the last good answer.
    Failed {
        error: LookupError,
    },
    Dormant,
}

impl Entry {
    pub(super) fn new(name: ServiceName, now: Instant) -> Self {
        let name = Arc::new(name);
        Self {
            name,
            service: None,
            state: State::Dormant,
            failures: 0,
            last_used: now,
            due: None,
        }
    }

    /// What those who ask are told.
    pub(super) fn outcome(&self) -> Result<Arc<Service>, LookupError> {
        match (&self.service, &self.state) {
            (Some(service), _) => Ok(Arc::clone(service)),
            (None, State::Failed { error }) => Err(error.clone()),
            (None, _) => Err(LookupError::NotFound {
                host: Arc::clone(&self.name.host),
            }),
        }
    }

    pub(super) fn succeeded(&mut self, answer: &Answer, now: Instant) -> (State, Instant) {
        self.failures = 0;
        let service = self.service.get_or_insert_with(|| {
            let name = Arc::clone(&self.name);
            Arc::new(Service::outside(name))
        });
        update(service, answer, now);
        (State::Fresh, now + answer.ttl.clamp(MIN_TTL, MAX_TTL))
    }

    pub(super) fn not_found(&mut self, ttl: Option<Duration>, now: Instant) -> (State, Instant) {
        self.failures = 0;
        let host = Arc::clone(&self.name.host);
        if let Some(service) = self.service.take() {
            warn!(%host, "host does not exist any more");
            retire(&service.endpoints());
        }
        let until = now
            + ttl
                .unwrap_or(MAX_MISSING_TTL)
                .clamp(MIN_TTL, MAX_MISSING_TTL);
        (
            State::Failed {
                error: LookupError::NotFound { host },
            },
            until,
        )
    }

    pub(super) fn unanswered(&mut self, error: LookupError, now: Instant) -> (State, Instant) {
        self.failures += 1;
        if self.failures == 1 && self.service.is_some() {
            warn!(
                error = &error as &dyn Error,
                "no answer, the last good one stays"
            );
        } else {
            debug!(
                error = &error as &dyn Error,
                failures = self.failures,
                "no answer"
            );
        }
        let limit = if self.service.is_some() {
            MAX_RETRY_DELAY
        } else {
            MAX_MISSING_TTL
        };
        let delay = MIN_TTL
            .saturating_mul(1 << (self.failures - 1).min(10))
            .min(limit);
        (
            State::Failed { error },
            now + delay.mul_f64(0.8 + 0.2 * fastrand::f64()),
        )
    }
}

/// Brings `answer` into `service`; endpoints that it had before are kept as they are.
fn update(service: &Service, answer: &Answer, now: Instant) {
    let before = service.endpoints();
    let mut gone: HashMap<SocketAddr, &Arc<Endpoint>> = before
        .iter()
        .map(|member| (member.endpoint.address, &member.endpoint))
        .collect();
    let mut members: HashMap<SocketAddr, Member> = HashMap::new();
    for target in &answer.targets {
        // Several records of one address, as with SRV, count once.
        members.entry(target.address).or_insert_with(|| {
            let same = gone.remove(&target.address);
            let new = || Arc::new(Endpoint::new(target.address, None, None, now));
            Member {
                endpoint: same.map_or_else(new, Arc::clone),
                weight: target.weight,
                priority: target.priority,
                zone: None,
                near: true,
            }
        });
    }
    gone.values().for_each(|endpoint| endpoint.retire());
    service.set_endpoints(Endpoints::new(members.into_values().collect()));
}

pub(super) fn retire(endpoints: &Endpoints) {
    endpoints.iter().for_each(|member| member.endpoint.retire());
}

/// Shortest time between two lookups of a name.
const MIN_TTL: Duration = Duration::from_secs(1);

/// Longest time that an answer is trusted, whatever its TTL; also that of the hosts file, which has none.
const MAX_TTL: Duration = Duration::from_secs(300);

/// Longest time that a name counts as missing.
const MAX_MISSING_TTL: Duration = Duration::from_secs(5);

/// Longest time between two tries while nobody answers.
pub(super) const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
