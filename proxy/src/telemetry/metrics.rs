//! Telemetry: metrics.
