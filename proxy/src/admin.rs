//! Readiness, liveness, metrics and dumps.

pub(crate) mod ready;
