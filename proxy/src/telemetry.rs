//! What the proxy tells operators: metrics, spans, access log.
//!
//! [`Telemetry`] belongs to the control thread; each worker thread takes one [`WorkerTelemetry`], through which the data path
//! tells what has ended. Workers only add to their own cells and put into bounded queues; what is full is dropped and counted.

pub(crate) mod access_log;
pub(crate) mod metrics;
pub(crate) mod otlp;
pub(crate) mod record;
#[cfg(test)]
pub(crate) mod sample;

use std::rc::Rc;
use std::sync::Arc;

use self::metrics::WorkerMetrics;
use self::metrics::collect::Metrics;
use self::metrics::labels::Own;
use self::record::{ConnectionFacts, DestinationFacts, RequestRecord, TcpRecord};
use crate::config::Config;
use crate::filter::trace::Sampler;

/// All of telemetry; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    sampler: Arc<Sampler>,
    metrics: Metrics,
}

impl Telemetry {
    /// Makes what workers write to; nothing is sent before `run`.
    pub(crate) fn new(config: &Config) -> Self {
        let own = Own {
            workload: config.workload.clone(),
            namespace: config.namespace.clone(),
            principal: config.spiffe_id.clone(),
            version: config.version_label.clone(),
        };
        Self {
            sampler: Arc::new(Sampler::new(config.trace_sample)),
            metrics: Metrics::new(own),
        }
    }

    /// The sampler of the whole proxy.
    pub(crate) fn sampler(&self) -> Arc<Sampler> {
        Arc::clone(&self.sampler)
    }

    /// The metrics of the whole proxy.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The part of one worker thread; call it there.
    pub(crate) fn worker(&self) -> WorkerTelemetry {
        WorkerTelemetry {
            metrics: self.metrics.families().worker(),
        }
    }
}

/// Telemetry of one worker thread.
#[derive(Debug)]
pub(crate) struct WorkerTelemetry {
    metrics: Rc<WorkerMetrics>,
}

impl WorkerTelemetry {
    /// Tells metrics, trace and access log of a request that has ended.
    pub(crate) fn finish(&self, record: &RequestRecord) {
        self.metrics.request(record);
    }

    /// Tells metrics of an opaque connection that begins.
    pub(crate) fn begin_tcp(
        &self,
        connection: &ConnectionFacts,
        destination: Option<&DestinationFacts>,
    ) {
        self.metrics.tcp_opened(connection, destination);
    }

    /// Tells metrics, trace and access log of an opaque connection that has ended.
    pub(crate) fn finish_tcp(&self, record: &TcpRecord) {
        self.metrics.tcp_closed(record);
    }

    /// What this worker counts of itself.
    pub(crate) fn metrics(&self) -> &Rc<WorkerMetrics> {
        &self.metrics
    }
}
