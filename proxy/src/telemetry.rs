//! What the proxy tells operators: metrics, spans, access log.
//!
//! [`Telemetry`] belongs to the control thread; each worker thread takes one [`WorkerTelemetry`], through which the data path
//! tells what has ended. Workers only add to their own cells and put into bounded queues; what is full is dropped and counted.

pub(crate) mod access_log;
pub(crate) mod chain;
pub(crate) mod entry;
pub(crate) mod live;
pub(crate) mod mask;
pub(crate) mod metrics;
pub(crate) mod otlp;
pub(crate) mod recent;
pub(crate) mod record;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod tries;
pub(crate) mod waits;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::warn;
use weft_policy::Policy;

use self::access_log::AccessLog;
use self::chain::{Chain, WorkerChain};
use self::entry::Entry;
use self::live::Live;
use self::metrics::collect::Metrics;
use self::metrics::labels::Own;
use self::metrics::table;
use self::metrics::{Families, WorkerMetrics};
use self::otlp::{Export, Spans};
use self::recent::{Recent, Worth};
use self::record::{ConnectionFacts, DestinationFacts, RequestRecord, TcpRecord, TraceContext};
use crate::config::Config;
use crate::filter::trace::Sampler;
use crate::log;
use crate::policy::Policies;

/// All of telemetry; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    sampler: Arc<Sampler>,
    metrics: Metrics,
    spans: Spans,
    access_log: AccessLog,
    live: Live,
    recent: Recent,
    chain: Chain,
    /// One token a worker thread.
    workers: TaskTracker,
}

impl Telemetry {
    /// `policy` is that of the start. Makes what workers write to, and what sends spans if there is a collector: run that on the control thread.
    pub(crate) fn new(config: &Config, policy: &Policy) -> (Self, Option<Export>) {
        let own = Own {
            workload: config.workload.clone(),
            namespace: config.namespace.clone(),
            principal: config.spiffe_id.clone(),
            version: config.version_label.clone(),
        };
        let mut families = Families::default();
        if config.gateway_metrics {
            families = families.with_gateway();
        }
        if !config.metrics {
            families = families.without_traffic();
        }
        let metrics = Metrics::with_families(own, families);
        let live = Live::of(config);
        let otel = config.otel.with_collector(policy.trace.otlp.as_deref());
        let (spans, export) = Spans::new(&otel, &metrics, live.clone());
        let dropped = metrics.number(table::LOG_DROPPED.at(&[]));
        let access_log = AccessLog::new(live.clone(), dropped, std::io::stdout());
        let sampler = Arc::new(Sampler::new(config.trace_sample));
        (
            Self {
                sampler,
                metrics,
                spans,
                access_log,
                live,
                recent: Recent::new(),
                chain: Chain::default(),
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

    /// Takes in what policy says of traces and logs, now and whenever it changes; `own_level` is the log's without it.
    pub(crate) fn follow(&self, policies: &Policies, own_level: &str) {
        let (live, sampler) = (self.live.clone(), Arc::clone(&self.sampler));
        let (own, last) = (own_level.to_owned(), Mutex::new(None));
        policies.on_change(move |policy| {
            live.apply(policy);
            sampler.apply(policy.trace.sample);
            let before = std::mem::replace(&mut *last.lock(), policy.log.level.clone());
            let level = policy.log.level.as_ref().unwrap_or(&own);
            // Without a word of policy's, what was set at the admin listener stays.
            if before != policy.log.level
                && let Err(reason) = log::set_filter(level)
            {
                warn!(level, reason, "log.level is not taken");
            }
        });
    }

    /// How lines and spans are made.
    pub(crate) fn live(&self) -> &Live {
        &self.live
    }

    /// The last requests.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
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
            recent: self.recent.clone(),
            chain: self.chain.worker(),
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
    recent: Recent,
    chain: WorkerChain,
    _alive: TaskTrackerToken,
}

impl WorkerTelemetry {
    /// Tells metrics, trace and access log of a request that has ended.
    pub(crate) fn finish(&self, record: &RequestRecord) {
        self.metrics.request(record);
        if record.breaks_trace {
            self.chain.tell(record.destination.as_ref());
        }
        let failed = record.has_failed();
        self.hand_over(failed, record.trace, || Entry::of_request(record));
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
        let failed = record.error.is_some();
        self.hand_over(failed, record.trace, || Entry::of_tcp(record));
    }

    /// Makes an entry only for what has failed, is logged, traced or watched.
    fn hand_over(&self, failed: bool, trace: TraceContext, entry: impl FnOnce() -> Entry) {
        let logged = self.access_log.wants(failed);
        let traced = trace.sampled && self.spans.wanted();
        if !(failed || logged || traced || self.recent.is_watched()) {
            return;
        }
        let entry = Arc::new(entry());
        if logged {
            self.access_log.log(&entry);
        }
        let worth = if failed || trace.sampled {
            Worth::Notable
        } else {
            Worth::Other
        };
        self.recent.keep(Arc::clone(&entry), worth);
        if traced {
            self.spans.send(entry);
        }
    }

    /// Traces that our app is to continue.
    pub(crate) fn chain(&self) -> &WorkerChain {
        &self.chain
    }

    /// What this worker counts of itself.
    pub(crate) fn metrics(&self) -> &Rc<WorkerMetrics> {
        &self.metrics
    }
}

/// How long the end of the process waits for its workers.
const LAST_WORDS: Duration = Duration::from_secs(2);
