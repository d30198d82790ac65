//! Continues or begins a trace: the first filter, so that whatever happens to a request has a place in its trace.
//!
//! W3C Trace Context is read first, then B3 in one header, then B3 in several. What is broken is as good as absent. The
//! next hop gets `traceparent` in any case, and B3 only where the request had it for the same trace, unless `OTEL_PROPAGATORS`
//! says otherwise. Other headers that carry a trace (`baggage`, `x-request-id`, `grpc-trace-bin`) pass untouched.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use weft_policy::own::Sample;
use weft_policy::units::Share;

use self::b3::Place;
use self::sampler::Rate;
use crate::config::propagators::{Propagators, Use};
use crate::config::sampling::{Parent as Decision, Roots, Sampling};
use crate::telemetry::record::TraceContext;

mod b3;
mod hex;
mod sampler;
#[cfg(test)]
mod tests;
mod traceparent;
mod tracestate;

/// Continues the trace in `headers`, or begins one, and makes our span the parent of the next hop's.
pub(crate) fn continue_or_begin(headers: &mut HeaderMap, sampler: &Sampler) -> TraceContext {
    if sampler.propagators != Propagators::DEFAULT {
        return propagate(headers, sampler);
    }
    let trace = match traceparent::read(headers) {
        Some(parent) => {
            tracestate::keep_if_valid(headers);
            sampler.continue_from(&parent)
        }
        None => {
            // "If parsing fails, the vendor ... MUST NOT parse tracestate" (W3C Trace Context, section 4.3).
            headers.remove(TRACESTATE);
            from_b3(b3::read(headers), sampler)
        }
    };
    b3::rewrite(headers, &trace);
    headers.insert(TRACEPARENT, traceparent::write(&trace));
    trace
}

/// The same where an operator has said which headers carry a trace.
#[cold]
fn propagate(headers: &mut HeaderMap, sampler: &Sampler) -> TraceContext {
    let Propagators { w3c, b3, b3_multi } = sampler.propagators;
    let parent = match w3c {
        Use::Ignored => None,
        Use::Read | Use::Written => traceparent::read(headers),
    };
    let trace = match parent {
        Some(parent) => {
            tracestate::keep_if_valid(headers);
            sampler.continue_from(&parent)
        }
        None => from_b3(b3::read_of(headers, b3, b3_multi), sampler),
    };
    if w3c == Use::Written {
        if parent.is_none() {
            headers.remove(TRACESTATE);
        }
        headers.insert(TRACEPARENT, traceparent::write(&trace));
    }
    b3::write(headers, &trace, b3, b3_multi);
    trace
}

/// Makes the span of `trace` the parent of the next hop's, in headers that have been through [`continue_or_begin`].
pub(crate) fn rewrite(headers: &mut HeaderMap, trace: &TraceContext) {
    b3::rewrite(headers, trace);
    if let Some(written) = headers.get_mut(TRACEPARENT) {
        *written = traceparent::write(trace);
    }
}

fn from_b3(place: Option<Place>, sampler: &Sampler) -> TraceContext {
    match place {
        Some(Place::Span(parent)) => sampler.continue_from(&parent),
        Some(Place::NoTrace { sampled }) => sampler.begin_as(Some(sampled)),
        None => sampler.begin(),
    }
}

/// Decides which traces are sampled, for the whole proxy.
#[derive(Debug)]
pub(crate) struct Sampler {
    parent: Decision,
    propagators: Propagators,
    /// What holds where policy says nothing.
    own: Roots,
    roots: ArcSwap<Begun>,
    begun: Instant,
}

/// Which new traces are sampled, with what is counted for it.
#[derive(Debug)]
struct Begun {
    roots: Roots,
    rate: Option<Rate>,
}

impl Begun {
    fn new(roots: Roots) -> Self {
        let rate = match roots {
            Roots::Rate { count, per } => Some(Rate::new(count, per)),
            Roots::Never | Roots::Always | Roots::Share(_) => None,
        };
        Self { roots, rate }
    }
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        Self {
            parent: sampling.parent,
            propagators: sampling.propagators,
            own: sampling.roots,
            roots: ArcSwap::from_pointee(Begun::new(sampling.roots)),
            begun: Instant::now(),
        }
    }

    /// Takes in `trace.sample`; what is counted for a rate stays while the rate does.
    pub(crate) fn apply(&self, sample: Option<Sample>) {
        let roots = sample.map_or(self.own, roots_of);
        if self.roots.load().roots != roots {
            self.roots.store(Arc::new(Begun::new(roots)));
        }
    }

    /// A new trace.
    pub(crate) fn begin(&self) -> TraceContext {
        self.begin_as(None)
    }

    /// A new trace, for a caller that has no trace but may have decided.
    fn begin_as(&self, decided: Option<bool>) -> TraceContext {
        let trace_id = fastrand::u128(1..).to_be_bytes();
        let sampled = self.decide(&trace_id, decided);
        TraceContext {
            trace_id,
            span_id: span_id(),
            parent_id: None,
            sampled,
        }
    }

    fn continue_from(&self, parent: &Parent) -> TraceContext {
        TraceContext {
            trace_id: parent.trace_id,
            span_id: span_id(),
            parent_id: Some(parent.span_id),
            sampled: self.decide(&parent.trace_id, parent.sampled),
        }
    }

    fn decide(&self, trace_id: &[u8; 16], decided: Option<bool>) -> bool {
        match (self.parent, decided) {
            (Decision::Followed, Some(sampled)) => sampled,
            (Decision::Followed | Decision::Ignored, _) => self.decide_root(trace_id),
        }
    }

    fn decide_root(&self, trace_id: &[u8; 16]) -> bool {
        let begun = self.roots.load();
        match begun.roots {
            Roots::Never => false,
            Roots::Always => true,
            Roots::Share(share) => sampler::within(share, trace_id),
            Roots::Rate { .. } => begun
                .rate
                .as_ref()
                .is_some_and(|rate| rate.take(self.begun.elapsed())),
        }
    }
}

/// A policy's words as those of the configuration.
fn roots_of(sample: Sample) -> Roots {
    match sample {
        Sample::Share(Share::NONE) => Roots::Never,
        Sample::Share(Share::ALL) => Roots::Always,
        Sample::Share(share) => Roots::Share(share),
        Sample::Rate(rate) => Roots::Rate {
            count: rate.count,
            per: rate.per,
        },
    }
}

fn span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// The caller's place in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    /// `None` where the caller leaves the decision to us, which only B3 knows.
    sampled: Option<bool>,
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The only value of a header that must not be there twice.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}
