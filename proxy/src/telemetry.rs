//! What the proxy tells operators: metrics, spans, access log.

pub(crate) mod access_log;
pub(crate) mod metrics;
pub(crate) mod otlp;
pub(crate) mod record;
