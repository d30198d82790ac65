//! Resolver settings: the system's, followed as they change, or given servers.
//!
//! A laptop that changes its network changes `/etc/resolv.conf`; so both files are looked at again every few seconds while
//! names are asked for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, Resolver, ResolverBuilder};
use tokio::time::Instant;
use tracing::warn;

use crate::discovery::dns::{DnsSource, Upstream};

/// The [`Upstream`] of the present, made anew when the system's settings change.
#[derive(Debug)]
pub(in crate::discovery) struct Dns {
    source: DnsSource,
    current: Option<Arc<Upstream>>,
    stamp: Stamp,
    checked: Instant,
}

impl Dns {
    pub(in crate::discovery) fn new(source: DnsSource, now: Instant) -> Self {
        Self {
            source,
            current: None,
            stamp: Stamp::default(),
            checked: now,
        }
    }

    /// # Errors
    /// Settings of which no resolver can be made.
    pub(in crate::discovery) fn upstream(
        &mut self,
        now: Instant,
    ) -> Result<Arc<Upstream>, NetError> {
        if let Some(current) = &self.current
            && (matches!(self.source, DnsSource::Servers(_)) || !self.changed(now))
        {
            return Ok(Arc::clone(current));
        }
        (self.stamp, self.checked) = (Stamp::now(), now);
        let current = Arc::new(Upstream::new(Settings::of(&self.source))?);
        Ok(Arc::clone(self.current.insert(current)))
    }

    fn changed(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.checked) >= CHECK_INTERVAL && self.stamp != Stamp::now()
    }
}

/// When the system's files were last written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stamp(Option<SystemTime>, Option<SystemTime>);

impl Stamp {
    fn now() -> Self {
        let written = |path: &str| {
            Path::new(path)
                .metadata()
                .and_then(|file| file.modified())
                .ok()
        };
        Self(written("/etc/resolv.conf"), written("/etc/hosts"))
    }
}

/// What an [`Upstream`] is made of.
pub(in crate::discovery::dns) struct Settings {
    pub(in crate::discovery::dns) resolver: ResolverBuilder<TokioRuntimeProvider>,
    pub(in crate::discovery::dns) hosts: Hosts,
    pub(in crate::discovery::dns) search: Vec<Name>,
    pub(in crate::discovery::dns) ndots: usize,
}

impl Settings {
    pub(in crate::discovery::dns) fn of(source: &DnsSource) -> Self {
        match source {
            DnsSource::System => Self::system(),
            DnsSource::Servers(servers) => Self::servers(servers),
        }
    }

    fn system() -> Self {
        let read = read_system_conf()
            .inspect_err(|error| warn!(%error, "no DNS server: only hosts are resolved"));
        // Without a server each query fails at once; names of the hosts file still work.
        let (config, options) =
            read.unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default()));
        let hosts = Hosts::from_system().inspect_err(|error| warn!(%error, "no hosts file"));
        Self::new(config, options, hosts.unwrap_or_default())
    }

    fn servers(servers: &[SocketAddr]) -> Self {
        let servers = servers.iter().map(|server| {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            connections
                .iter_mut()
                .for_each(|connection| connection.port = server.port());
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        Self::new(config, ResolverOpts::default(), Hosts::default())
    }

    fn new(config: ResolverConfig, mut options: ResolverOpts, hosts: Hosts) -> Self {
        let mut search = config.search().to_vec();
        // "By default, the search list contains one entry, the local domain name" (resolv.conf(5)).
        if search.is_empty() {
            search.extend(config.domain().cloned());
        }
        let ndots = options.ndots;
        options.timeout = options.timeout.min(TRY_LIMIT);
        options.attempts = options.attempts.clamp(1, MAX_RETRIES);
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let mut resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        *resolver.options_mut() = options;
        Self {
            resolver,
            hosts,
            search,
            ndots,
        }
    }
}

/// Limit of one try; a lost answer costs at most this much more. Packets are repeated within it, too.
const TRY_LIMIT: Duration = Duration::from_secs(1);

/// Tries after the first one.
const MAX_RETRIES: usize = 2;

/// Interval in which changes of the system's files are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
