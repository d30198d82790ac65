//! Named, tracked tasks: the only caller of tokio's spawn functions.
//!
//! A task that nobody names cannot be waited for at shutdown, so both spawn functions of tokio are lints elsewhere.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug_span};

/// The tasks of one thread's runtime, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// Spawns a `Send` task of the control thread.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that names and tracks tasks"
    )]
    pub(crate) fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        tokio::spawn(
            self.tracker
                .track_future(future.instrument(debug_span!("task", name))),
        )
    }

    /// Spawns a task on the worker's own thread; must be called inside its `LocalSet`.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that names and tracks tasks"
    )]
    pub(crate) fn spawn_local<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
    {
        tokio::task::spawn_local(self.tracker.track_future(future))
    }

    /// Number of tasks that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until every task has ended; none may be spawned afterwards.
    pub(crate) async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Ends a task when whoever waits for its effect is gone.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    pub(crate) fn new(task: JoinHandle<()>) -> Self {
        Self(task)
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
