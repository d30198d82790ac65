//! Connections of a worker, by endpoint: idle HTTP/1, shared HTTP/2, limits on both.
//!
//! A kept connection that the other side has closed must not cost a request. Three means, in the order they act: idle
//! connections are watched and their closing is learnt from, so that one is retired before its endpoint's own limit; the
//! kernel is asked before one is used again; and `http/h1/client` reads from a failure whether anything was processed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, timeout};
use weft_policy::balance::PoolPolicy;

use crate::connect::{Configs, ConnectError, Connected, Connector, Target};
use crate::discovery::uses::Place;
use crate::http::Limits;
use crate::http::h1;
use crate::http::h1::body::Home;
use crate::http::h1::conn::{Conn, Shared};
use crate::http::h2;
use crate::io::Io;
use crate::tasks::Tasks;
use crate::telemetry::metrics::{Gauge, OpenGauge, PoolState, WorkerMetrics};
use crate::tls::Speaks;

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
                lane.sweep(cx, now);
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

/// A kept HTTP/1 connection.
struct Idle {
    conn: Shared,
    since: Instant,
    _counted: OpenGauge,
}

/// A shared HTTP/2 connection.
struct SharedClient {
    client: h2::client::Client,
    expires: Option<Instant>,
    /// Requests that it was given.
    served: Cell<u64>,
    _open: Open,
}

/// Counts a connection for as long as it is there.
#[derive(Debug)]
pub(crate) struct Open {
    count: Rc<Cell<usize>>,
    _gauge: OpenGauge,
    /// Among those of all workers.
    _place: Option<Place>,
}

/// What came of waiting.
enum Found {
    Kept(Shared),
    Opened(Box<(Connected, Open)>),
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

    /// A connection for one HTTP/1 request: a kept one, or with `fresh` always a new one.
    ///
    /// # Errors
    /// None is kept and none could be opened.
    pub(crate) async fn http1(
        self: &Rc<Self>,
        fresh: bool,
    ) -> Result<h1::client::Client, ConnectError> {
        let now = Instant::now();
        self.used.set(now);
        let home: Rc<dyn Home> = Rc::<Self>::clone(self);
        if let Some(conn) = self.take_idle(now).filter(|_| !fresh) {
            return Ok(h1::client::Client {
                conn,
                reused: true,
                home: Some(home),
                limits: self.config.limits,
                tasks: self.tasks.clone(),
            });
        }
        let (connected, open) = match self.open(Speaks::Http1).await {
            // On the heap, for it is rare.
            Err(ConnectError::Full { .. }) => match Box::pin(self.wait(now)).await? {
                Found::Kept(conn) => {
                    return Ok(h1::client::Client {
                        conn,
                        reused: true,
                        home: Some(home),
                        limits: self.config.limits,
                        tasks: self.tasks.clone(),
                    });
                }
                Found::Opened(opened) => *opened,
            },
            opened => opened?,
        };
        let mut conn = Conn::new(connected.io, BytesMut::new());
        conn.expires = connected.expires;
        conn.open = Some(open);
        Ok(h1::client::Client {
            conn: Shared::new(conn.into()),
            reused: false,
            home: Some(home),
            limits: self.config.limits,
            tasks: self.tasks.clone(),
        })
    }

