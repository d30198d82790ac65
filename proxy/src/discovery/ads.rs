//! Services and policy from the control plane, on demand: a delta ADS stream, kept by one task on the control thread.
//!
//! What the app calls is asked for once and then pushed until nobody has called it for some minutes. When the control plane is
//! away the last answers stay; what was never asked for is then unknown, and `discovery` decides what that means.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, interval, sleep};
use tracing::{info, warn};
use weft_api::ads::{DeltaDiscoveryResponse, Node};
use weft_policy::spiffe::TrustDomain;

use self::declared::Place;
use self::link::{Link, LinkError, Remote};
use self::session::Session;
use self::state::State;
use crate::backoff::Backoff;
use crate::discovery::Shared;
use crate::discovery::mesh::Behind;
use crate::identity::Identities;
use crate::policy::Policies;
use crate::policy::mesh::Told;

mod declared;
pub(crate) mod link;
mod resource;
mod session;
mod state;

/// How to reach the control plane, and who we are there.
#[derive(Clone, Debug)]
pub(crate) struct AdsConfig {
    pub(crate) remote: Remote,
    /// What we show there.
    pub(crate) identities: Identities,
    /// What is told of policy goes there.
    pub(crate) policies: Policies,
    pub(crate) namespace: String,
    pub(crate) pod: Option<String>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) zone: Option<String>,
    /// Where the last-known state is kept, if it is.
    pub(crate) state: Option<PathBuf>,
}

/// A worker needs to know what is behind a name or an address.
#[derive(Debug)]
pub(in crate::discovery) struct Question {
    pub(in crate::discovery) wanted: Wanted,
    pub(in crate::discovery) answer: oneshot::Sender<Answer>,
}

/// What may be asked for.
#[derive(Clone, Debug)]
pub(in crate::discovery) enum Wanted {
    /// `shop/orders.shop.svc.cluster.local`.
    Service(String),
    Address(SocketAddr),
}

impl Wanted {
    fn name(&self) -> String {
        match self {
            Self::Service(name) => name.clone(),
            Self::Address(address) => format!("/{}", address.ip()),
        }
    }
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::discovery) enum Answer {
    /// Whatever there is to know is in the snapshot.
    Known,
    /// The control plane is away and never said.
    Away,
    /// Too many names are asked for.
    Overloaded,
}

/// The task.
#[derive(Debug)]
pub(in crate::discovery) struct Ads {
    config: AdsConfig,
    place: Place,
    shared: Arc<Shared>,
    asked: mpsc::Receiver<Question>,
    session: Session,
    state: Option<State>,
    /// Ports of workloads that were called without a service.
    called: BTreeSet<SocketAddr>,
    waiting: Vec<(Wanted, oneshot::Sender<Answer>)>,
    /// Since when there is no connection.
    away: Option<Instant>,
    sweep: Interval,
}

impl Ads {
    /// Begins with what was known before a restart. Must be called inside a runtime.
    pub(in crate::discovery) fn new(
        config: AdsConfig,
        shared: Arc<Shared>,
        asked: mpsc::Receiver<Question>,
    ) -> Self {
        let own = config.pod.as_ref();
        let own = own.map(|pod| format!("Kubernetes//Pod/{}/{pod}", config.namespace));
        let mut ads = Self {
            place: Place {
                trust_domain: config.trust_domain.clone(),
                zone: config.zone.as_deref().map(Arc::from),
            },
            session: Session::new(own),
            state: config.state.as_deref().map(State::new),
            called: BTreeSet::new(),
            waiting: Vec::new(),
            away: Some(Instant::now()),
            sweep: interval(SWEEP),
            config,
            shared,
            asked,
        };
        ads.shared.metrics.set_mesh_connected(false);
        ads.restore();
        ads
    }

    fn restore(&mut self) {
        let known = self.state.as_mut().map(State::read).unwrap_or_default();
        if let Err(error) = self.session.restore(&known) {
            warn!(error, "a part of the last-known state is not used");
        }
        self.publish();
    }

