//! Spans to a collector over OTLP, off the workers' threads.
//!
//! Workers put sampled entries into a bounded queue and never wait. One task on the control thread makes spans of them
//! (`otlp/span.rs`), a batch at a time, and sends them (`otlp/exporter.rs`). A collector that is away costs spans, which are
//! counted, and nothing else.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::exporter::{ExportError, Exporter};
use super::entry::Entry;
use super::live::Live;
use super::metrics::collect::{Metrics, Number, as_f64};
use super::metrics::table;
use crate::config::otel::{Batch, Otel};

mod connection;
mod encode;
mod exporter;
pub(crate) mod span;
#[cfg(test)]
mod tests;

/// Where workers put sampled entries; clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    /// `None` without a collector: then a sampled request costs nothing here.
    queue: Option<mpsc::Sender<Arc<Entry>>>,
    dropped: Number,
}

impl Spans {
    /// The queue, and what empties it if there is a collector.
    pub(crate) fn new(otel: &Otel, metrics: &Metrics, live: Live) -> (Self, Option<Export>) {
        let dropped = metrics.number(table::SPANS_DROPPED.at(&["queue_full"]));
        let Some(config) = &otel.export else {
            return (
                Self {
                    queue: None,
                    dropped,
                },
                None,
            );
        };
        let (queue, entries) = mpsc::channel(config.batch.queue);
        // Weak, so that the queue ends with those who fill it.
        let looked_at = queue.downgrade();
        metrics.read_from(table::SPANS_QUEUED.at(&[]), move || {
            let queue = looked_at.upgrade();
            let waiting = queue.map_or(0, |queue| queue.max_capacity() - queue.capacity());
            as_f64(waiting as u64)
        });
        let export = Export {
            entries,
            batch: config.batch,
            exporter: Exporter::new(config.clone(), &otel.resource),
            live,
            exported: metrics.number(table::SPANS_EXPORTED.at(&[])),
            failed: metrics.number(table::SPANS_DROPPED.at(&["export_failed"])),
            failing: false,
        };
        (
            Self {
                queue: Some(queue),
                dropped,
            },
            Some(export),
        )
    }

    /// Whether anybody takes spans.
    pub(super) fn wanted(&self) -> bool {
        self.queue.is_some()
    }

    /// Puts an entry into the queue, or drops and counts it.
    pub(super) fn send(&self, entry: Arc<Entry>) {
        let Some(queue) = &self.queue else { return };
        if queue.try_send(entry).is_err() {
            self.dropped.add(1);
        }
    }
}

/// Empties the queue.
#[derive(Debug)]
pub(crate) struct Export {
    entries: mpsc::Receiver<Arc<Entry>>,
    batch: Batch,
    exporter: Exporter,
    live: Live,
    exported: Number,
    failed: Number,
    /// The last export failed, which was said.
    failing: bool,
}

impl Export {
    /// Sends batches until `stop`, then what is left, for at most [`LAST_EXPORT`].
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        while stop.run_until_cancelled(self.fill(&mut batch)).await == Some(More::Yes) {
            let limit = self.batch.export_timeout;
            if stop
                .run_until_cancelled(self.export(&batch, limit))
                .await
                .is_none()
            {
                break;
            }
            batch.clear();
        }
        self.entries.close();
        while let Ok(entry) = self.entries.try_recv() {
            batch.push(entry);
        }
        for part in batch.chunks(self.batch.size) {
            self.export(part, LAST_EXPORT).await;
        }
    }

    /// Waits for a first entry, and then until the batch is full or the delay has passed.
    ///
    /// # Cancel safety
    /// What has arrived is in `batch`.
    async fn fill(&mut self, batch: &mut Vec<Arc<Entry>>) -> More {
        let Some(first) = self.entries.recv().await else {
            return More::No;
        };
        batch.push(first);
        let size = self.batch.size;
        let end = Instant::now() + self.batch.delay;
        loop {
            while batch.len() < size
                && let Ok(entry) = self.entries.try_recv()
            {
                batch.push(entry);
            }
            let left = end.saturating_duration_since(Instant::now());
            if batch.len() >= size || left.is_zero() || self.entries.is_closed() {
                break;
            }
            // Whoever waits on the queue is woken by each span, which costs workers a system call.
            sleep(left.min(TICK)).await;
        }
        More::Yes
    }

    async fn export(&mut self, batch: &[Arc<Entry>], limit: Duration) {
        if batch.is_empty() {
            return;
        }
        let made = self.live.made();
        let mut spans = encode::Batch::with_room(batch.len());
        for entry in batch {
            span::each(entry, &made, |span| spans.push(span));
        }
        let count = spans.count();
        let sent = timeout(limit, Box::pin(self.exporter.export(&spans))).await;
        let sent = sent.unwrap_or(Err(ExportError::Timeout(limit)));
        match &sent {
            Ok(()) => self.exported.add(count),
            Err(_) => self.failed.add(count),
        }
        match &sent {
            Ok(()) if self.failing => info!("spans reach the collector again"),
            Err(error) if !self.failing => {
                warn!(%error, collector = %self.exporter.endpoint(), "spans are lost: the collector takes none");
            }
            Ok(()) | Err(_) => {}
        }
        self.failing = sent.is_err();
    }
}

/// Whether there may be more entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

/// How long the end of the process may wait for the collector.
const LAST_EXPORT: Duration = Duration::from_secs(2);
/// How often the queue is looked into while spans come: the default one holds what 100,000 requests a second make meanwhile.
const TICK: Duration = Duration::from_millis(20);
