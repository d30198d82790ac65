//! Metrics: cells of each worker, summed when they are read.

use super::record::Direction;

/// What one worker thread counts.
#[derive(Debug, Default)]
pub(crate) struct WorkerMetrics {}

impl WorkerMetrics {
    /// Counts a downstream connection as accepted, and as open until the guard is dropped.
    pub(crate) fn connection(&self, _direction: Direction, _secure: bool) -> OpenConnection {
        OpenConnection {}
    }

    /// Counts a mesh handshake that succeeded.
    pub(crate) fn handshake_done(&self, _direction: Direction) {}

    /// Counts a mesh handshake that failed.
    pub(crate) fn handshake_failed(&self, _direction: Direction, _reason: &'static str) {}

    /// Counts a connection or request that this proxy refused.
    pub(crate) fn refused(&self, _direction: Direction, _reason: &'static str) {}

    /// Counts a message that was refused or repaired.
    pub(crate) fn malformed(&self, _reason: &'static str) {}

    /// Counts an inbound connection without mutual TLS.
    pub(crate) fn plaintext_connection(&self) {}

    /// Counts one more attempt at a request.
    pub(crate) fn retried(&self, _reason: &'static str) {}
}

/// Counts as an open connection for as long as it is there.
#[derive(Debug)]
pub(crate) struct OpenConnection {}
