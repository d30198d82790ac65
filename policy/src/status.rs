//! Status sets and gRPC codes, as they are written: `503`, `5xx`, `500-504`, `gateway-error`, `unavailable`.

use std::ops::RangeInclusive;

/// Some HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(pub RangeInclusive<u16>);

impl StatusSet {
    /// Whether `status` is one of them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.contains(&status)
    }
}

/// gRPC status codes (gRPC, Status codes and their use in gRPC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcCode(pub u8);

impl GrpcCode {
    /// Names in the order of their numbers, `ok` is 0.
    pub const NAMES: [&'static str; 17] = [
        "ok",
        "cancelled",
        "unknown",
        "invalid-argument",
        "deadline-exceeded",
        "not-found",
        "already-exists",
        "permission-denied",
        "resource-exhausted",
        "failed-precondition",
        "aborted",
        "out-of-range",
        "unimplemented",
        "internal",
        "unavailable",
        "data-loss",
        "unauthenticated",
    ];
}
