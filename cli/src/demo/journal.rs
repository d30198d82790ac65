//! What has happened so far: written by the collector and the processes' attendants, read by the script and the watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::trace::{Span, Trace};
use crate::app::Seen;

/// A process that ended without being asked to.
#[derive(Debug, Clone)]
pub(crate) struct Death {
    pub(crate) process: String,
    pub(crate) status: String,
    /// The last lines it wrote.
    pub(crate) output: Vec<String>,
}

impl std::fmt::Display for Death {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ended: {}", self.process, self.status)?;
        for line in &self.output {
            write!(out, "\n    {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Death {}

/// All entries. Bounded: the oldest trace goes when there are [`MAX_TRACES`].
#[derive(Debug, Default)]
pub(crate) struct Entries {
    traces: VecDeque<Trace>,
    pub(crate) death: Option<Death>,
    /// How many exports the operator's collector took.
    pub(crate) forwarded: u64,
    /// Why spans do not reach the collector the operator named; the last reason.
    pub(crate) not_forwarded: Option<String>,
}

impl Entries {
    pub(crate) fn trace(&self, id: &str) -> Option<&Trace> {
        self.traces.iter().find(|trace| trace.id == id)
    }

    pub(crate) fn add_span(&mut self, trace: &str, span: Span, now: Instant) {
        let trace = self.entry(trace, now);
        if trace.spans.len() < MAX_SPANS {
            trace.spans.push(span);
        }
    }

    pub(crate) fn add_seen(&mut self, seen: Seen, now: Instant) {
        if let Some(id) = seen.trace().map(str::to_owned) {
            let trace = self.entry(&id, now);
            if trace.seen.len() < MAX_SPANS {
                trace.seen.push(seen);
            }
        }
    }

    /// Takes the traces nothing was added to since `quiet` before `now`, each once.
    pub(crate) fn take_settled(&mut self, now: Instant, quiet: Duration) -> Vec<Trace> {
        let settled = |trace: &&mut Trace| {
            !trace.shown && !trace.spans.is_empty() && now.duration_since(trace.touched) >= quiet
        };
        let mut taken = Vec::new();
        for trace in self.traces.iter_mut().filter(settled) {
            trace.shown = true;
            taken.push(trace.clone());
        }
        taken
    }

    fn entry(&mut self, id: &str, now: Instant) -> &mut Trace {
        let at = self.traces.iter().position(|trace| trace.id == id);
        let mut trace = at
            .and_then(|at| self.traces.remove(at))
            .unwrap_or_else(|| Trace::new(id.to_owned(), now));
        trace.touched = now;
        if self.traces.len() == MAX_TRACES {
            self.traces.pop_front();
        }
        self.traces.push_back_mut(trace)
    }
}

/// A handle on the entries; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Journal(Arc<watch::Sender<Entries>>);

impl Journal {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Entries::default())))
    }

    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        let mut result = None;
        self.0.send_modify(|entries| result = Some(change(entries)));
        result.expect("send_modify calls its argument")
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Entries) -> T) -> T {
        look(&self.0.borrow())
    }

    /// Waits until `find` finds something in the entries, for `within` at the most.
    ///
    /// # Errors
    /// A process died, or `within` is over: then `None` is in the error's place.
    pub(crate) async fn find<T>(
        &self,
        within: Duration,
        find: impl Fn(&Entries) -> Option<T>,
    ) -> Result<T, Option<Death>> {
        let mut entries = self.0.subscribe();
        let search = async {
            loop {
                let found = {
                    let now = entries.borrow_and_update();
                    if let Some(death) = &now.death {
                        return Err(Some(death.clone()));
                    }
                    find(&now)
                };
                match found {
                    Some(found) => return Ok(found),
                    None if entries.changed().await.is_err() => return Err(None),
                    None => {}
                }
            }
        };
        tokio::time::timeout(within, search)
            .await
            .unwrap_or(Err(None))
    }

    /// Waits for the death of a process.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn death(&self) -> Death {
        let mut entries = self.0.subscribe();
        let death = entries.wait_for(|entries| entries.death.is_some()).await;
        let death = death.ok().and_then(|entries| entries.death.clone());
        death.expect("the sender lives as long as this handle, and the wait was for a death")
    }
}

const MAX_TRACES: usize = 256;
const MAX_SPANS: usize = 256;

#[cfg(test)]
mod tests {
    use super::super::trace::Side;
    use super::super::trace::tests::span;
    use super::*;

    fn add(entries: &mut Entries, trace: &str, now: Instant) {
        entries.add_span(trace, span(("web", Side::Inbound), "1", "", (0, 1)), now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trace_is_settled_once_and_only_after_it_was_quiet() {
        let quiet = Duration::from_millis(300);
        let (mut entries, start) = (Entries::default(), Instant::now());
        add(&mut entries, "a", start);
        assert!(entries.take_settled(start, quiet).is_empty());
        add(&mut entries, "a", start + quiet);
        assert!(entries.take_settled(start + quiet, quiet).is_empty());
        assert_eq!(entries.take_settled(start + 2 * quiet, quiet).len(), 1);
        assert!(entries.take_settled(start + 3 * quiet, quiet).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_trace_goes_when_there_are_too_many() {
        let (mut entries, now) = (Entries::default(), Instant::now());
        for number in 0..=MAX_TRACES {
            add(&mut entries, &number.to_string(), now);
        }
        assert!(entries.trace("0").is_none());
        assert!(entries.trace("1").is_some());
        assert_eq!(entries.traces.len(), MAX_TRACES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_death_ends_a_search_and_time_does_too() {
        let journal = Journal::new();
        let nothing = |_: &Entries| None::<()>;
        assert!(
            journal
                .find(Duration::from_secs(1), nothing)
                .await
                .unwrap_err()
                .is_none()
        );
        journal.write(|entries| {
            entries.death = Some(Death {
                process: "orders".to_owned(),
                status: "exit status: 1".to_owned(),
                output: Vec::new(),
            });
        });
        let death = journal
            .find(Duration::from_secs(1), nothing)
            .await
            .unwrap_err();
        assert_eq!(death.unwrap().process, "orders");
    }
}