    /// Keeps a stream open, for ever.
    pub(in crate::discovery) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        loop {
            match self.open().await {
                Ok(link) => {
                    info!(address = %self.config.remote.address, "discovery connected");
                    let begun = Instant::now();
                    self.away = None;
                    self.shared.metrics.set_mesh_connected(true);
                    let error = self.follow(link).await;
                    self.away = Some(Instant::now());
                    self.shared.metrics.set_mesh_connected(false);
                    // A stream that held for a while was a good one, and its end is nothing to be slow about.
                    if begun.elapsed() > LONGEST_RETRY {
                        backoff.reset();
                    }
                    info!(error, "discovery connection ended, what is known stays");
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    warn!(%error, cause, "no discovery, what is known stays");
                }
            }
            let delay = backoff.next_delay();
            self.meanwhile(sleep(delay)).await;
        }
    }

    async fn open(&mut self) -> Result<Link, LinkError> {
        self.session.connected();
        let mut first = self.session.requests();
        if let Some(request) = first.first_mut() {
            request.node = Some(self.node());
        }
        let (remote, mut identities) = (self.config.remote.clone(), self.config.identities.clone());
        let opening = async move {
            loop {
                match identities.current() {
                    Some(own) => return Box::pin(remote.open(&own, first)).await,
                    None => identities.changed().await,
                }
            }
        };
        self.meanwhile(opening).await
    }

    fn node(&self) -> Node {
        let AdsConfig { namespace, pod, .. } = &self.config;
        let pod = pod.as_deref().unwrap_or("unknown");
        Node {
            id: format!("sidecar~0.0.0.0~{pod}.{namespace}~{namespace}.svc.cluster.local"),
            metadata: None,
        }
    }

    /// Waits for `future` and answers what is asked meanwhile.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return done,
                Some(question) = self.asked.recv() => self.ask(question),
                () = sleep(LOOK), if !self.waiting.is_empty() => self.answer_waiting(),
            }
        }
    }

    /// Takes in what comes and says what we want, until the stream ends; returns why.
    async fn follow(&mut self, mut link: Link) -> String {
        loop {
            tokio::select! {
                biased;
                message = link.responses.message() => match message {
                    Ok(Some(response)) => {
                        if !self.take(response, &link).await {
                            return "the control plane takes no more requests".to_owned();
                        }
                    }
                    Ok(None) => return "ended by the control plane".to_owned(),
                    Err(status) => return status.to_string(),
                },
                Some(question) = self.asked.recv() => self.ask(question),
                _ = self.sweep.tick() => self.sweep(),
            }
            let mut requests = self.session.requests();
            if requests.is_empty() {
                continue;
            }
            if let Some(request) = requests.first_mut() {
                request.node = Some(self.node());
            }
            for request in requests {
                if !send(&link, request).await {
                    return "the control plane takes no more requests".to_owned();
                }
            }
        }
    }

    async fn take(&mut self, response: DeltaDiscoveryResponse, link: &Link) -> bool {
        let answer = self.session.take(response);
        let metrics = &self.shared.metrics;
        match &answer.error_detail {
            None => metrics.count_mesh_update(),
            Some(detail) => {
                metrics.count_mesh_rejected();
                warn!(reason = detail.message, "an update of discovery is refused");
            }
        }
        self.publish();
        self.save();
        self.answer_waiting();
        send(link, answer).await
    }

    fn ask(&mut self, question: Question) {
        let Question { wanted, answer } = question;
        let name = wanted.name();
        if self.waiting.len() >= MAX_WAITING || self.session.want(&name).is_err() {
            let _unheard = answer.send(Answer::Overloaded);
            return;
        }
        self.waiting.push((wanted, answer));
        self.answer_waiting();
    }

    /// Answers whoever can be answered.
    fn answer_waiting(&mut self) {
        let away = self.away.is_some_and(|since| since.elapsed() >= PATIENCE);
        let mut waiting = Vec::new();
        let mut publish = false;
        for (wanted, answer) in std::mem::take(&mut self.waiting) {
            let name = wanted.name();
            if !self.session.is_settled(&name) && !away {
                if !answer.is_closed() {
                    waiting.push((wanted, answer));
                }
                continue;
            }
            publish |= self.port_of_workload(&wanted);
            let outcome = match self.session.is_settled(&name) {
                true => Answer::Known,
                false => Answer::Away,
            };
            // The snapshot comes first.
            if std::mem::take(&mut publish) {
                self.publish();
            }
            let _unheard = answer.send(outcome);
        }
        self.waiting = waiting;
    }

    /// Notes a port of a workload that no service has.
    fn port_of_workload(&mut self, wanted: &Wanted) -> bool {
        let Wanted::Address(address) = wanted else {
            return false;
        };
        let name = wanted.name();
        let found = self.session.find(&name).is_some();
        let unasked = matches!(self.shared.mesh.load().behind(*address), Behind::Unasked);
        found && unasked && self.called.len() < MAX_CALLED && self.called.insert(*address)
    }

    /// Policy comes first: no request may go to a service before it is known how.
    fn publish(&self) {
        self.config.policies.take_told(self.told());
        let services = declared::services(&self.session, &self.called, &self.place);
        let outside = self
            .session
            .absent()
            .filter_map(|name| name.strip_prefix('/')?.parse().ok());
        let next = self
            .shared
            .mesh
            .load()
            .updated(services, outside, &self.config.namespace);
        self.shared.mesh.store(Arc::new(next));
    }

    fn told(&self) -> Told {
        let routes = self
            .session
            .routes()
            .filter(|(_, layers)| !layers.is_empty());
        let named = routes.filter_map(|(name, layers)| {
            let (namespace, host) = name.split_once('/')?;
            let (name, _) = host.split_once('.')?;
            Some(((name.to_owned(), namespace.to_owned()), layers.to_vec()))
        });
        Told {
            inbound: self.session.inbound().map(<[_]>::to_vec),
            services: named.collect(),
        }
    }

    fn save(&mut self) {
        if let Some(state) = &mut self.state {
            state.write(&self.session.last_known());
        }
    }

    fn sweep(&mut self) {
        let used = self.shared.mesh.load().take_used();
        self.session.sweep(IDLE_SWEEPS, |name| used.contains(name));
        self.publish();
        self.answer_waiting();
    }
}

async fn send(link: &Link, request: weft_api::ads::DeltaDiscoveryRequest) -> bool {
    let sent = tokio::time::timeout(SEND_LIMIT, link.requests.send(request)).await;
    matches!(sent, Ok(Ok(())))
}

/// Four or sixteen bytes as an address.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || {
        <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|bytes| Ipv4Addr::from(bytes).into())
    };
    let v6 = || {
        <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|bytes| Ipv6Addr::from(bytes).into())
    };
    v4().or_else(v6)
}

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// How long who asks waits for a control plane that is away.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often those who wait for a control plane that is away are looked at.
const LOOK: Duration = Duration::from_millis(100);
const SWEEP: Duration = Duration::from_secs(60);
const IDLE_SWEEPS: u8 = 6;
const SEND_LIMIT: Duration = Duration::from_secs(10);
const MAX_WAITING: usize = 1024;
/// Ports of workloads outside of any service that are kept.
const MAX_CALLED: usize = 1024;
