//! Metrics: cells of each worker, summed when somebody reads them.
//!
//! `metrics/table.rs` names all that is ours, `metrics/istio.rs` what the ecosystem expects of a mesh; `metrics/collect.rs` turns
//! both into what the `prometheus` crate writes. `docs/metrics.md` is tested against them.

use std::cell::OnceCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use self::cell::{Cell, Family, WorkerFamily};
use self::gateway::{GatewayCells, GatewayKey, GatewaySeries};
use self::istio::{RequestCells, RequestSeries, TcpCells, TcpSeries};
use self::table::Point;
use super::record::{ConnectionFacts, DestinationFacts, Direction, RequestRecord, TcpRecord};

pub(super) mod cell;
pub(crate) mod collect;
pub(crate) mod edges;
mod gateway;
pub(crate) mod istio;
pub(crate) mod labels;
pub(crate) mod open;
mod process;
pub(crate) mod suppliers;
pub(crate) mod table;
#[cfg(test)]
mod tests;

/// Series of our own: fixed words only, so this many are never reached.
const OWN_SERIES: usize = 1024;

/// Label sets of Istio's metrics. One has 25 labels and 70 lines in the answer to a scrape, some 60 KB in all.
const ISTIO_SERIES: usize = 500;

/// The families of the whole proxy; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Families {
    own: Arc<Family<Point, Cell>>,
    requests: Arc<Family<RequestSeries, RequestCells>>,
    tcp: Arc<Family<TcpSeries, TcpCells>>,
    /// Requests and opaque connections are counted.
    traffic: bool,
    /// `None` where nobody asks for it.
    gateway: Option<Arc<Family<GatewaySeries, GatewayCells>>>,
}

impl Default for Families {
    fn default() -> Self {
        Self::with_limit(ISTIO_SERIES)
    }
}

impl Families {
    fn with_limit(series: usize) -> Self {
        Self {
            own: Family::new(OWN_SERIES),
            requests: Family::new(series),
            tcp: Family::new(series),
            gateway: None,
            traffic: true,
        }
    }

    /// Without those of requests and opaque connections.
    #[must_use]
    pub(crate) fn without_traffic(mut self) -> Self {
        self.traffic = false;
        self
    }

    /// With those of an API gateway.
    #[must_use]
    pub(crate) fn with_gateway(mut self) -> Self {
        self.gateway = Some(Family::new(ISTIO_SERIES));
        self
    }

    /// The view of one worker thread, to be made there.
    pub(crate) fn worker(&self) -> Rc<WorkerMetrics> {
        Rc::new(WorkerMetrics {
            own: WorkerFamily::new(&self.own),
            requests: WorkerFamily::new(&self.requests),
            tcp: WorkerFamily::new(&self.tcp),
            traffic: self.traffic,
            gateway: self.gateway.as_ref().map(WorkerFamily::new),
            rate_limits: RateLimitCells::default(),
        })
    }
}

/// What one worker thread counts.
#[derive(Debug)]
pub(crate) struct WorkerMetrics {
    own: WorkerFamily<Point, Cell>,
    requests: WorkerFamily<RequestSeries, RequestCells>,
    tcp: WorkerFamily<TcpSeries, TcpCells>,
    traffic: bool,
    gateway: Option<WorkerFamily<GatewaySeries, GatewayCells>>,
    rate_limits: RateLimitCells,
}

/// Where each limit's decisions are counted: found once, for every request has one.
#[derive(Debug, Default)]
struct RateLimitCells {
    passed: [OnceCell<Arc<Cell>>; PLACES.len()],
    refused: [OnceCell<Arc<Cell>>; PLACES.len()],
}

impl WorkerMetrics {
    /// Counts a downstream connection as accepted, and as open until the guard is dropped.
    pub(crate) fn connection(&self, direction: Direction, secure: bool) -> OpenGauge {
        let (open, accepted) = match direction {
            Direction::Inbound => (&table::INBOUND_OPEN, &table::INBOUND_ACCEPTED),
            Direction::Outbound => (&table::OUTBOUND_OPEN, &table::OUTBOUND_ACCEPTED),
        };
        let security = [if secure { "mutual_tls" } else { "none" }];
        self.count(accepted.at(&security));
        OpenGauge::new(self.own.cell(&open.at(&security)))
    }

    /// Where upstream connections in this state are counted.
    pub(crate) fn pool_connections(&self, state: PoolState) -> Gauge {
        let state = match state {
            PoolState::Open => "open",
            PoolState::Idle => "idle",
        };
        Gauge(self.own.cell(&table::POOL.at(&[state])))
    }

    /// Counts a mesh handshake that succeeded.
    pub(crate) fn handshake_done(&self, direction: Direction) {
        self.count(table::HANDSHAKES.at(&[direction.label(), "ok", ""]));
    }

    /// Counts a mesh handshake that failed; `reason` is a fixed word.
    pub(crate) fn handshake_failed(&self, direction: Direction, reason: &'static str) {
        self.count(table::HANDSHAKES.at(&[direction.label(), "failed", reason]));
    }

