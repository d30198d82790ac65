//! The server that API servers ask: TLS, HTTP, and bounds on everything that a stranger may send. What is asked goes to `review`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::cluster::Cluster;
use crate::metrics::Metrics;
use crate::own::Own;
use crate::review::{self, Asked, ReviewError, Verdict};
use crate::settings::Settings;

/// What answers are made from; clones share it.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) own: Own,
    pub(crate) cluster: Cluster,
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: Metrics,
    pub(crate) stop: CancellationToken,
    pub(crate) large: Arc<Semaphore>,
}

impl Server {
    pub(crate) fn new(
        own: Own,
        cluster: Cluster,
        settings: Settings,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        let (settings, large) = (Arc::new(settings), Arc::new(Semaphore::new(MAX_LARGE)));
        Self {
            own,
            cluster,
            settings,
            metrics,
            stop,
            large,
        }
    }

    /// Serves until it is stopped, and then until what runs has ended.
    pub(crate) async fn run(self, listener: TcpListener) {
        let (slots, tasks) = (
            Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            TaskTracker::new(),
        );
        loop {
            let accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await.ok();
                (listener.accept().await, slot)
            };
            let Some((accepted, slot)) = self.stop.run_until_cancelled(accepted).await else {
                break;
            };
            let Ok((stream, _)) = accepted else {
                sleep(ACCEPT_BACKOFF).await;
                continue;
            };
            let server = self.clone();
            tasks.spawn(async move {
                Box::pin(server.connection(stream)).await;
                drop(slot);
            });
        }
        tasks.close();
        let _cut = timeout(LAST_ANSWERS, tasks.wait()).await;
    }

    async fn connection(self, stream: TcpStream) {
        let Some(config) = self.own.server_config() else {
            return;
        };
        let _best_effort = stream.set_nodelay(true);
        let handshake = timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(config).accept(stream)).await;
        let Ok(Ok(stream)) = handshake else {
            debug!("no TLS");
            return;
        };
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stop = self.stop.clone();
        let over = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // Others should get their share of the API server's connections, and a new certificate its turn.
                () = sleep(MAX_AGE) => {}
            }
        };
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let io = TokioIo::new(stream);
        let ended = if is_h2 {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .keep_alive_interval(KEEP_ALIVE)
                .serve_connection(io, service);
            until(over, connection, |connection| {
                connection.graceful_shutdown();
            })
            .await
        } else {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_LIMIT)
                .serve_connection(io, service);
            until(over, connection, |connection| {
                connection.graceful_shutdown();
            })
            .await
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answer = timeout(ANSWER_LIMIT, self.review(request)).await;
        let answer = answer.unwrap_or(Err(Unanswered::Slow));
        answer.unwrap_or_else(|unanswered| {
            let status = unanswered.status();
            self.metrics.unanswered(status);
            debug!(%status, reason = %unanswered, "no review");
            let mut response = Response::new(Full::from(format!("{unanswered}\n")));
            *response.status_mut() = status;
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("POST"));
            }
            response
        })
    }

    async fn review(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Unanswered> {
        let body = self.body(request).await?;
        let begun = Instant::now();
        let asked = Asked::read(&body).map_err(Unanswered::Review)?;
        let around = self.cluster.around(asked.namespace()).await;
        let mut settings = Settings {
            start: self.cluster.start(),
            ..Settings::clone(&self.settings)
        };
        if let Some(image) = self.cluster.image() {
            settings.image.clone_from(&image);
        }
        let answer = asked.answer(&around, &settings);
        self.metrics.answered(answer.verdict);
        self.metrics.seconds.observe(begun.elapsed().as_secs_f64());
        if answer.verdict == Verdict::Refused {
            info!(namespace = asked.namespace(), "refused");
        }
        let mut response = Response::new(Full::from(review::write(&answer)));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        Ok(response)
    }

    /// The body of a request that may be a review; many large ones wait for one another.
    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Unanswered> {
        if request.uri().path() != PATH {
            return Err(Unanswered::Path);
        }
        if request.method() != Method::POST {
            return Err(Unanswered::Method);
        }
        let kind = request
            .headers()
            .get(CONTENT_TYPE)
            .map(HeaderValue::as_bytes);
        let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
        if !kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(JSON.as_bytes())) {
            return Err(Unanswered::ContentType);
        }
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let expected = length
            .or(request.body().size_hint().upper())
            .unwrap_or(u64::MAX);
        if length.is_some_and(|length| length > MAX_BODY as u64) {
            return Err(Unanswered::TooLarge);
        }
        let _turn = match expected > LARGE {
            true => Some(self.large.acquire().await.or(Err(Unanswered::Slow))?),
            false => None,
        };
        let body = timeout(
            BODY_LIMIT,
            Limited::new(request.into_body(), MAX_BODY).collect(),
        )
        .await;
        match body {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unanswered::TooLarge),
            Ok(Err(_cut)) => Err(Unanswered::Cut),
            Err(_elapsed) => Err(Unanswered::Slow),
        }
    }
}

/// Drives `connection`; when it is `over`, says goodbye and gives what runs a moment.
async fn until<C: Future<Output = hyper::Result<()>>>(
    over: impl Future<Output = ()>,
    connection: C,
    goodbye: impl FnOnce(Pin<&mut C>),
) -> hyper::Result<()> {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = over => goodbye(connection.as_mut()),
    }
    timeout(LAST_ANSWERS, connection).await.unwrap_or(Ok(()))
}

/// Why there is no answer but a status and a sentence.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("nothing is served here; AdmissionReviews go to {PATH}")]
    Path,
    #[error("only POST is served here")]
    Method,
    #[error("the content type is not {JSON}")]
    ContentType,
    #[error("the body is longer than {MAX_BODY} bytes")]
    TooLarge,
    #[error("the body did not come in time")]
    Slow,
    #[error("the body was cut short")]
    Cut,
    #[error("{0}")]
    Review(ReviewError),
}

impl Unanswered {
    fn status(&self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Cut | Self::Review(_) => StatusCode::BAD_REQUEST,
        }
    }
}

const PATH: &str = "/inject";
const JSON: &str = "application/json";
/// An object may have 3 MiB on its way into the API server; a review has it twice where it is changed.
const MAX_BODY: usize = 7 * 1024 * 1024;
/// Bodies above this wait for a place, of which there are few: they cost memory.
const LARGE: u64 = 256 * 1024;
const MAX_LARGE: usize = 8;
const MAX_CONNECTIONS: usize = 256;
const MAX_STREAMS: u32 = 100;
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
const HEADER_LIMIT: Duration = Duration::from_secs(90);
const BODY_LIMIT: Duration = Duration::from_secs(5);
/// Less than the API server waits for us.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const MAX_AGE: Duration = Duration::from_secs(300);
const LAST_ANSWERS: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
