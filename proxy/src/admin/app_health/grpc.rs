//! gRPC's health protocol (`grpc.health.v1.Health/Check`), as far as a probe needs it: one question, one word.

use std::net::SocketAddr;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;

use super::Failure;

/// "message HealthCheckRequest { string service = 1; }" (GRPC Health Checking Protocol)
#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// "enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }", as field 1.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

/// Asks for `service`; what is wrong with it, or nothing.
pub(super) async fn check(
    io: TcpStream,
    app: SocketAddr,
    service: &str,
) -> Result<Option<String>, Failure> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    let request = Request::post(format!("http://{app}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .body(Full::new(framed(&message.encode_to_vec())))?;
    let asked = async {
        let answer = sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok::<_, Failure>((head.headers, trailers, body.to_bytes()))
    };
    let mut asked = std::pin::pin!(asked);
    let (headers, trailers, body) = tokio::select! {
        biased;
        answer = asked.as_mut() => answer?,
        ended = connection => {
            ended?;
            asked.await?
        }
    };
    match status(&headers).or_else(|| status(&trailers)) {
        Some("0") => said(&body),
        Some("12") => Ok(Some(
            "that it does not know gRPC's health protocol".to_owned(),
        )),
        Some("5") => Ok(Some(format!("that it has no service {service:?}"))),
        Some(other) => Ok(Some(format!("gRPC status {other}"))),
        None => Ok(Some("nothing that is gRPC".to_owned())),
    }
}

fn status(headers: &HeaderMap) -> Option<&str> {
    headers.get("grpc-status")?.to_str().ok()
}

/// A message is told with "Compressed-Flag Message-Length Message" (gRPC over HTTP/2).
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), message].concat().into()
}

fn said(body: &[u8]) -> Result<Option<String>, Failure> {
    let message = body.get(PREFIX..).unwrap_or_default();
    let word = match HealthCheckResponse::decode(message)?.status {
        1 => return Ok(None),
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Ok(Some(word.to_owned()))
}

/// The flag and the length.
const PREFIX: usize = 5;
const MAX_ANSWER: usize = 4096;
