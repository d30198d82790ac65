//! Telemetry: otlp.
