//! Telemetry: record.
