//! Connections of a worker, by endpoint: idle HTTP/1, shared HTTP/2, limits on both.
//!
//! A kept connection that the other side has closed must not cost a request. Three means, in the order they act: idle
//! connections are watched and their closing is learnt from, so that one is retired before its endpoint's own limit; the
//! kernel is asked before one is used again (both in `idle`); and `http/h1/client` reads from a failure whether anything was
//! processed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::time::{Duration, Instant, MissedTickBehavior, interval};
use weft_policy::balance::PoolPolicy;

use self::idle::Idle;
use self::shared::SharedClient;
use crate::connect::{Configs, ConnectError, Connected, Connector, Target};
use crate::discovery::uses::Place;
use crate::http::Limits;
use crate::io::Io;
use crate::tasks::Tasks;
use crate::telemetry::metrics::{Gauge, OpenGauge, PoolState, WorkerMetrics};
use crate::tls::Speaks;

mod idle;
mod shared;

/// Whose connections they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// An endpoint of discovery, by its id.
    Endpoint(u64),
    /// An address outside the mesh.
    Outside(SocketAddr),
    /// An app behind the inbound proxy.
    App(SocketAddr),
}

/// How the pool behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolConfig {
    /// Most connections to one endpoint.
    pub(crate) connections: usize,
    /// How long a connection may be kept without a request.
    pub(crate) idle: Duration,
    pub(crate) limits: Limits,
}

/// What policy says of the connections to one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rule {
    pub(crate) pool: PoolPolicy,
    pub(crate) connect: Option<Duration>,
}

/// All connections of one worker to all endpoints.
pub(crate) struct Pool {
    lanes: RefCell<BTreeMap<Key, Rc<Lane>>>,
    connector: Connector,
    config: PoolConfig,
    metrics: Rc<WorkerMetrics>,
    tasks: Tasks,
    /// Wakes the janitor when an idle connection has something to say.
    janitor: Rc<RefCell<Waker>>,
}

impl Pool {
    pub(crate) fn new(
        connector: Connector,
        config: PoolConfig,
        metrics: Rc<WorkerMetrics>,
        tasks: Tasks,
    ) -> Self {
        let janitor = Rc::new(RefCell::new(Waker::noop().clone()));
        Self {
            lanes: RefCell::default(),
            connector,
            config,
            metrics,
            tasks,
            janitor,
        }
    }

    /// The connections to one endpoint; `target` is asked for only when it is new.
    pub(crate) fn lane(&self, key: Key, target: impl FnOnce() -> Target) -> Rc<Lane> {
        if let Some(lane) = self.lanes.borrow().get(&key) {
            return Rc::clone(lane);
        }
        let lane = Rc::new(Lane::new(target(), self));
        self.lanes.borrow_mut().insert(key, Rc::clone(&lane));
        lane
    }

    /// Retires idle connections and forgotten endpoints until the worker ends.
    pub(crate) async fn run_janitor(self: Rc<Self>) {
        let mut tick = interval(SWEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        poll_fn(|cx| {
            *self.janitor.borrow_mut() = cx.waker().clone();
            let mut retire = false;
            while tick.poll_tick(cx).is_ready() {
                retire = true;
            }
            let now = Instant::now();
            self.lanes.borrow_mut().retain(|_, lane| {
                lane.sweep_idle(cx, now);
                lane.sweep_shared(now);
                !(retire && lane.is_forgotten(now))
            });
            Poll::<()>::Pending
        })
        .await;
    }

    /// Closes what carries no request, so that a drain is not held up.
    pub(crate) fn close_idle(&self) {
        for lane in self.lanes.borrow().values() {
            lane.idle.borrow_mut().clear();
        }
    }
}

/// The connections of one endpoint.
pub(crate) struct Lane {
    target: Target,
    configs: RefCell<Configs>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Rc<SharedClient>>>,
    /// One HTTP/2 connection is opened at a time; the others wait for it.
    opening: tokio::sync::Mutex<()>,
    open: Rc<Cell<usize>>,
    /// After how long an idle connection was closed by the other side, and when that was seen.
    learned: Cell<Option<(Duration, Instant)>>,
    used: Cell<Instant>,
    connector: Connector,
    config: PoolConfig,
    /// What policy says over it, of late.
    rule: Cell<Rule>,
    /// Told when a connection comes back or ends.
    freed: tokio::sync::Notify,
    metrics: Rc<WorkerMetrics>,
    /// Counts what is in `idle`.
    kept: Gauge,
    tasks: Tasks,
    janitor: Rc<RefCell<Waker>>,
}

/// Counts a connection for as long as it is there.
#[derive(Debug)]
pub(crate) struct Open {
    count: Rc<Cell<usize>>,
    _gauge: OpenGauge,
    /// Among those of all workers.
    _place: Option<Place>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.set(self.count.get().saturating_sub(1));
    }
}

