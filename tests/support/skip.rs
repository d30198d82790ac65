//! Skipping a test, loudly: a skip that nobody sees reads as a pass.

use std::io::{self, Write};

/// Says on the process's own standard error that the running test is skipped, and why.
///
/// A test runner swallows what `println!` and its kin write, but not this. The line begins with `SKIPPED`, which is what
/// `.ci/run` counts.
///
/// # Panics
/// Under `CI=true`, where everything that a test needs must be there.
pub fn skip(reason: &str) {
    let test = test_name();
    // One write, so that lines of tests that run at once do not mix.
    let _ = io::stderr().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes());
    assert!(!in_ci(), "{test} may not be skipped in CI: {reason}");
}

/// Returns the name of the running test: the test runner names its threads so.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

#[expect(
    clippy::disallowed_methods,
    reason = "CI tells of itself by this variable alone"
)]
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}
