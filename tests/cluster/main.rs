//! Against a real API server: the one that `TEST_KUBECONFIG` names. Without it each test says that it is skipped.
//!
//! Objects get names of their own in namespaces of their own, so that tests may run side by side and one after another.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]
#![expect(
    clippy::large_futures,
    reason = "a test is one future, and there is one of it"
)]

mod api_server;
mod authority;
mod ca;
mod discovery;
mod injector;
mod subscriber;
mod webhook;
