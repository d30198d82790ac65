//! Opens one connection to an endpoint: TCP within a limit, socket options, then mesh TLS where the endpoint has an
//! identity.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ClientConfig;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Duration, Instant, timeout};
use weft_certs::identity::Identity;
use weft_policy::spiffe::SpiffeId;

use crate::detect;
use crate::discovery::endpoint::Endpoint;
use crate::identity::Identities;
use crate::io::Io;
use crate::reject::Reject;
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::record::Direction;
use crate::tls::{self, Speaks};

pub(crate) mod accepted;

/// Whom to connect to, and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The leg from the inbound proxy to its app has a source of its own, by which redirection knows it.
    pub(crate) inbound_leg: bool,
    /// `None`: plaintext.
    pub(crate) expected: Option<tls::connect::Expected>,
    /// Where discovery supplied it: once it is retired, no connection is kept.
    pub(crate) endpoint: Option<Arc<Endpoint>>,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) io: Io,
    /// When the earlier of the two identities expires.
    pub(crate) expires: Option<Instant>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no TCP connection to {endpoint} within {limit:?}")]
    Timeout {
        endpoint: SocketAddr,
        limit: Duration,
    },
    #[error("no TCP connection to {endpoint}")]
    Tcp {
        endpoint: SocketAddr,
        source: io::Error,
    },
    #[error("endpoint {endpoint} needs mesh TLS and this proxy has no certificate")]
    NoIdentity { endpoint: SocketAddr },
    #[error("mesh TLS with {endpoint}: {reason}")]
    Handshake {
        endpoint: SocketAddr,
        reason: &'static str,
        source: io::Error,
    },
    #[error("endpoint {endpoint} is this proxy")]
    Loop { endpoint: SocketAddr },
    #[error("endpoint {endpoint} has {limit} connections already")]
    Full { endpoint: SocketAddr, limit: usize },
}

impl ConnectError {
    /// The row of the table of rejections.
    pub(crate) fn reject(&self) -> Reject {
        match self {
            Self::Timeout { .. } => Reject::ConnectTimeout,
            Self::Tcp { .. } => Reject::Connect,
            Self::NoIdentity { .. } => Reject::NoIdentity,
            Self::Handshake {
                reason: "wrong_identity",
                ..
            } => Reject::WrongIdentity,
            Self::Handshake { .. } => Reject::Handshake,
            Self::Loop { .. } => Reject::Loop,
            Self::Full { .. } => Reject::PoolFull,
        }
    }
}

/// Client configurations are kept for as long as the identity they were made from.
#[derive(Debug, Default)]
pub(crate) struct Configs {
    made: Vec<(Speaks, Arc<Identity>, Arc<ClientConfig>)>,
}

impl Configs {
    /// The configuration for `expected`; its session store holds sessions of this endpoint and identity only.
    fn config(
        &mut self,
        identity: &Arc<Identity>,
        expected: &SpiffeId,
        speaks: Speaks,
    ) -> Result<Arc<ClientConfig>, weft_certs::error::CertError> {
        self.made.retain(|(_, of, _)| Arc::ptr_eq(of, identity));
        if let Some((_, _, config)) = self.made.iter().find(|(of, _, _)| *of == speaks) {
            return Ok(Arc::clone(config));
        }
        let config = identity.client_config(expected, speaks.offer())?;
        self.made
            .push((speaks, Arc::clone(identity), Arc::clone(&config)));
        Ok(config)
    }
}

/// Opens connections for one worker.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) identities: Identities,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
}

impl Connector {
    /// The same with another limit for TCP.
    pub(crate) fn within(&self, connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            ..self.clone()
        }
    }

    /// Connects to `target`.
    ///
    /// # Errors
    /// Which step failed; nothing of a request has been sent.
    pub(crate) async fn connect(
        &self,
        target: &Target,
        configs: &std::cell::RefCell<Configs>,
        speaks: Speaks,
        metrics: &WorkerMetrics,
    ) -> Result<Connected, ConnectError> {
        let endpoint = target.address;
        let Some(expected) = &target.expected else {
            let io = self.tcp(target).await?;
            return Ok(Connected {
                io: Io::Tcp(detect::declared(io)),
                expires: None,
            });
        };
        let identity = self
            .identities
            .current()
            .ok_or(ConnectError::NoIdentity { endpoint })?;
        let failed = |source: io::Error| {
            let reason = weft_certs::verify::handshake_failure_reason(&source);
            metrics.handshake_failed(Direction::Outbound, reason);
            ConnectError::Handshake {
                endpoint,
                reason,
                source,
            }
        };
        let config = configs
            .borrow_mut()
            .config(&identity, &expected.identity, speaks);
        let config = config.map_err(|error| failed(io::Error::other(error)))?;
        let io = detect::declared(self.tcp(target).await?);
        let handshake = tls::connect::connect(io, config, expected.server_name.clone());
        let stream = timeout(self.handshake_timeout, handshake)
            .await
            .map_err(|_elapsed| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        let peer =
            weft_certs::verify::peer_of(stream.get_ref().1.peer_certificates(), SystemTime::now())
                .map_err(|error| failed(io::Error::other(error)))?;
        metrics.handshake_done(Direction::Outbound);
        let expires = expiry(identity.leaf.not_after().min(peer.not_after));
        Ok(Connected {
            io: Io::Connected(Box::new(stream)),
            expires: Some(expires),
        })
    }

    async fn tcp(&self, target: &Target) -> Result<TcpStream, ConnectError> {
        let (endpoint, limit) = (target.address, self.connect_timeout);
        let connected = async {
            let leg = if target.inbound_leg {
                Leg::Inbound
            } else {
                Leg::Outbound
            };
            let socket = open(endpoint, leg)?;
            let io = socket.connect(endpoint).await?;
            tune(&io)?;
            Ok(io)
        };
        match timeout(limit, connected).await {
            Ok(io) => io.map_err(|source| ConnectError::Tcp { endpoint, source }),
            Err(_elapsed) => Err(ConnectError::Timeout { endpoint, limit }),
        }
    }
}

/// Which side of the proxy a connection leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    Inbound,
    Outbound,
}

/// Connects to our own app, as the inbound leg does, so that redirection leaves the connection alone.
///
/// # Errors
/// What the kernel says.
pub(crate) async fn to_app(address: SocketAddr) -> io::Result<TcpStream> {
    open(address, Leg::Inbound)?.connect(address).await
}

fn open(address: SocketAddr, leg: Leg) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if leg == Leg::Inbound {
        let raw = SockRef::from(&socket);
        let source = match address {
            SocketAddr::V4(_) => INBOUND_LEG_V4,
            SocketAddr::V6(_) => {
                raw.set_freebind_v6(true)?;
                INBOUND_LEG_V6
            }
        };
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}

/// Options of every connection: no Nagle (we write whole messages), keep-alive as Istio's proxies have it (300/75/9), so
/// that a host which vanished is noticed.
///
/// # Errors
/// What the kernel says.
pub(crate) fn tune(io: &TcpStream) -> io::Result<()> {
    io.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(300))
        .with_interval(Duration::from_secs(75))
        .with_retries(9);
    SockRef::from(io).set_tcp_keepalive(&keepalive)
}

/// Turns a certificate's time into the clock that timers use.
pub(crate) fn expiry(not_after: SystemTime) -> Instant {
    let left = not_after
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    // A year is longer than any process lives with one leaf, and keeps the sum in range.
    Instant::now() + left.min(Duration::from_secs(365 * 24 * 3600))
}

/// Istio's addresses of the inbound leg, by which redirection knows it.
const INBOUND_LEG_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
const INBOUND_LEG_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));
