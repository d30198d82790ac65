//! Readiness guards.
