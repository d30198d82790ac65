//! Hands spans on to the operator's own collector.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::journal::Journal;
use crate::client;
use crate::config::{Collector, Protocol};

/// Sends what comes in `exports` to `collector`, until there is no more; what fails is told in the journal.
pub(crate) async fn forward(
    collector: Collector,
    mut exports: mpsc::Receiver<ExportTraceServiceRequest>,
    journal: Journal,
) {
    let mut channel = None;
    while let Some(export) = exports.recv().await {
        let sent = match collector.protocol {
            Protocol::Grpc => over_grpc(&mut channel, &collector, export).await,
            Protocol::HttpProtobuf => over_http(&collector, &export).await,
        };
        match sent {
            Ok(()) => journal.write(|entries| entries.forwarded += 1),
            Err(reason) => {
                channel = None;
                let reason = format!("{}: {reason}", collector.uri);
                journal.write(|entries| entries.not_forwarded = Some(reason));
            }
        }
    }
}

async fn over_grpc(
    channel: &mut Option<TraceServiceClient<Channel>>,
    collector: &Collector,
    export: ExportTraceServiceRequest,
) -> Result<(), String> {
    let connected = match channel.take() {
        Some(connected) => connected,
        None => {
            let authority = collector.uri.authority().ok_or("no host")?;
            let connecting = TraceServiceClient::connect(format!("http://{authority}")).await;
            connecting.map_err(|error| format!("no connection: {error}"))?
        }
    };
    let answer = channel.insert(connected).export(export).await;
    answer.map(drop).map_err(|status| status.to_string())
}

async fn over_http(
    collector: &Collector,
    export: &ExportTraceServiceRequest,
) -> Result<(), String> {
    let uri = &collector.uri;
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let mut addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| error.to_string())?;
    let address = addresses.next().ok_or("the host has no address")?;
    let request = Request::post(uri.path())
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(Bytes::from(export.encode_to_vec())));
    let request = request.map_err(|error| error.to_string())?;
    let answer = client::send(address, request)
        .await
        .map_err(|error| error.to_string())?;
    if answer.status.is_success() {
        return Ok(());
    }
    Err(format!("answered {}", answer.status))
}

/// How many exports may wait.
pub(crate) const WAITING: usize = 64;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

    use super::super::collector;
    use super::*;

    fn export() -> ExportTraceServiceRequest {
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                scope_spans: vec![ScopeSpans {
                    spans: vec![Span {
                        trace_id: vec![0xcd; 16],
                        ..Span::default()
                    }],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        }
    }

    #[tokio::test]
    async fn spans_reach_a_grpc_collector() {
        let theirs = collector::Collector::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let collector = Collector {
            uri: format!("http://{}/v1/traces", theirs.address())
                .parse()
                .unwrap(),
            protocol: Protocol::Grpc,
        };
        let ((exports, taken), arrived) = (mpsc::channel(1), Journal::new());
        exports.send(export()).await.unwrap();
        let id = "cd".repeat(16);
        tokio::select! {
            ended = theirs.serve(arrived.clone(), None) => panic!("{ended:?}"),
            () = forward(collector, taken, Journal::new()) => panic!("the exports ended"),
            found = arrived.find(Duration::from_secs(5), |all| all.trace(&id).cloned()) => drop(found.unwrap()),
        }
    }

    #[tokio::test]
    async fn spans_reach_an_http_collector_as_protobuf() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = http(listener.local_addr().unwrap());
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let (taken, mut got) = mpsc::channel(1);
            let service = hyper::service::service_fn(move |req: Request<hyper::body::Incoming>| {
                let taken = taken.clone();
                async move {
                    let (head, body) = req.into_parts();
                    let body = http_body_util::BodyExt::collect(body)
                        .await
                        .unwrap()
                        .to_bytes();
                    taken.send((head, body)).await.unwrap();
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::default()))
                }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
            tokio::select! {
                got = got.recv() => got.unwrap(),
                ended = serving => panic!("{ended:?}"),
            }
        };
        let spans = export();
        let sending = over_http(&collector, &spans);
        tokio::pin!(sending);
        let (head, body) = tokio::select! {
            got = server => got,
            sent = &mut sending => panic!("{sent:?}"),
        };
        assert_eq!(head.uri.path(), "/v1/traces");
        assert_eq!(head.headers[header::CONTENT_TYPE], "application/x-protobuf");
        assert_eq!(ExportTraceServiceRequest::decode(body).unwrap(), spans);
    }

    #[tokio::test]
    async fn a_collector_that_is_not_there_is_told_of() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = http(listener.local_addr().unwrap());
        drop(listener);
        let ((exports, taken), journal) = (mpsc::channel(1), Journal::new());
        exports.send(export()).await.unwrap();
        drop(exports);
        forward(collector, taken, journal.clone()).await;
        let reason = journal
            .read(|entries| entries.not_forwarded.clone())
            .unwrap();
        assert!(reason.contains("no connection"), "{reason}");
    }

    fn http(address: SocketAddr) -> Collector {
        Collector {
            uri: format!("http://{address}/v1/traces").parse().unwrap(),
            protocol: Protocol::HttpProtobuf,
        }
    }
}
