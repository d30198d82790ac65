//! Wiring: builds every part of the proxy and starts its threads, one line a part.
//!
//! A library function, so that a test runs whole proxies on port 0 in its own process.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::{Duration, Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::connect::Connector;
use crate::control::{self, Control};
use crate::cx::{Settings, Worker};
use crate::discovery::Discovery;
use crate::discovery::service::AppProtocol;
use crate::drain::Drain;
use crate::filter::authn::cache::TokenCache;
use crate::filter::trace::Sampler;
use crate::identity::Identities;
use crate::listener::{self, Limit, Sharing};
use crate::policy::Policies;
use crate::pool::{Pool, PoolConfig};
use crate::retry::replay::Spare;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::telemetry::record::Direction;
use crate::tls::accept::AcceptConfigs;
use crate::{inbound, outbound, redirect};

/// A running proxy.
#[derive(Debug)]
pub struct Bound {
    /// Where the app's connections come in.
    pub outbound: Vec<SocketAddr>,
    /// Where the network's connections come in.
    pub inbound: Vec<SocketAddr>,
    /// `/metrics` and `/live`.
    pub metrics: SocketAddr,
    /// `/ready`.
    pub ready: SocketAddr,
    /// Dumps.
    pub admin: SocketAddr,
    drain: Drain,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Bound {
    /// Begins the drain: not ready, every answer says goodbye, late callers are still served.
    pub fn shutdown(&self) {
        self.drain.end();
    }

    /// Blocks until the drain has ended and every thread with it.
    pub fn wait(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a thread of the proxy has panicked");
            }
        }
    }
}

/// What every worker gets a copy of.
#[derive(Clone)]
struct Parts {
    config: Arc<Config>,
    settings: Arc<Settings>,
    discovery: Discovery,
    identities: Identities,
    telemetry: Telemetry,
    sampler: Arc<Sampler>,
    policies: Policies,
    drain: Drain,
    /// Connections open in all workers.
    open: Arc<AtomicUsize>,
    /// The drain has ended: workers stop.
    ended: CancellationToken,
}

/// The sockets of one worker.
struct Sockets {
    inbound: Vec<std::net::TcpListener>,
    outbound: Vec<std::net::TcpListener>,
}

/// Starts a proxy.
///
/// # Errors
/// An address cannot be bound, or a file that is needed at the start cannot be read.
pub fn start(config: Config) -> anyhow::Result<Bound> {
    let workers = config.workers;
    info!(
        trust_domain = %config.trust_domain,
        namespace = config.namespace,
        service_account = config.service_account,
        pod = config.pod_name,
        "proxy starts"
    );
    let config = Arc::new(config);
    let mut sockets = bind_all(&config, workers)?;
    if config.redirect {
        let inbound: Vec<_> = sockets.iter().flat_map(|own| &own.inbound).collect();
        redirect::verify(&inbound).context("check that connections are redirected here")?;
    }
    let inbound = addresses(sockets.first().map(|own| own.inbound.as_slice()))?;
    let outbound = addresses(sockets.first().map(|own| own.outbound.as_slice()))?;
    let drain = Drain::default();
    let ended = CancellationToken::new();
    let open = Arc::<AtomicUsize>::default();
    let Control {
        thread,
        discovery,
        identities,
        telemetry,
        sampler,
        policies,
        admin,
    } = control::start(&config, &drain, &open, &ended).context("start the control thread")?;
    let own_ports = inbound
        .iter()
        .chain(&outbound)
        .map(SocketAddr::port)
        .chain(admin.ports())
        .collect();
    let parts = Parts {
        settings: Arc::new(settings(&config, own_ports)),
        discovery,
        identities,
        telemetry,
        sampler,
        policies,
        drain: drain.clone(),
        open,
        ended,
        config,
    };
    let mut threads = vec![thread];
    for (number, own) in sockets.drain(..).enumerate() {
        let parts = parts.clone();
        let run = move || run_worker(parts, own);
        threads.push(
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(run)
                .context("start a worker")?,
        );
    }
    info!(?inbound, ?outbound, workers, "proxy started");
    Ok(Bound {
        outbound,
        inbound,
        metrics: admin.metrics,
        ready: admin.ready,
        admin: admin.admin,
        drain,
        threads,
    })
}

fn settings(config: &Config, own_ports: Vec<u16>) -> Settings {
    Settings {
        redirect: config.redirect,
        mtls: config.mtls,
        apps: config
            .inbound_ports
            .iter()
            .map(|one| (one.port, one.app))
            .collect(),
        tls_ports: declared_tls(config),
        opaque_ports: config.opaque_ports.clone(),
        own_ports,
        limits: crate::http::Limits {
            header_bytes: config.max_header_bytes,
            header_count: config.max_headers,
            header_timeout: config.header_timeout,
            idle_timeout: config.idle_timeout,
            streams: config.max_streams,
        },
        detect_timeout: config.detect_timeout,
        handshake_timeout: config.handshake_timeout,
        workload: config.workload.as_str().into(),
        namespace: config.namespace.as_str().into(),
    }
}

fn declared_tls(config: &Config) -> Vec<u16> {
    let hinted = config
        .inbound_ports
        .iter()
        .filter(|one| one.protocol == Some(AppProtocol::Tls));
    let hinted = hinted.map(|one| one.port);
    config.tls_ports.iter().copied().chain(hinted).collect()
}

