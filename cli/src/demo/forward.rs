//! Hands spans on to the operator's own collector, as `OTEL_EXPORTER_OTLP_ENDPOINT` names it.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::sync::mpsc;

use super::journal::Journal;

/// Sends what comes in `exports` to `endpoint` over gRPC, until there is no more; what fails is told once in the journal.
pub(crate) async fn forward(
    endpoint: String,
    mut exports: mpsc::Receiver<ExportTraceServiceRequest>,
    journal: Journal,
) {
    let mut client = None;
    while let Some(export) = exports.recv().await {
        if let Err(reason) = send(&mut client, &endpoint, export).await {
            client = None;
            journal.write(|entries| entries.not_forwarded = Some(reason));
        }
    }
}

async fn send(
    client: &mut Option<TraceServiceClient<tonic::transport::Channel>>,
    endpoint: &str,
    export: ExportTraceServiceRequest,
) -> Result<(), String> {
    let connected = match client.take() {
        Some(client) => client,
        None => TraceServiceClient::connect(endpoint.to_owned())
            .await
            .map_err(|error| format!("no connection to {endpoint}: {error}"))?,
    };
    let answer = client.insert(connected).export(export).await;
    answer
        .map(drop)
        .map_err(|status| format!("{endpoint} answered {status}"))
}

/// How many exports may wait.
pub(crate) const WAITING: usize = 64;
