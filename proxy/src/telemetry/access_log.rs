//! One line for each request or opaque connection, as JSON or text, on standard output.
//!
//! Workers put entries into a bounded queue and never wait; one thread makes lines of them and writes. What does not fit
//! is dropped and counted. `docs/access-log.md` lists the fields and is tested against `access_log/line.rs`.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::warn;

use super::entry::Entry;
use super::live::Live;
use super::mask::Mask;
use super::metrics::collect::Number;
use crate::config::AccessLogMode;

mod line;
#[cfg(test)]
mod tests;
mod time;

/// Where workers put their entries; clones share the queue.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    live: Live,
    queue: Arc<Queue>,
    dropped: Number,
}

/// The way to the writer, whose thread begins with the first line.
struct Queue {
    sender: OnceLock<Option<SyncSender<Message>>>,
    output: Mutex<Option<Box<dyn Write + Send>>>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

enum Message {
    Entry(Arc<Entry>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Lines go to `output`. The writer ends when the last clone is dropped.
    pub(crate) fn new(live: Live, dropped: Number, output: impl Write + Send + 'static) -> Self {
        Self {
            live,
            queue: Arc::new(Queue {
                sender: OnceLock::new(),
                output: Mutex::new(Some(Box::new(output))),
            }),
            dropped,
        }
    }

    /// Whether a line is wanted for what `failed` or did not.
    pub(super) fn wants(&self, failed: bool) -> bool {
        match self.live.access() {
            AccessLogMode::Off => false,
            AccessLogMode::Errors => failed,
            AccessLogMode::All => true,
        }
    }

    /// Puts an entry into the queue, or drops and counts it.
    pub(super) fn log(&self, entry: &Arc<Entry>) {
        let Some(queue) = self.queue.writer(&self.live) else {
            return;
        };
        if queue.try_send(Message::Entry(Arc::clone(entry))).is_err() {
            self.dropped.add(1);
        }
    }

    /// Waits until all that was put before is written, at most [`FLUSH`]; blocks.
    pub(crate) fn flush(&self) {
        let Some(queue) = self.queue.sender.get().and_then(Option::as_ref) else {
            return;
        };
        let (written, wait) = mpsc::sync_channel(1);
        if queue.try_send(Message::Flush(written)).is_ok() {
            // What is not written by then is lost with the process.
            let _result = wait.recv_timeout(FLUSH);
        }
    }
}

impl Queue {
    fn writer(&self, live: &Live) -> Option<&SyncSender<Message>> {
        let start = || start_writer(live.clone(), self.output.lock().take()?);
        self.sender.get_or_init(start).as_ref()
    }
}

fn start_writer(live: Live, output: Box<dyn Write + Send>) -> Option<SyncSender<Message>> {
    let (queue, entries) = mpsc::sync_channel(QUEUE);
    let run = move || write_all(&entries, &live, output);
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
fn write_all(entries: &Receiver<Message>, live: &Live, mut output: impl Write) {
    let mut lines = String::new();
    let mut flushed = Vec::new();
    let mut failed = false;
    while let Ok(first) = entries.recv() {
        let made = live.made();
        for message in std::iter::once(first).chain(entries.try_iter().take(BATCH)) {
            match message {
                Message::Entry(entry) => line::write(&mut lines, &entry, &made),
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

/// The fields of a line of `entry`, in their order.
pub(crate) fn fields(entry: &Entry, mask: &Mask) -> Vec<(&'static str, serde_json::Value)> {
    line::fields(entry, mask)
}
