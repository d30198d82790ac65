//! The header `traceparent` (W3C Trace Context, section 3.2).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::{Parent, TRACEPARENT, hex, only};
use crate::telemetry::record::TraceContext;

/// Reads the one `traceparent`; `None` if there is none, more than one, or a broken one.
pub(super) fn read(headers: &HeaderMap) -> Option<Parent> {
    parse(only(headers, &TRACEPARENT)?.as_bytes())
}

/// `version "-" trace-id "-" parent-id "-" trace-flags`, in lower-case hexadecimal digits.
pub(super) fn parse(value: &[u8]) -> Option<Parent> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let mut fields = known.split(|byte| *byte == b'-');
    let (version, trace_id, span_id, flags) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    let [version] = hex::read(version)?;
    let complete = match version {
        // "Version ff is invalid."
        0xff => false,
        0 => rest.is_empty(),
        // "If a higher version is detected, ... vendors MUST parse ... trace-flags ... followed by a dash or the end."
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    let [flags] = hex::read(flags)?;
    let parent = Parent {
        trace_id: hex::read_id(trace_id)?,
        span_id: hex::read_id(span_id)?,
        sampled: Some(flags & SAMPLED == SAMPLED),
    };
    (complete && fields.next().is_none()).then_some(parent)
}

/// Writes version 00; of the flags only `sampled`, as the others are not ours to set.
pub(super) fn write(trace: &TraceContext) -> HeaderValue {
    let mut text = Vec::with_capacity(LENGTH);
    text.extend(b"00-");
    hex::write(&mut text, &trace.trace_id);
    text.push(b'-');
    hex::write(&mut text, &trace.span_id);
    text.push(b'-');
    hex::write(&mut text, &[u8::from(trace.sampled)]);
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .expect("hexadecimal digits and dashes can be sent")
}

/// 2 + 1 + 32 + 1 + 16 + 1 + 2.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
