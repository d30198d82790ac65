//! What the proxy tells operators: metrics, spans, access log.
//!
//! [`Telemetry`] belongs to the control thread; each worker thread takes one [`WorkerTelemetry`], through which the data path
//! tells what has ended. Workers only add to their own cells and put into bounded queues; what is full is dropped and counted.

pub(crate) mod access_log;
mod entry;
pub(crate) mod metrics;
pub(crate) mod otlp;
pub(crate) mod record;
#[cfg(test)]
pub(crate) mod sample;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::warn;

use self::access_log::AccessLog;
use self::entry::Entry;
use self::metrics::WorkerMetrics;
use self::metrics::collect::Metrics;
use self::metrics::labels::Own;
use self::metrics::table;
use self::otlp::{Export, Spans};
use self::record::{ConnectionFacts, DestinationFacts, RequestRecord, TcpRecord, TraceContext};
use crate::config::Config;
use crate::filter::trace::Sampler;

/// All of telemetry; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    sampler: Arc<Sampler>,
    metrics: Metrics,
    spans: Spans,
    access_log: AccessLog,
    /// One token a worker thread.
    workers: TaskTracker,
}

impl Telemetry {
    /// Makes what workers write to, and what sends spans if there is a collector: run that on the control thread.
    pub(crate) fn new(config: &Config) -> (Self, Option<Export>) {
        let metrics = Metrics::new(Own {
            workload: config.workload.clone(),
            namespace: config.namespace.clone(),
            principal: config.spiffe_id.clone(),
            version: config.version_label.clone(),
        });
        let (spans, export) = Spans::new(&config.otel, &metrics);
        let dropped = metrics.number(table::LOG_DROPPED.at(&[]));
        let access_log = AccessLog::start(
            config.access_log,
            config.log_format,
            dropped,
            std::io::stdout(),
        );
        let sampler = Arc::new(Sampler::new(config.trace_sample));
        (
            Self {
                sampler,
                metrics,
                spans,
                access_log,
                workers: TaskTracker::new(),
            },
            export,
        )
    }

    /// Waits until every worker thread has told its last, at most [`LAST_WORDS`].
    pub(crate) async fn workers_gone(&self) {
        self.workers.close();
        if timeout(LAST_WORDS, self.workers.wait()).await.is_err() {
            warn!("a worker did not end in time; what it still had to tell is lost");
        }
    }

    /// Waits until the access log is written, at most a second; blocks. For the end of the process.
    pub(crate) fn flush(&self) {
        self.access_log.flush();
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
            spans: self.spans.clone(),
            access_log: self.access_log.clone(),
            _alive: self.workers.token(),
        }
    }
}

/// Telemetry of one worker thread.
#[derive(Debug)]
pub(crate) struct WorkerTelemetry {
    metrics: Rc<WorkerMetrics>,
    spans: Spans,
    access_log: AccessLog,
    _alive: TaskTrackerToken,
}

impl WorkerTelemetry {
    /// Tells metrics, trace and access log of a request that has ended.
    pub(crate) fn finish(&self, record: &RequestRecord) {
        self.metrics.request(record);
        let logged = self.access_log.wants_request(record);
        self.hand_over(logged, record.trace, || Entry::of_request(record));
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
        let logged = self.access_log.wants_tcp(record);
        self.hand_over(logged, record.trace, || Entry::of_tcp(record));
    }

    /// Makes an entry only for what is logged or traced.
    fn hand_over(&self, logged: bool, trace: TraceContext, entry: impl FnOnce() -> Entry) {
        let traced = trace.sampled && self.spans.wanted();
        if !logged && !traced {
            return;
        }
        let entry = Arc::new(entry());
        if logged {
            self.access_log.log(&entry);
        }
        if traced {
            self.spans.send(entry);
        }
    }

    /// What this worker counts of itself.
    pub(crate) fn metrics(&self) -> &Rc<WorkerMetrics> {
        &self.metrics
    }
}

/// How long the end of the process waits for its workers.
const LAST_WORDS: Duration = Duration::from_secs(2);
