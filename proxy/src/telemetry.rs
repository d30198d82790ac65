//! What the proxy tells operators: metrics, spans, access log.
//!
//! [`Telemetry`] belongs to the control thread; each worker thread takes one [`WorkerTelemetry`], through which the data path
//! tells what has ended. Workers only add to their own cells and put into bounded queues; what is full is dropped and counted.

pub(crate) mod access_log;
pub(crate) mod metrics;
pub(crate) mod otlp;
pub(crate) mod record;

use std::rc::Rc;
use std::sync::Arc;

use self::metrics::WorkerMetrics;
use self::record::{RequestRecord, TcpRecord};
use crate::config::Config;
use crate::filter::trace::Sampler;

/// All of telemetry; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    sampler: Arc<Sampler>,
}

impl Telemetry {
    /// Makes what workers write to; nothing is sent before `run`.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            sampler: Arc::new(Sampler::new(config.trace_sample)),
        }
    }

    /// The sampler of the whole proxy.
    pub(crate) fn sampler(&self) -> Arc<Sampler> {
        Arc::clone(&self.sampler)
    }

    /// The part of one worker thread; call it there.
    pub(crate) fn worker(&self) -> WorkerTelemetry {
        WorkerTelemetry {
            metrics: Rc::new(WorkerMetrics::default()),
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
    pub(crate) fn finish(&self, _record: &RequestRecord) {}

    /// Tells metrics, trace and access log of an opaque connection that has ended.
    pub(crate) fn finish_tcp(&self, _record: &TcpRecord) {}

    /// What this worker counts of itself.
    pub(crate) fn metrics(&self) -> &Rc<WorkerMetrics> {
        &self.metrics
    }
}
