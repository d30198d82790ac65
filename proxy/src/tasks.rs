//! Named tasks: the only caller of tokio's spawn functions.
//!
//! Both are lints elsewhere, so that whoever looks for what runs beside the requests finds all of it from here. What must
//! be waited for at shutdown is counted where it is known: connections in `app`.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::{Instrument, debug_span};

/// Spawns the tasks of one thread's runtime.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks(());

impl Tasks {
    /// Spawns a `Send` task of the control thread.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub(crate) fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        tokio::spawn(future.instrument(debug_span!("task", name)))
    }

    /// Spawns a task on the worker's own thread; must be called inside its `LocalSet`.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub(crate) fn spawn_local<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
    {
        tokio::task::spawn_local(future)
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
