//! How long a request waited for something, without a look at the clock where it did not.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::time::{Duration, Instant};

/// Awaits `future`, and adds to `waited` how long that took unless it was ready at once.
pub(crate) async fn timed<T>(
    future: impl Future<Output = T>,
    waited: &Cell<Option<Duration>>,
) -> T {
    let mut future = pin!(future);
    let first = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    if let Poll::Ready(value) = first {
        return value;
    }
    let begun = Instant::now();
    let value = future.await;
    waited.set(Some(waited.get().unwrap_or_default() + begun.elapsed()));
    value
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_was_waited_for_counts() {
        let waited = Cell::default();
        assert_eq!(timed(async { 7 }, &waited).await, 7);
        assert_eq!(waited.get(), None);
        for _ in 0..2 {
            timed(sleep(Duration::from_millis(20)), &waited).await;
        }
        assert_eq!(waited.get(), Some(Duration::from_millis(40)));
    }
}