/// Binds every address once a worker. Where port 0 was asked for, all workers get the port that the first one got.
fn bind_all(config: &Config, workers: usize) -> anyhow::Result<Vec<Sockets>> {
    let (mut inbound, mut outbound) = (
        config.inbound_listen.clone(),
        config.outbound_listen.clone(),
    );
    if workers > 1 {
        // Shared ports hide that another process has them; asking for them alone first shows it.
        inbound = addresses(Some(&bind(&inbound, Sharing::Alone)?))?;
        outbound = addresses(Some(&bind(&outbound, Sharing::Alone)?))?;
    }
    let sharing = if workers > 1 {
        Sharing::Workers
    } else {
        Sharing::Alone
    };
    let own = |_| -> anyhow::Result<Sockets> {
        Ok(Sockets {
            inbound: bind(&inbound, sharing)?,
            outbound: bind(&outbound, sharing)?,
        })
    };
    (0..workers.max(1)).map(own).collect()
}

/// An IPv6 address that the kernel does not have is left out where another address remains.
fn bind(addresses: &[SocketAddr], sharing: Sharing) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let mut sockets = Vec::new();
    for address in addresses {
        match listener::bind(*address, sharing) {
            Ok(socket) => sockets.push(socket),
            Err(error)
                if address.is_ipv6() && addresses.len() > 1 && listener::is_no_ipv6(&error) =>
            {
                info!(%address, "not bound: this host has no IPv6");
            }
            Err(error) => return Err(error).with_context(|| format!("bind {address}")),
        }
    }
    Ok(sockets)
}

fn addresses(sockets: Option<&[std::net::TcpListener]>) -> anyhow::Result<Vec<SocketAddr>> {
    let local: io::Result<Vec<_>> = sockets
        .unwrap_or_default()
        .iter()
        .map(std::net::TcpListener::local_addr)
        .collect();
    local.context("read a bound address")
}

/// One worker thread: its own runtime, listeners, pool and caches.
fn run_worker(parts: Parts, sockets: Sockets) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, serve(parts, sockets)),
        Err(error) => warn!(%error, "a worker has no runtime"),
    }
}

async fn serve(parts: Parts, sockets: Sockets) {
    let ended = parts.ended.clone();
    let (config, open) = (Arc::clone(&parts.config), Arc::clone(&parts.open));
    let worker = worker(parts);
    let limit = Limit::new(config.max_connections);
    let tasks = &worker.tasks;
    drop(tasks.spawn_local(Rc::clone(&worker.pool).run_janitor()));
    let begun = worker.drain.clone();
    let pool = Rc::clone(&worker.pool);
    drop(tasks.spawn_local(async move {
        begun.started().await;
        pool.close_idle();
    }));
    for (side, sockets) in [
        (Direction::Inbound, sockets.inbound),
        (Direction::Outbound, sockets.outbound),
    ] {
        for socket in sockets {
            listen(&worker, side, socket, &limit, &open);
        }
    }
    ended.cancelled().await;
}

/// Accepts on one socket in a task.
fn listen(
    worker: &Rc<Worker>,
    side: Direction,
    socket: std::net::TcpListener,
    limit: &Limit,
    open: &Arc<AtomicUsize>,
) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, ?side, "a socket cannot be listened on"),
    };
    let (metrics, open) = (Rc::clone(worker.telemetry.metrics()), Arc::clone(open));
    let full = move || metrics.refused(side, "connection_limit");
    let serving = Rc::clone(worker);
    let serve = move |io, client, place| {
        let (worker, counted) = (Rc::clone(&serving), Counted::new(&open));
        async move {
            match side {
                Direction::Inbound => inbound::serve(worker, io, client).await,
                Direction::Outbound => outbound::serve(worker, io, client).await,
            }
            drop((place, counted));
        }
    };
    let tasks = worker.tasks.clone();
    drop(
        worker
            .tasks
            .spawn_local(listener::accept(socket, limit.clone(), tasks, full, serve)),
    );
}

fn worker(parts: Parts) -> Rc<Worker> {
    let Parts {
        config,
        settings,
        discovery,
        identities,
        telemetry,
        sampler,
        policies,
        drain,
        ..
    } = parts;
    let tasks = Tasks::default();
    let telemetry = Rc::new(telemetry.worker());
    let connector = Connector {
        identities: identities.clone(),
        connect_timeout: config.connect_timeout,
        handshake_timeout: config.handshake_timeout,
    };
    let pool = PoolConfig {
        connections: config.pool_connections,
        idle: config.pool_idle,
        limits: settings.limits,
    };
    let pool = Rc::new(Pool::new(
        connector,
        pool,
        Rc::clone(telemetry.metrics()),
        tasks.clone(),
    ));
    let accept_configs = AcceptConfigs::default();
    Rc::new(Worker {
        settings,
        discovery,
        identities,
        accept_configs,
        pool,
        telemetry,
        sampler,
        policies,
        tokens: TokenCache::default(),
        spare: Spare::default(),
        drain,
        tasks,
    })
}

/// One connection in the count that the drain waits for.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for what runs: at least `quiet`, so that callers who learn late are still served, at most `limit`.
pub(crate) async fn drained(open: &AtomicUsize, quiet: Duration, limit: Duration) {
    let begun = Instant::now();
    loop {
        let passed = begun.elapsed();
        if passed >= limit || (passed >= quiet && open.load(Ordering::Relaxed) == 0) {
            return;
        }
        sleep(LOOK_AGAIN).await;
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(20);
