//! Supplies services and their endpoints: from the services file, and from DNS for names that it does not have.
//!
//! Workers read snapshots and never wait for a lock. All that takes time (watching the file, asking DNS) is done by
//! [`Supply`] on the control thread; a worker that needs a name nobody asked for yet waits for its answer.
//! `balance` chooses among the endpoints; how a connection to one is made is not known here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::cache::{Cache, Question, Resolved, Waiting};
use self::directory::Directory;
use self::dns::DnsSource;
use self::endpoint::{Endpoints, Member};
use self::file::{FileError, ServicesFile};
use self::name::{Key, NameError, address_literal};

mod cache;
mod directory;
pub(crate) mod dns;
pub(crate) mod endpoint;
pub(crate) mod file;
pub(crate) mod name;

/// Where services come from.
#[derive(Clone, Debug)]
pub(crate) struct DiscoveryConfig {
    /// Watched for changes; `None` means that all names come from DNS.
    pub(crate) services_file: Option<PathBuf>,
    /// The proxy's own: that of names without a namespace.
    pub(crate) namespace: String,
    /// Where the proxy runs, if that is known.
    pub(crate) zone: Option<String>,
    pub(crate) dns: DnsSource,
}

/// The workers' view of discovery; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
}

#[derive(Debug, Default)]
struct Shared {
    directory: ArcSwap<Directory>,
    resolved: ArcSwap<Resolved>,
    metrics: DiscoveryMetrics,
}

impl Shared {
    fn store_resolved(&self, resolved: Resolved) {
        self.metrics
            .resolved_names
            .store(resolved.len(), Ordering::Relaxed);
        self.resolved.store(Arc::new(resolved));
    }
}

impl Discovery {
    /// Reads the services file, and returns the workers' handle and what keeps it up to date.
    ///
    /// # Errors
    /// A services file that cannot be read or is invalid.
    pub(crate) fn new(config: DiscoveryConfig) -> Result<(Self, Supply), FileError> {
        let shared = Arc::new(Shared::default());
        let file = config
            .services_file
            .map(|path| ServicesFile::new(path, &config.namespace));
        if let Some(file) = &file {
            let services = file.read()?;
            let empty = Directory::in_zone(config.zone.as_deref());
            shared
                .directory
                .store(Arc::new(empty.updated(services, &config.namespace)));
        }
        let (questions, asked) = mpsc::channel(MAX_QUESTIONS);
        let supply = Supply {
            shared: Arc::clone(&shared),
            file,
            asked,
            dns: config.dns,
        };
        Ok((Self { shared, questions }, supply))
    }

    /// The service that Host, `:authority` or a CONNECT target names; a port that they leave out is the caller's to add.
    ///
    /// The services file comes first, then DNS. Waits at most five seconds.
    ///
    /// # Errors
    /// A name that is none, that does not exist, or that could not be looked up and never was before.
    pub(crate) async fn by_name(&self, host: &str, port: u16) -> Result<Arc<Service>, LookupError> {
        if let Some(service) = self.known(host, port) {
            return Ok(service);
        }
        let name = match address_literal(host) {
            Some(ip) => ServiceName::address(ip, port),
            None => ServiceName::called(host, port).map_err(|source| LookupError::Name {
                host: host.into(),
                source,
            })?,
        };
        let host = Arc::clone(&name.host);
        match timeout(MAX_WAIT, self.ask(name)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(LookupError::TooSlow { host }),
        }
    }

    async fn ask(&self, name: ServiceName) -> Result<Arc<Service>, LookupError> {
        let (answer, answered) = oneshot::channel();
        self.questions
            .send(Question {
                name,
                answer: Waiting(answer),
            })
            .await
            .map_err(|_closed| LookupError::Stopped)?;
        answered.await.map_err(|_closed| LookupError::Stopped)?
    }

    /// Like [`by_name`](Self::by_name), but only what is known without waiting.
    pub(crate) fn known(&self, host: &str, port: u16) -> Option<Arc<Service>> {
        let key = Key::new(host, port)?;
        self.shared.directory.load().by_key(&key).or_else(|| {
            let of_address =
                address_literal(host).and_then(|ip| self.by_address((ip, port).into()));
            of_address.or_else(|| self.shared.resolved.load().get(&key))
        })
    }

    /// The service whose address the caller connected to: one of its `addresses`, or an endpoint of it, which then is the
    /// only one. `None` is outside the mesh.
    pub(crate) fn by_address(&self, address: SocketAddr) -> Option<Arc<Service>> {
        self.shared.directory.load().by_address(address)
    }

    /// All services that are known now, for the operator to see.
    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        let mut services = self.shared.directory.load().services().to_vec();
        services.extend(self.shared.resolved.load().services());
        services
    }

    pub(crate) fn metrics(&self) -> &DiscoveryMetrics {
        &self.shared.metrics
    }
}

/// Keeps a [`Discovery`] up to date; belongs on the control thread.
#[derive(Debug)]
pub(crate) struct Supply {
    shared: Arc<Shared>,
    file: Option<ServicesFile>,
    asked: mpsc::Receiver<Question>,
    dns: DnsSource,
}

