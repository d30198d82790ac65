//! Waiting without sleeping: for something that must come to pass, and not for ever for anything.

use std::fmt::Debug;

use tokio::time::{Duration, Instant, interval, timeout};

/// Looks again and again until `reached` is content with what `look` sees.
///
/// # Panics
/// Shows what was seen last when that does not happen within `limit`.
#[track_caller]
pub fn eventually<T: Debug>(
    limit: Duration,
    mut look: impl AsyncFnMut() -> T,
    mut reached: impl FnMut(&T) -> bool,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + limit;
        let mut ticks = interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
            let seen = look().await;
            if reached(&seen) {
                return seen;
            }
            assert!(
                Instant::now() < end,
                "{caller}: not within {limit:?}; seen last: {seen:?}"
            );
        }
    }
}

/// Waits for `future`, but no longer than [`PATIENCE`].
///
/// # Panics
/// Names the caller when it takes longer.
#[track_caller]
pub fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    within(PATIENCE, future)
}

/// Waits for `future`, but no longer than `limit`.
///
/// # Panics
/// Names the caller when it takes longer.
#[track_caller]
pub fn within<F: Future>(limit: Duration, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match timeout(limit, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: not within {limit:?}"),
        }
    }
}

/// Longer than anything here should take on a busy machine, shorter than a test runner's own limit.
pub const PATIENCE: Duration = Duration::from_secs(20);
