//! Telemetry: access_log.