impl Supply {
    /// Follows the services file and answers questions for names, until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let Self {
            shared,
            file,
            asked,
            dns,
        } = self;
        let follow = async {
            match file {
                Some(file) => file.follow(&shared).await,
                None => std::future::pending().await,
            }
        };
        let answer = Cache::new(dns, &shared).run(asked);
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = follow => {}
            () = answer => {}
        }
    }
}

/// A name that can be called, and the endpoints behind it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Arc<ServiceName>,
    /// What is spoken there, if the operator said so.
    pub(crate) protocol: Option<AppProtocol>,
    /// Named by the services file, not only by DNS.
    pub(crate) in_mesh: bool,
    /// Turns that were taken, for those who take turns.
    pub(crate) turns: AtomicU64,
    endpoints: ArcSwap<Endpoints>,
}

impl Service {
    pub(crate) fn new(
        name: Arc<ServiceName>,
        protocol: Option<AppProtocol>,
        endpoints: Endpoints,
    ) -> Self {
        Self {
            name,
            protocol,
            in_mesh: true,
            turns: AtomicU64::new(0),
            endpoints: ArcSwap::from_pointee(endpoints),
        }
    }

    /// A host that only DNS knows, without endpoints yet.
    fn outside(name: Arc<ServiceName>) -> Self {
        Self {
            in_mesh: false,
            ..Self::new(name, None, Endpoints::default())
        }
    }

    /// The endpoints at this moment, without a lock; not to be held across an `await`.
    pub(crate) fn endpoints(&self) -> Guard<Arc<Endpoints>> {
        self.endpoints.load()
    }

    /// The service as if `member` were all of it.
    fn with_only(&self, member: &Member) -> Self {
        Self::new(
            Arc::clone(&self.name),
            self.protocol,
            Endpoints::new(vec![member.clone()]),
        )
    }

    /// Replaces the endpoints; those that are gone from the service are retired by the caller.
    pub(crate) fn set_endpoints(&self, endpoints: Endpoints) {
        self.endpoints.store(Arc::new(endpoints));
    }
}

/// A service as telemetry, TLS (SNI) and policy name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServiceName {
    /// First part of the name, such as `orders`; the whole host for a name outside of any namespace.
    pub(crate) name: Arc<str>,
    /// `unknown` for a name outside of any namespace.
    pub(crate) namespace: Arc<str>,
    /// `orders.shop.svc.cluster.local`, or the host as it was called; lower-case, without a trailing dot.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

/// What an application speaks on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AppProtocol {
    /// HTTP/1 or HTTP/2, told apart by the first bytes.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Bytes nobody looks at.
    Tcp,
    /// The application's own TLS, passed through.
    Tls,
}

impl FromStr for AppProtocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            "http" => Ok(Self::Http),
            "http2" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            "tcp" => Ok(Self::Tcp),
            "tls" => Ok(Self::Tls),
            _ => Err(UnknownProtocol),
        }
    }
}

/// A protocol that we have no name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is none of http, http2, grpc, tcp, tls")]
pub(crate) struct UnknownProtocol;

/// Why a name leads to no service.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("{host:?} is no host name")]
    Name { host: String, source: NameError },
    #[error("no service or host is named {host}")]
    NotFound { host: Arc<str> },
    #[error("DNS gave no answer for {host}")]
    Dns {
        host: Arc<str>,
        source: hickory_resolver::net::NetError,
    },
    #[error("no answer for {host} within {MAX_WAIT:?}")]
    TooSlow { host: Arc<str> },
    #[error("too many names are being looked up to start with {host}")]
    Overloaded { host: Arc<str> },
    #[error("discovery has stopped")]
    Stopped,
}

/// What discovery counts since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct DiscoveryMetrics {
    file_updates: AtomicU64,
    rejected_updates: AtomicU64,
    dns_lookups: AtomicU64,
    dns_failures: AtomicU64,
    resolved_names: AtomicU64,
}

impl DiscoveryMetrics {
    /// Updates of the services file that took effect.
    pub(crate) fn file_updates(&self) -> u64 {
        self.file_updates.load(Ordering::Relaxed)
    }

    /// Updates of the services file that were refused, the last good one being kept.
    pub(crate) fn rejected_updates(&self) -> u64 {
        self.rejected_updates.load(Ordering::Relaxed)
    }

    /// Lookups of a name in DNS, refreshes included.
    pub(crate) fn dns_lookups(&self) -> u64 {
        self.dns_lookups.load(Ordering::Relaxed)
    }

    /// Lookups that got no answer; "does not exist" is one.
    pub(crate) fn dns_failures(&self) -> u64 {
        self.dns_failures.load(Ordering::Relaxed)
    }

    /// Names that are held from DNS now (a gauge).
    pub(crate) fn resolved_names(&self) -> u64 {
        self.resolved_names.load(Ordering::Relaxed)
    }
}

/// Longest time that a caller waits for a name.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Questions of all workers that wait to be taken up.
const MAX_QUESTIONS: usize = 256;
