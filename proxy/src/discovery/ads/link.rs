//! One connection to the control plane: mutual TLS with exactly its identity, and a stream each way.

use std::io;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::Streaming;
use tonic::transport::Endpoint;
use weft_api::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_api::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_certs::error::CertError;
use weft_certs::identity::Identity;
use weft_policy::spiffe::SpiffeId;

/// The two ends of a stream.
pub(super) struct Link {
    pub(super) requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub(super) responses: Streaming<DeltaDiscoveryResponse>,
}

/// Where the control plane is and who it must be.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    /// `https://host:port`.
    pub(crate) address: Uri,
    pub(crate) identity: SpiffeId,
}

impl Remote {
    /// Connects and opens the stream; `first` are the requests to begin with.
    pub(super) async fn open(
        &self,
        own: &Identity,
        first: Vec<DeltaDiscoveryRequest>,
    ) -> Result<Link, LinkError> {
        let opened = tokio::time::timeout(TIME_LIMIT, self.stream(own, first)).await;
        opened.unwrap_or(Err(LinkError::Timeout))
    }

    async fn stream(
        &self,
        own: &Identity,
        first: Vec<DeltaDiscoveryRequest>,
    ) -> Result<Link, LinkError> {
        let stream = self.connect(own).await?;
        // The one connection that the channel ever has.
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take().ok_or(io::ErrorKind::ConnectionReset);
            async move { stream.map_err(io::Error::from) }
        });
        let endpoint = Endpoint::from(self.address.clone())
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| LinkError::Connect(io::Error::other(error)))?;
        let (requests, mut taken) = mpsc::channel(QUEUE.max(first.len()));
        for request in first {
            requests.try_send(request).or(Err(LinkError::Timeout))?;
        }
        let outgoing = futures_util::stream::poll_fn(move |cx| taken.poll_recv(cx));
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_BYTES);
        let answer = client.delta_aggregated_resources(outgoing).await;
        let responses = answer.map_err(|status| LinkError::Refused(Box::new(status)))?;
        Ok(Link {
            requests,
            responses: responses.into_inner(),
        })
    }

    async fn connect(
        &self,
        own: &Identity,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, LinkError> {
        let host = self.address.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = self.address.port_u16().unwrap_or(443);
        let name = ServerName::try_from(host.clone()).or(Err(LinkError::Address))?;
        let tls = own.client_config(&self.identity, &[b"h2"])?;
        let tcp = TcpStream::connect((host, port))
            .await
            .map_err(LinkError::Connect)?;
        tcp.set_nodelay(true).map_err(LinkError::Connect)?;
        let connected = TlsConnector::from(tls).connect(name, tcp).await;
        connected.map_err(LinkError::Connect)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the control plane's address has no usable host")]
    Address,
    #[error("our certificate cannot be used")]
    Tls(#[from] CertError),
    #[error("cannot connect to the control plane")]
    Connect(#[source] io::Error),
    #[error("no stream within {TIME_LIMIT:?}")]
    Timeout,
    #[error("the control plane refused")]
    Refused(#[source] Box<tonic::Status>),
}

const TIME_LIMIT: Duration = Duration::from_secs(5);
/// A connection that is silent for twice this is not there any more.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const QUEUE: usize = 16;
const MAX_BYTES: usize = 16 * 1024 * 1024;