    /// Counts a connection or request that this proxy refused; `reason` is a label of `reject.rs`.
    pub(crate) fn refused(&self, direction: Direction, reason: &'static str) {
        self.count(table::REJECTS.at(&[direction.label(), reason]));
    }

    /// Counts a message that was refused or repaired; `reason` is a fixed word.
    pub(crate) fn malformed(&self, reason: &'static str) {
        self.count(table::MALFORMED.at(&[reason]));
    }

    /// Counts an inbound connection without mutual TLS.
    pub(crate) fn plaintext_connection(&self) {
        self.count(table::PLAINTEXT.at(&[]));
    }

    /// Counts what would have been refused if policy enforced its rules; `reason` is a label of `reject.rs`.
    pub(crate) fn audited(&self, reason: &'static str) {
        self.count(table::AUTHZ_AUDIT.at(&[reason]));
    }

    /// Counts one more attempt at a request; `reason` is a label of `reject.rs`.
    pub(crate) fn retried(&self, reason: &'static str) {
        self.count(table::RETRIES.at(&[reason]));
    }

    /// Counts a circuit breaker that opened or closed.
    pub(crate) fn breaker(&self, to: &'static str) {
        self.count(table::BREAKERS.at(&[to]));
    }

    /// Counts a decision of the rate limit at `place` of the policy.
    pub(crate) fn rate_limited(&self, place: usize, decision: Decision) {
        let named = PLACES.get(place).unwrap_or(&"more");
        let (word, cells) = match decision {
            Decision::Passed => ("passed", &self.rate_limits.passed),
            Decision::Refused => ("refused", &self.rate_limits.refused),
        };
        let point = table::RATE_LIMIT.at(&[named, word]);
        match cells.get(place) {
            Some(cell) => cell.get_or_init(|| self.own.cell(&point)).add(1),
            None => self.count(point),
        }
    }

    /// Counts a fault; `kind` is a fixed word.
    pub(crate) fn fault(&self, kind: &'static str) {
        self.count(table::FAULTS.at(&[kind]));
    }

    /// Counts a copy of a request; `result` is a fixed word.
    pub(crate) fn mirrored(&self, result: &'static str) {
        self.count(table::MIRRORED.at(&[result]));
    }

    /// Counts a request that has ended.
    pub(super) fn request(&self, record: &RequestRecord) {
        if self.traffic {
            self.requests
                .with(&istio::RequestKey::of(record), |cells| cells.count(record));
        }
        if let (Some(gateway), Direction::Outbound) = (&self.gateway, record.connection.direction) {
            gateway.with(&GatewayKey::of(record), |cells| cells.count(record));
        }
        if record.breaks_trace {
            self.count(table::TRACE_BROKEN.at(&[]));
        }
        if let Some(reason) = record.reject {
            self.refused(record.connection.direction, reason);
        }
    }

    /// Counts an opaque connection that begins.
    pub(super) fn tcp_opened(
        &self,
        connection: &ConnectionFacts,
        destination: Option<&DestinationFacts>,
    ) {
        if self.traffic {
            self.tcp.with(
                &istio::TcpKey::opened(connection, destination),
                TcpCells::opened,
            );
        }
    }

    /// Counts an opaque connection that has ended.
    pub(super) fn tcp_closed(&self, record: &TcpRecord) {
        if self.traffic {
            self.tcp
                .with(&istio::TcpKey::closed(record), |cells| cells.closed(record));
        }
        if let Some(reason) = record.error.filter(|reason| !istio::is_no_reject(reason)) {
            self.refused(record.connection.direction, reason);
        }
    }

    fn count(&self, point: Point) {
        self.own.with(&point, |cell| cell.add(1));
    }
}

/// What a rate limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Passed,
    Refused,
}

/// Limits have no names, and labels are fixed words: their places in the policy, as far as anybody writes as many.
const PLACES: [&str; 16] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15",
];

/// What is counted of an upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolState {
    /// It is there.
    Open,
    /// It is kept without a request (HTTP/1).
    Idle,
}

impl Direction {
    /// Value of the label `direction`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// A gauge that was found once, for who counts in it often.
#[derive(Debug)]
pub(crate) struct Gauge(Arc<Cell>);

impl Gauge {
    /// Adds one until the guard is dropped.
    pub(crate) fn open(&self) -> OpenGauge {
        OpenGauge::new(Arc::clone(&self.0))
    }
}

/// Adds one to a gauge for as long as it is there.
#[derive(Debug)]
pub(crate) struct OpenGauge {
    cell: Arc<Cell>,
    _one_thread: PhantomData<Rc<()>>,
}

impl OpenGauge {
    fn new(cell: Arc<Cell>) -> Self {
        cell.add(1);
        Self {
            cell,
            _one_thread: PhantomData,
        }
    }
}

impl Drop for OpenGauge {
    fn drop(&mut self) {
        self.cell.subtract(1);
    }
}
