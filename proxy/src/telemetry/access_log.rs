//! One line for each request or opaque connection, as JSON or text, on standard output.
//!
//! Workers put entries into a bounded queue and never wait; one thread makes lines of them and writes. What does not fit
//! is dropped and counted. `docs/access-log.md` lists the fields and is tested against `access_log/line.rs`.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use tracing::warn;

use super::entry::Entry;
use super::metrics::collect::Number;
use super::record::{End, RequestRecord, TcpRecord};
use crate::config::{AccessLogMode, LogFormat};

mod line;
#[cfg(test)]
mod tests;
mod time;

/// Where workers put their entries; clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    mode: AccessLogMode,
    /// `None` where nothing is logged.
    queue: Option<SyncSender<Message>>,
    dropped: Number,
}

enum Message {
    Entry(Arc<Entry>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Starts the writer, which ends when the last clone is dropped.
    pub(crate) fn start(
        mode: AccessLogMode,
        format: LogFormat,
        dropped: Number,
        output: impl Write + Send + 'static,
    ) -> Self {
        let queue = match mode {
            AccessLogMode::Off => None,
            AccessLogMode::Errors | AccessLogMode::All => start_writer(format, output),
        };
        Self {
            mode,
            queue,
            dropped,
        }
    }

    /// Whether a line is wanted for this request.
    pub(super) fn wants_request(&self, record: &RequestRecord) -> bool {
        let failed = record.reject.is_some()
            || record.end == End::UpstreamFailed
            || record.status.is_some_and(|status| status.is_server_error())
            || record
                .grpc_status
                .is_some_and(super::entry::is_server_failure);
        self.wants(failed)
    }

    /// Whether a line is wanted for this connection.
    pub(super) fn wants_tcp(&self, record: &TcpRecord) -> bool {
        self.wants(record.error.is_some())
    }

    fn wants(&self, failed: bool) -> bool {
        match self.mode {
            AccessLogMode::Off => false,
            AccessLogMode::Errors => failed,
            AccessLogMode::All => true,
        }
    }

    /// Puts an entry into the queue, or drops and counts it.
    pub(super) fn log(&self, entry: &Arc<Entry>) {
        let Some(queue) = &self.queue else { return };
        if queue.try_send(Message::Entry(Arc::clone(entry))).is_err() {
            self.dropped.add(1);
        }
    }

    /// Waits until all that was put before is written, at most [`FLUSH`]; blocks.
    pub(crate) fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (written, wait) = mpsc::sync_channel(1);
        if queue.try_send(Message::Flush(written)).is_ok() {
            // What is not written by then is lost with the process.
            let _result = wait.recv_timeout(FLUSH);
        }
    }
}

fn start_writer(
    format: LogFormat,
    output: impl Write + Send + 'static,
) -> Option<SyncSender<Message>> {
    let (queue, entries) = mpsc::sync_channel(QUEUE);
    let run = move || write_all(&entries, format, output);
    match thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(run)
    {
        Ok(_detached) => Some(queue),
        Err(error) => {
            warn!(%error, "no thread for the access log, which stays empty");
            None
        }
    }
}

/// Writes until every sender is gone: whatever is there with one write.
fn write_all(entries: &Receiver<Message>, format: LogFormat, mut output: impl Write) {
    let mut lines = String::new();
    let mut flushed = Vec::new();
    let mut failed = false;
    while let Ok(first) = entries.recv() {
        for message in std::iter::once(first).chain(entries.try_iter().take(BATCH)) {
            match message {
                Message::Entry(entry) => line::write(&mut lines, &entry, format),
                Message::Flush(done) => flushed.push(done),
            }
        }
        let written = output
            .write_all(lines.as_bytes())
            .and_then(|()| output.flush());
        note_failure(written, &mut failed);
        lines.clear();
        for done in flushed.drain(..) {
            // Who asked may have stopped waiting.
            let _result = done.try_send(());
        }
    }
}

/// Says so once: a closed output would otherwise fill the log.
fn note_failure(written: io::Result<()>, failed: &mut bool) {
    match written {
        Ok(()) => *failed = false,
        Err(error) if !*failed => {
            *failed = true;
            warn!(%error, "access log cannot be written");
        }
        Err(_) => {}
    }
}

/// About 2 MB of entries at most.
const QUEUE: usize = 4096;
/// Lines in one write.
const BATCH: usize = 256;
/// How long the end of the process may wait for its log.
const FLUSH: Duration = Duration::from_secs(1);
