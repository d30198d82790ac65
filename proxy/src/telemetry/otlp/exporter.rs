//! Sends batches of spans: OTLP's messages over gRPC, or over HTTP with protobuf bodies.
//!
//! The transport is ours, so that only the configuration decides where spans go and with which certificates
//! (`opentelemetry-otlp` reads the environment itself, and its HTTP client brings a second stack).

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, TE, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::Full;
use tokio::time::{Duration, sleep, timeout};
use tracing::debug;

use super::connection::{Answer, Connection, ConnectionError};
use super::encode::{self, Batch};
use crate::config::otel::{Compression, OtlpExport, OtlpProtocol};

/// A collector, with at most one connection to it.
#[derive(Debug)]
pub(super) struct Exporter {
    config: OtlpExport,
    uri: Uri,
    /// As OTLP has it.
    resource: Vec<u8>,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("the collector answered with status {0}")]
    Status(StatusCode),
    #[error("the collector answered with gRPC code {0}")]
    Grpc(i32),
}

/// Whether the same batch may be sent again.
enum Next {
    Never,
    After(Duration),
}

impl Exporter {
    pub(super) fn new(config: OtlpExport, resource: &[(String, String)]) -> Self {
        Self {
            uri: target(&config),
            resource: encode::resource(resource),
            config,
            connection: tokio::sync::Mutex::default(),
        }
    }

    /// Where it sends to.
    pub(super) fn endpoint(&self) -> &Uri {
        &self.config.endpoint
    }

    async fn send(&self, body: Bytes) -> Result<(), (ExportError, Next)> {
        let limit = self.config.timeout;
        let answered = async {
            let mut slot = self.connection.lock().await;
            let mut connection = match slot.take().filter(Connection::is_open) {
                Some(connection) => connection,
                // Rare and, with TLS, large.
                None => Box::pin(Connection::open(&self.config)).await?,
            };
            let answer = connection.send(self.request(body)).await?;
            *slot = Some(connection);
            Ok::<_, ConnectionError>(answer)
        };
        match timeout(limit, answered).await {
            Ok(Ok(answer)) => self.judge(&answer),
            Ok(Err(error)) => Err((error.into(), Next::After(Duration::ZERO))),
            Err(_elapsed) => Err((ExportError::Timeout(limit), Next::After(Duration::ZERO))),
        }
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::post(self.uri.clone())
            .body(Full::new(body))
            .unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("weft-proxy/", env!("CARGO_PKG_VERSION"))),
        );
        match self.config.protocol {
            OtlpProtocol::Grpc => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert(TE, HeaderValue::from_static("trailers"));
            }
            OtlpProtocol::HttpProtobuf => {
                headers.insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/x-protobuf"),
                );
            }
        }
        if self.config.compression == Compression::Gzip {
            let name = match self.config.protocol {
                OtlpProtocol::Grpc => GRPC_ENCODING,
                OtlpProtocol::HttpProtobuf => CONTENT_ENCODING,
            };
            headers.insert(name, HeaderValue::from_static("gzip"));
        }
        for (name, value) in &self.config.headers {
            headers.append(name, value.clone());
        }
        request
    }

    /// "The client MUST NOT retry" but for 429, 502, 503, 504 and a list of gRPC codes (OTLP specification, "Failures").
    fn judge(&self, answer: &Answer) -> Result<(), (ExportError, Next)> {
        let wait = |seconds: Option<u64>| Duration::from_secs(seconds.unwrap_or(0));
        if answer.status != StatusCode::OK {
            let after = answer
                .headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok());
            let next = match answer.status.as_u16() {
                429 | 502..=504 => Next::After(wait(after)),
                _ => Next::Never,
            };
            return Err((ExportError::Status(answer.status), next));
        }
        match (self.config.protocol, answer.grpc_status()) {
            (OtlpProtocol::HttpProtobuf, _) | (OtlpProtocol::Grpc, Some(0)) => Ok(()),
            (OtlpProtocol::Grpc, code) => {
                let code = code.unwrap_or(UNKNOWN);
                let next = if RETRYABLE.contains(&code) {
                    Next::After(Duration::ZERO)
                } else {
                    Next::Never
                };
                Err((ExportError::Grpc(code), next))
            }
        }
    }
}

impl Exporter {
    /// Sends until the batch is taken or refused for good; whoever calls sets the limit.
    ///
    /// # Errors
    /// Why it was refused.
    pub(super) async fn export(&self, batch: &Batch) -> Result<(), ExportError> {
        let body = body(&self.config, batch, &self.resource);
        let mut backoff = FIRST_WAIT;
        loop {
            let (error, next) = match self.send(body.clone()).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let Next::After(asked) = next else {
                return Err(error);
            };
            debug!(%error, "spans are sent again");
            sleep(asked.max(backoff.mul_f64(0.5 + fastrand::f64()))).await;
            backoff = (backoff * 2).min(LONGEST_WAIT);
        }
    }
}

/// gRPC's method is fixed; over HTTP the configured path is used as it is.
fn target(config: &OtlpExport) -> Uri {
    let mut parts = config.endpoint.clone().into_parts();
    if config.protocol == OtlpProtocol::Grpc {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static(METHOD));
    }
    Uri::from_parts(parts).unwrap_or_else(|_| config.endpoint.clone())
}

/// gRPC puts whether it is compressed, and the length in four bytes, before a message (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
fn body(config: &OtlpExport, batch: &Batch, resource: &[u8]) -> Bytes {
    let prefix = match config.protocol {
        OtlpProtocol::Grpc => PREFIX,
        OtlpProtocol::HttpProtobuf => 0,
    };
    let mut body = batch.request(resource, prefix);
    if config.compression == Compression::Gzip {
        body = gzip(&body, prefix);
    }
    let length = u32::try_from(body.len() - prefix).unwrap_or(u32::MAX);
    if let Some([compressed, told @ ..]) = body.first_chunk_mut::<PREFIX>()
        && prefix == PREFIX
    {
        *compressed = u8::from(config.compression == Compression::Gzip);
        *told = length.to_be_bytes();
    }
    body.into()
}

/// What comes after `prefix`, packed, with room for the prefix before it.
fn gzip(body: &[u8], prefix: usize) -> Vec<u8> {
    let message = body.get(prefix..).unwrap_or_default();
    let mut encoder = GzEncoder::new(vec![0; prefix], flate2::Compression::fast());
    // Writing to memory does not fail.
    let _infallible = encoder.write_all(message);
    encoder.finish().unwrap_or_default()
}

/// Of a gRPC message.
const PREFIX: usize = 5;
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const UNKNOWN: i32 = 2;
/// CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
const RETRYABLE: [i32; 6] = [1, 4, 10, 11, 14, 15];
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
