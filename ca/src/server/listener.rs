//! Connections of the certificate API: accepted up to a limit, secured within a deadline, ended after some minutes.
//!
//! Every number has a bound, so that who cannot show a token can only take turns, not memory.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use weft_api::istio_ca::istio_certificate_service_server::IstioCertificateServiceServer;
use weft_certs::verify::handshake_failure_reason;

use crate::server::{Authority, CertificateService};

/// Accepts until `stop`, then lets open requests end.
///
/// # Cancel safety
/// Not cancel safe: end it by `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    authority: Arc<Authority>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &slots)).await {
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, most likely: others must end before we can go on.
                warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let service = CertificateService {
            authority: Arc::clone(&authority),
            peer,
        };
        let (acceptor, stop) = (acceptor.clone(), stop.clone());
        tasks.spawn(async move {
            connection(stream, &acceptor, service, stop).await;
            drop(slot);
        });
    }
    tasks.close();
    let ended = tokio::time::timeout(DRAIN_LIMIT, tasks.wait()).await;
    if ended.is_err() {
        warn!(open = tasks.len(), "connections cut at the end");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer.ip().to_canonical(), slot))
}

async fn connection(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    service: CertificateService,
    stop: CancellationToken,
) {
    let metrics = &Arc::clone(&service.authority).metrics;
    let _open = metrics.connection();
    let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
    match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => requests(stream, service, &stop).await,
        Err(error) => {
            let reason = handshake_failure_reason(&error);
            metrics.handshake_failed(reason);
            debug!(reason, %error, "no TLS");
        }
    }
}

async fn requests(
    stream: TlsStream<TcpStream>,
    service: CertificateService,
    stop: &CancellationToken,
) {
    let service = IstioCertificateServiceServer::new(service)
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(HANDSHAKE_LIMIT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        () = tokio::time::sleep(MAX_AGE) => None,
        ended = connection.as_mut() => Some(ended),
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            let ended = tokio::time::timeout(DRAIN_LIMIT, connection).await;
            ended.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

const MAX_CONNECTIONS: usize = 1024;
const MAX_STREAMS: u32 = 16;
const MAX_HEADER_BYTES: u32 = 32 * 1024;
const MAX_REQUEST_BYTES: usize = 64 * 1024;
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
const DRAIN_LIMIT: Duration = Duration::from_secs(15);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