    /// Waits for a connection of an endpoint that has as many as it may, in a queue no longer than policy says.
    async fn wait(&self, since: Instant) -> Result<Found, ConnectError> {
        let limit = self.connect_limit();
        let full = || ConnectError::Full {
            endpoint: self.target.address,
            limit: self.most(),
        };
        let Some(endpoint) = &self.target.endpoint else {
            return Err(full());
        };
        let _place = endpoint
            .uses
            .wait(self.rule.get().pool.pending)
            .ok_or_else(full)?;
        loop {
            // Another worker's connection may have ended, which nobody tells us.
            let _told = timeout(ASK_AGAIN, self.freed.notified()).await;
            let now = Instant::now();
            if let Some(conn) = self.take_idle(now) {
                return Ok(Found::Kept(conn));
            }
            match self.open(Speaks::Http1).await {
                Err(ConnectError::Full { .. }) if now.saturating_duration_since(since) < limit => {}
                opened => return opened.map(|opened| Found::Opened(Box::new(opened))),
            }
        }
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

    /// A place on a shared HTTP/2 connection.
    ///
    /// # Errors
    /// All are full or gone, and none could be opened.
    pub(crate) async fn http2(&self) -> Result<h2::client::Client, ConnectError> {
        self.used.set(Instant::now());
        if let Some(client) = self.take_shared() {
            return Ok(client);
        }
        // On the heap: rare beside the requests that find a place, and most of their future's size.
        Box::pin(self.open_shared()).await
    }

    async fn open_shared(&self) -> Result<h2::client::Client, ConnectError> {
        let _one = self.opening.lock().await;
        if let Some(client) = self.take_shared() {
            return Ok(client);
        }
        let (connected, open) = self.open(Speaks::Http2).await?;
        let client =
            h2::client::Client::connect(connected.io, self.config.limits, &self.tasks).await;
        let client = client.map_err(|error| ConnectError::Tcp {
            endpoint: self.target.address,
            source: std::io::Error::other(error),
        })?;
        let shared = SharedClient {
            client: client.clone(),
            expires: connected.expires,
            served: Cell::new(1),
            _open: open,
        };
        self.shared.borrow_mut().push(Rc::new(shared));
        Ok(client)
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

    fn take_idle(&self, now: Instant) -> Option<Shared> {
        loop {
            let Idle { conn, since, .. } = self.idle.borrow_mut().pop()?;
            let idle = now.saturating_duration_since(since);
            if idle < self.idle_limit(now) && still_open(&conn, idle, now) {
                return Some(conn);
            }
        }
    }

    /// The configured limit, or most of what the endpoint itself was seen to allow.
    fn idle_limit(&self, now: Instant) -> Duration {
        match self.learned.get() {
            Some((limit, seen)) if now.saturating_duration_since(seen) < FORGET_LIMIT => {
                self.idle_allowed().min(limit.mul_f32(SAFE_SHARE))
            }
            Some(_) | None => self.idle_allowed(),
        }
    }

    fn take_shared(&self) -> Option<h2::client::Client> {
        let now = Instant::now();
        let mut shared = self.shared.borrow_mut();
        // One that has ended or expired takes nothing more; what runs on it holds it by itself.
        let most = self.rule.get().pool.requests_per_connection;
        shared.retain(|one| {
            let spent = most.is_some_and(|most| one.served.get() >= most.get());
            one.client.is_open() && !spent && one.expires.is_none_or(|at| now < at)
        });
        let found = shared.iter().find(|one| !one.client.is_full())?;
        found.served.set(found.served.get().saturating_add(1));
        Some(found.client.clone())
    }

    /// Looks at every idle connection; drops those that have ended, learning from it, or been kept for long enough.
    fn sweep(&self, cx: &mut Context<'_>, now: Instant) {
        let limit = self.idle_limit(now);
        let mut shortest: Option<Duration> = None;
        self.idle.borrow_mut().retain(|Idle { conn, since, .. }| {
            let idle = now.saturating_duration_since(*since);
            let conn = &mut *conn.borrow_mut();
            let ended = conn.poll_gone(cx).is_ready() || conn.eof || !conn.input.is_empty();
            if ended && conn.eof {
                shortest = Some(shortest.map_or(idle, |other| other.min(idle)));
            }
            !ended && idle < limit
        });
        if let Some(closed_after) = shortest.filter(|idle| *idle >= MIN_LEARNED) {
            let known = self
                .learned
                .get()
                .map_or(closed_after, |(limit, _)| limit.min(closed_after));
            self.learned.set(Some((known, now)));
        }
        let keep = |one: &Rc<SharedClient>| {
            one.client.is_open()
                && (one.client.in_flight() > 0 || one.expires.is_none_or(|at| now < at))
        };
        self.shared.borrow_mut().retain(keep);
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

impl Home for Lane {
    fn take_back(self: Rc<Self>, conn: Shared) {
        let now = Instant::now();
        {
            let conn = &mut *conn.borrow_mut();
            conn.release_input();
            let janitor = self.janitor.borrow();
            // Registers the janitor for what the connection says while it is idle.
            let gone = conn
                .poll_gone(&mut Context::from_waker(&janitor))
                .is_ready();
            conn.served = conn.served.saturating_add(1);
            let most = self.rule.get().pool.requests_per_connection;
            if gone
                || most.is_some_and(|most| conn.served >= most.get())
                || conn.eof
                || !conn.input.is_empty()
                || conn.expires.is_some_and(|at| now >= at)
            {
                return;
            }
        }
        let _counted = self.kept.open();
        self.idle.borrow_mut().push(Idle {
            conn,
            since: now,
            _counted,
        });
        self.freed.notify_one();
    }
}

/// Asks the reactor first and then the kernel: what has arrived in this turn is known there only.
fn still_open(conn: &Shared, idle: Duration, now: Instant) -> bool {
    let mut conn = conn.borrow_mut();
    let said = conn.poll_gone(&mut Context::from_waker(Waker::noop()));
    let ended = said.is_ready() || conn.eof || !conn.input.is_empty();
    if ended || conn.expires.is_some_and(|at| now >= at) {
        return false;
    }
    if idle < JUST_USED {
        return true;
    }
    let mut byte = [std::mem::MaybeUninit::uninit()];
    match SockRef::from(conn.io().socket()).peek(&mut byte) {
        Ok(0) => false,
        // Session tickets are readable on an idle TLS connection; on a plain one nothing may be.
        Ok(_) => conn.io().secure(),
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

/// How often a request that waits for a connection looks whether there is one.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_millis(500);
/// The share of an endpoint's own idle limit after which we no longer trust a connection.
const SAFE_SHARE: f32 = 0.8;
/// A close sooner than this says nothing about idling.
const MIN_LEARNED: Duration = Duration::from_millis(100);
/// A learned limit is tried again after this.
const FORGET_LIMIT: Duration = Duration::from_secs(600);
/// A connection used this recently is used again without asking the kernel.
const JUST_USED: Duration = Duration::from_millis(20);
