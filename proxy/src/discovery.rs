//! Supplies services and their endpoints: from the services file, from the control plane, and from DNS for names that
//! neither has.
//!
//! Workers read snapshots and never wait for a lock. All that takes time (watching the file, asking DNS) is done by
//! [`Supply`] on the control thread; a worker that needs a name nobody asked for yet waits for its answer.
//! `balance` chooses among the endpoints; how a connection to one is made is not known here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::ads::{AdsConfig, Answer, Wanted};
use self::cache::{Question, Resolved, Waiting};
use self::counts::DiscoveryMetrics;
use self::directory::Directory;
use self::dns::DnsSource;
use self::file::{FileError, ServicesFile};
use self::mesh::{Behind, Mesh};
use self::name::{Key, NameError, address_literal};
use self::service::{Service, ServiceName};
use self::supply::Supply;

pub(crate) mod ads;
mod cache;
pub(crate) mod counts;
mod directory;
pub(crate) mod dns;
pub(crate) mod endpoint;
pub(crate) mod file;
mod mesh;
pub(crate) mod name;
pub(crate) mod service;
pub(crate) mod supply;
pub(crate) mod uses;

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
    /// The control plane, if there is one.
    pub(crate) ads: Option<AdsConfig>,
}

/// The workers' view of discovery; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
    /// To the control plane, if there is one.
    mesh: Option<mpsc::Sender<ads::Question>>,
    /// That of names without one.
    namespace: Arc<str>,
}

#[derive(Debug, Default)]
struct Shared {
    directory: ArcSwap<Directory>,
    mesh: ArcSwap<Mesh>,
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
        shared
            .mesh
            .store(Arc::new(Mesh::in_zone(config.zone.as_deref())));
        let (mesh, mesh_asked) = mpsc::channel(MAX_QUESTIONS);
        let mesh = config.ads.is_some().then_some(mesh);
        let supply = Supply {
            shared: Arc::clone(&shared),
            file,
            asked,
            dns: config.dns,
            ads: config.ads.map(|ads| (ads, mesh_asked)),
        };
        let discovery = Self {
            shared,
            questions,
            mesh,
            namespace: config.namespace.into(),
        };
        Ok((discovery, supply))
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
        if let Some(service) = self.in_mesh(host, port).await {
            return Ok(service);
        }
        let host = Arc::clone(&name.host);
        match timeout(MAX_WAIT, self.ask(name)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(LookupError::TooSlow { host }),
        }
    }

    /// The service of that name in the control plane.
    async fn in_mesh(&self, host: &str, port: u16) -> Option<Arc<Service>> {
        let ads = self.mesh.as_ref()?;
        let wanted = match address_literal(host) {
            Some(ip) => Wanted::Address((ip, port).into()),
            None => Wanted::Service(resource(host, port, &self.namespace)?),
        };
        let _whatever = ask_mesh(ads, wanted).await;
        self.known(host, port)
    }

    /// The service behind the address that an app connected to; `None` is outside the mesh.
    ///
    /// What was never asked for is asked for, which takes a moment.
    ///
    /// # Errors
    /// The control plane is away, and the address is one that could belong to the mesh.
    pub(crate) async fn at(
        &self,
        address: SocketAddr,
    ) -> Result<Option<Arc<Service>>, LookupError> {
        if let Some(service) = self.by_address(address) {
            return Ok(Some(service));
        }
        let Some(ads) = self.mesh.as_ref().filter(|_| may_be_asked(address.ip())) else {
            return Ok(None);
        };
        if let Behind::Nobody = self.shared.mesh.load().behind(address) {
            return Ok(None);
        }
        match Box::pin(ask_mesh(ads, Wanted::Address(address))).await {
            Answer::Known => Ok(self.by_address(address)),
            Answer::Away | Answer::Overloaded if may_be_ours(address.ip()) => {
                Err(LookupError::Away { address })
            }
            Answer::Away | Answer::Overloaded => Ok(None),
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
        let declared = self.shared.directory.load().by_key(&key);
        let declared = declared.or_else(|| self.shared.mesh.load().by_key(&key));
        declared.or_else(|| {
            let of_address =
                address_literal(host).and_then(|ip| self.by_address((ip, port).into()));
            of_address.or_else(|| self.shared.resolved.load().get(&key))
        })
    }

    /// The service whose address the caller connected to: one of its `addresses`, or an endpoint of it, which then is the
    /// only one. `None` is outside the mesh.
    pub(crate) fn by_address(&self, address: SocketAddr) -> Option<Arc<Service>> {
        let declared = self.shared.directory.load().by_address(address);
        declared.or_else(|| match self.shared.mesh.load().behind(address) {
            Behind::Service(service) => Some(service),
            Behind::Nobody | Behind::Unasked => None,
        })
    }

    /// All services that are known now, for the operator to see.
    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        let mut services = self.shared.directory.load().services().to_vec();
        services.extend(self.shared.mesh.load().services().iter().cloned());
        services.extend(self.shared.resolved.load().services());
        services
    }

    pub(crate) fn metrics(&self) -> &DiscoveryMetrics {
        &self.shared.metrics
    }
}

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
    #[error("the control plane is away and never said who is at {address}")]
    Away { address: SocketAddr },
    #[error("discovery has stopped")]
    Stopped,
}

async fn ask_mesh(ads: &mpsc::Sender<ads::Question>, wanted: Wanted) -> Answer {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        ads.send(ads::Question { wanted, answer }).await.ok()?;
        answered.await.ok()
    };
    let answer = timeout(MAX_MESH_WAIT, asked).await;
    answer.ok().flatten().unwrap_or(Answer::Away)
}

/// The name of a service in the control plane, if `host` can be one of the cluster.
fn resource(host: &str, port: u16, namespace: &str) -> Option<String> {
    let name = ServiceName::declared(host, port, namespace).ok()?;
    (&*name.namespace != name::UNKNOWN).then(|| format!("{}/{}", name.namespace, name.host))
}

/// What never belongs to a mesh is never asked for.
fn may_be_asked(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

/// Whether a cluster may have given out `ip`: where nobody can say, plain text must not go there. RFC 1918, RFC 6598, RFC 4193.
fn may_be_ours(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Longest time that a caller waits for the control plane.
const MAX_MESH_WAIT: Duration = Duration::from_secs(3);

/// Longest time that a caller waits for a name.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Questions of all workers that wait to be taken up.
const MAX_QUESTIONS: usize = 256;
