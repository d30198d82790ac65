//! The demo's own OTLP collector: takes what all proxies export, and hands it on to the operator's if there is one.

use std::net::SocketAddr;

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::journal::Journal;
use super::trace;

/// Listens for spans.
#[derive(Debug)]
pub(crate) struct Collector {
    listener: TcpListener,
    address: SocketAddr,
}

impl Collector {
    /// Binds `address`, whose port may be 0.
    ///
    /// # Errors
    /// The address is not to be had.
    pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("listen for spans on {address}"))?;
        let address = listener
            .local_addr()
            .context("read the collector's address")?;
        Ok(Self { listener, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped: spans go into `journal` and, as they came, into `onward`.
    ///
    /// # Errors
    /// The listener fails.
    pub(crate) async fn serve(
        self,
        journal: Journal,
        onward: Option<mpsc::Sender<ExportTraceServiceRequest>>,
    ) -> anyhow::Result<()> {
        let service = TraceServiceServer::new(Receiver { journal, onward });
        Server::builder()
            .serve_with_incoming(
                service,
                TcpIncoming::from(self.listener).with_nodelay(Some(true)),
            )
            .await
            .context("serve OTLP")
    }
}

struct Receiver {
    journal: Journal,
    onward: Option<mpsc::Sender<ExportTraceServiceRequest>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        req: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let export = req.into_inner();
        let (spans, now) = (trace::exported(&export), Instant::now());
        self.journal.write(|entries| {
            for (id, span) in spans {
                entries.add_span(&id, span, now);
            }
        });
        if let Some(onward) = &self.onward
            && onward.try_send(export).is_err()
        {
            let slow = "it is slower than the demo's spans come in".to_owned();
            self.journal
                .write(|entries| entries.not_forwarded = Some(slow));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

    use super::super::trace::Side;
    use super::*;

    fn pair(key: &str, text: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue {
                value: Some(Value::StringValue(text.to_owned())),
            }),
            ..KeyValue::default()
        }
    }

    fn export(span: Span) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource {
                    attributes: vec![pair("service.name", "orders")],
                    ..Resource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    spans: vec![span],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        }
    }

    #[tokio::test]
    async fn exported_spans_are_written_down_and_handed_on() {
        let collector = Collector::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let endpoint = format!("http://{}", collector.address());
        let (journal, (onward, mut handed_on)) = (Journal::new(), mpsc::channel(1));
        let script = async {
            let mut client = TraceServiceClient::connect(endpoint).await.unwrap();
            let span = Span {
                trace_id: vec![0xab; 16],
                span_id: vec![0x01; 8],
                kind: 3,
                name: "GET".to_owned(),
                start_time_unix_nano: 1_000,
                end_time_unix_nano: 3_000,
                attributes: vec![pair("server.address", "users")],
                ..Span::default()
            };
            client.export(export(span)).await.unwrap();
        };
        tokio::select! {
            ended = collector.serve(journal.clone(), Some(onward)) => panic!("{ended:?}"),
            () = script => {}
        }
        let find =
            |entries: &super::super::journal::Entries| entries.trace(&"ab".repeat(16)).cloned();
        let trace = journal.find(Duration::from_secs(5), find).await.unwrap();
        let span = &trace.spans[0];
        assert_eq!(
            (span.service.as_str(), span.side),
            ("orders", Side::Outbound)
        );
        assert_eq!(
            (span.id.as_str(), &span.parent),
            ("0101010101010101", &None)
        );
        assert_eq!(span.took(), Duration::from_micros(2));
        assert_eq!(span.attribute(&["server.address"]), Some("users"));
        assert_eq!(handed_on.recv().await.unwrap().resource_spans.len(), 1);
    }
}