impl Lane {
    fn new(target: Target, pool: &Pool) -> Self {
        Self {
            target,
            configs: RefCell::default(),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: tokio::sync::Mutex::new(()),
            open: Rc::default(),
            learned: Cell::default(),
            used: Cell::new(Instant::now()),
            connector: pool.connector.clone(),
            config: pool.config,
            rule: Cell::default(),
            freed: tokio::sync::Notify::new(),
            metrics: Rc::clone(&pool.metrics),
            kept: pool.metrics.pool_connections(PoolState::Idle),
            tasks: pool.tasks.clone(),
            janitor: Rc::clone(&pool.janitor),
        }
    }

    /// Does from now on as `rule` says.
    pub(crate) fn obey(&self, rule: Rule) {
        self.rule.set(rule);
    }

    fn connect_limit(&self) -> Duration {
        self.rule
            .get()
            .connect
            .unwrap_or(self.connector.connect_timeout)
    }

    /// Most connections at a time.
    fn most(&self) -> usize {
        let asked = self.rule.get().pool.connections;
        asked.map_or(self.config.connections, |most| most.get() as usize)
    }

    fn idle_allowed(&self) -> Duration {
        self.rule.get().pool.idle.unwrap_or(self.config.idle)
    }

    /// A connection of its own, for opaque bytes.
    ///
    /// # Errors
    /// None could be opened.
    pub(crate) async fn opaque(&self) -> Result<(Io, Open), ConnectError> {
        self.used.set(Instant::now());
        let (connected, open) = self.open(Speaks::Opaque).await?;
        Ok((connected.io, open))
    }

    async fn open(&self, speaks: Speaks) -> Result<(Connected, Open), ConnectError> {
        let most = self.most();
        let place = match &self.target.endpoint {
            Some(endpoint) => endpoint.uses.open(most),
            None => (self.open.get() < most).then_some(None),
        };
        let place = place.ok_or(ConnectError::Full {
            endpoint: self.target.address,
            limit: most,
        })?;
        self.open.set(self.open.get() + 1);
        let open = Open {
            count: Rc::clone(&self.open),
            _gauge: self.metrics.pool_connections(PoolState::Open).open(),
            _place: place,
        };
        // On the heap, as it is rare and large.
        let connector = self.connector.within(self.connect_limit());
        let connecting = connector.connect(&self.target, &self.configs, speaks, &self.metrics);
        let connected = Box::pin(connecting).await?;
        Ok((connected, open))
    }

    /// Whether nothing is left of it and nobody has asked for a while.
    fn is_forgotten(self: &Rc<Self>, now: Instant) -> bool {
        let retired = self
            .target
            .endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.retired());
        let unused = retired
            || now.saturating_duration_since(self.used.get()) > self.idle_allowed().max(SWEEP);
        if unused {
            self.idle.borrow_mut().clear();
            self.shared
                .borrow_mut()
                .retain(|one| one.client.in_flight() > 0);
        }
        unused && self.open.get() == 0 && Rc::strong_count(self) == 1
    }
}

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_millis(500);
