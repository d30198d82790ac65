//! Continues or begins a trace.

use http::HeaderMap;

use crate::config::sampling::Sampling;
use crate::telemetry::record::TraceContext;

/// Decides which new traces are sampled, for the whole proxy.
#[derive(Debug)]
pub(crate) struct Sampler {
    _sampling: Sampling,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        Self {
            _sampling: sampling,
        }
    }

    /// A new trace.
    pub(crate) fn begin(&self) -> TraceContext {
        let id = || fastrand::u64(1..).to_be_bytes();
        TraceContext {
            trace_id: fastrand::u128(1..).to_be_bytes(),
            span_id: id(),
            parent_id: None,
            sampled: false,
        }
    }
}

/// Continues the trace in `headers`, or begins one, and makes our span the parent of the next hop's.
pub(crate) fn continue_or_begin(_headers: &mut HeaderMap, sampler: &Sampler) -> TraceContext {
    sampler.begin()
}
