//! Delta ADS as a server: connections are accepted up to a limit, callers prove who they are, and each stream is one task.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::Stream;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};
use weft_api::ads::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use weft_api::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_certs::verify::peer_of;
use weft_policy::spiffe::SpiffeId;

use crate::board::{Shared, State};
use crate::metrics::Metrics;
use crate::own::Own;
use crate::subscriber::{Caller, Subscriber};
use crate::token::Tokens;

/// What every connection is served with; clones share it.
#[derive(Clone)]
pub struct Server {
    /// What is told.
    pub shared: Shared,
    /// Who we are.
    pub own: Own,
    /// Who may show a token instead of a certificate; `None` takes none.
    pub tokens: Option<Arc<Tokens>>,
    /// What is counted.
    pub metrics: Metrics,
    /// The end.
    pub stop: CancellationToken,
}

impl Server {
    /// Accepts until the end, then lets go of all streams.
    pub async fn run(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let tasks = TaskTracker::new();
        while let Some(accepted) = self
            .stop
            .run_until_cancelled(accept(&listener, &slots))
            .await
        {
            match accepted {
                Ok((stream, slot)) => {
                    let server = self.clone();
                    tasks.spawn(async move {
                        server.connection(stream).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of files, most likely: others must end before we can go on.
                    warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
        tasks.close();
        let _cut = timeout(DRAIN_LIMIT, tasks.wait()).await;
    }

    async fn connection(self, stream: TcpStream) {
        let Some(tls) = self.own.server_config() else {
            return debug!("no certificate yet");
        };
        let accepting = TlsAcceptor::from(tls).accept(stream);
        match timeout(HANDSHAKE_LIMIT, accepting).await {
            Ok(Ok(stream)) => self.requests(stream).await,
            Ok(Err(error)) => debug!(%error, "no TLS"),
            Err(_slow) => debug!("no TLS in time"),
        }
    }

    async fn requests(self, stream: TlsStream<TcpStream>) {
        let chain = stream.get_ref().1.peer_certificates();
        let peer = match chain {
            Some(_) => match peer_of(chain, SystemTime::now()) {
                Ok(peer) => Some(peer),
                Err(error) => return debug!(%error, "certificate refused"),
            },
            None => None,
        };
        // A connection ends with the certificate that it was opened with.
        let left = peer
            .as_ref()
            .and_then(|peer| peer.not_after.duration_since(SystemTime::now()).ok());
        let age = MAX_AGE.mul_f64(1.0 - 0.2 * fastrand::f64());
        let age = left.map_or(age, |left| left.min(age));
        let stop = self.stop.clone();
        let service = Service {
            peer: peer.map(|peer| peer.id),
            server: self,
        };
        let service = AggregatedDiscoveryServiceServer::new(service)
            .max_decoding_message_size(MAX_REQUEST_BYTES);
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Some(KEEP_ALIVE))
            .keep_alive_timeout(KEEP_ALIVE)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(age) => return,
            ended = connection => ended,
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended");
        }
    }

    async fn caller(&self, peer: Option<&SpiffeId>, token: Option<&str>) -> Result<Caller, Status> {
        let id = match (peer, token, &self.tokens) {
            (Some(peer), _, _) => peer.clone(),
            (None, Some(token), Some(tokens)) => tokens.identity(token).await?,
            (None, _, _) => {
                return Err(Status::unauthenticated(
                    "show a mesh certificate or a token",
                ));
            }
        };
        let workload = id.namespace().zip(id.service_account());
        let (namespace, account) =
            workload.ok_or_else(|| Status::permission_denied("no workload"))?;
        Ok(Caller {
            namespace: namespace.into(),
            account: account.into(),
        })
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, slot))
}

/// The gRPC service of one connection.
struct Service {
    server: Server,
    peer: Option<SpiffeId>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        let caller = self.server.caller(self.peer.as_ref(), token).await?;
        debug!(?caller, "subscribed");
        let (told, mut telling) = mpsc::channel(1);
        let (server, incoming) = (self.server.clone(), request.into_inner());
        let task = async move { stream(server, caller, incoming, told).await };
        // It ends with its connection, whose requests it reads.
        #[expect(
            clippy::disallowed_methods,
            reason = "tonic wants a stream that is driven from elsewhere"
        )]
        tokio::spawn(task);
        Ok(Response::new(Box::pin(futures_util::stream::poll_fn(
            move |cx| telling.poll_recv(cx),
        ))))
    }
}

type Told = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// One subscriber, until its stream ends.
async fn stream(
    server: Server,
    caller: Caller,
    mut incoming: Streaming<DeltaDiscoveryRequest>,
    told: Told,
) {
    let _open = server.metrics.subscriber();
    let mut changes = server.shared.watch();
    let read = changes.wait_for(|state| *state != State::Empty);
    if server
        .stop
        .run_until_cancelled(read)
        .await
        .is_none_or(|read| read.is_err())
    {
        return;
    }
    let mut subscriber = Subscriber::new(caller.clone(), &server.shared.read());
    loop {
        tokio::select! {
            biased;
            () = server.stop.cancelled() => return,
            () = told.closed() => return,
            request = incoming.message() => match request {
                Ok(Some(request)) => {
                    if let Some(detail) = &request.error_detail {
                        server.metrics.nacked();
                        info!(?caller, reason = detail.message, "a subscriber refuses an update");
                    }
                    if let Err(refused) = subscriber.request(&request) {
                        let _gone = told.try_send(Err(Status::invalid_argument(refused.to_string())));
                        return;
                    }
                }
                Ok(None) | Err(_) => return,
            },
            changed = changes.changed() => if changed.is_err() { return },
        }
        let responses = subscriber.responses(&server.shared.read());
        for response in responses {
            server.metrics.sent(response.resources.len());
            // Who takes nothing for a minute is not there; it begins anew when it comes back.
            if !matches!(
                timeout(SEND_LIMIT, told.send(Ok(response))).await,
                Ok(Ok(()))
            ) {
                return server.metrics.cut();
            }
        }
    }
}

const MAX_CONNECTIONS: usize = 20_000;
const MAX_STREAMS: u32 = 16;
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const SEND_LIMIT: Duration = Duration::from_secs(60);
/// So that connections spread over replicas, and a certificate that was taken away does not last.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
