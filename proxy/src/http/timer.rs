//! A deadline that moves with every message and is hardly ever reached.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Duration, Instant, Sleep, sleep_until};

/// A time-out of one connection. Setting it costs nothing: the clock is read when somebody begins to wait, and the runtime's
/// timer is touched when the deadline comes nearer, and when it fires too early.
#[derive(Debug)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    limit: Duration,
    /// Counted from the first wait; `None` before it.
    deadline: Option<Instant>,
}

impl Timer {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            sleep: None,
            limit,
            deadline: None,
        }
    }

    /// Starts anew, with the next wait.
    pub(crate) fn set(&mut self, limit: Duration) {
        self.limit = limit;
        self.deadline = None;
    }

    /// Ready when the time is up.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + limit);
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_latest_deadline_and_not_before() {
        let begun = Instant::now();
        let mut timer = Timer::new(Duration::from_secs(10));
        let waited = poll_fn(|cx| Poll::Ready(timer.poll(cx))).await;
        assert!(waited.is_pending());
        timer.set(Duration::from_secs(30));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 30);
        timer.set(Duration::from_secs(5));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 35);
    }
}
