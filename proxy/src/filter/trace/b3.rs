//! B3, Zipkin's older way to carry a trace (openzipkin/b3-propagation), in one header or in several.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Parent, hex, only};
use crate::config::propagators::Use;
use crate::http::headers::{has_any, remove_all};
use crate::telemetry::record::TraceContext;

/// What B3 headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Span(Parent),
    /// A decision alone: `b3: 0`.
    NoTrace {
        sampled: bool,
    },
}

/// Reads B3 in one header, or else in several; `None` if there is none or a broken one.
pub(super) fn read(headers: &HeaderMap) -> Option<Place> {
    if !has_any(headers, &ALL) {
        return None;
    }
    match headers.contains_key(B3) {
        true => only(headers, &B3).and_then(|value| parse(value.as_bytes())),
        false => read_several(headers),
    }
}

/// The same of those forms that are not ignored.
pub(super) fn read_of(headers: &HeaderMap, one: Use, several: Use) -> Option<Place> {
    let of_one = (one != Use::Ignored && headers.contains_key(B3)).then(|| {
        let value = only(headers, &B3)?;
        parse(value.as_bytes())
    });
    match of_one {
        Some(place) => place,
        None if several != Use::Ignored => read_several(headers),
        None => None,
    }
}

/// Writes those forms that are to be written for the next hop.
pub(super) fn write(headers: &mut HeaderMap, trace: &TraceContext, one: Use, several: Use) {
    if one == Use::Written {
        headers.insert(B3, self::one(trace));
    }
    if several == Use::Written {
        write_several(headers, trace);
    }
}

/// `trace-span[-sampled[-parent]]`, or a decision alone.
pub(super) fn parse(value: &[u8]) -> Option<Place> {
    let fields: Vec<&[u8]> = value.splitn(5, |byte| *byte == b'-').collect();
    match fields[..] {
        [sampled] => decision(sampled).map(|sampled| Place::NoTrace { sampled }),
        [trace_id, span_id] => span(trace_id, span_id, None),
        [trace_id, span_id, sampled] => span(trace_id, span_id, Some(decision(sampled)?)),
        [trace_id, span_id, sampled, parent] => {
            hex::read_id::<8>(parent)?;
            span(trace_id, span_id, Some(decision(sampled)?))
        }
        _ => None,
    }
}

fn read_several(headers: &HeaderMap) -> Option<Place> {
    let value = |name| headers.get(name).map(HeaderValue::as_bytes);
    // "Debug implies an accept decision, so don't also send the X-B3-Sampled header."
    let sampled = match (value(FLAGS), value(DECISION)) {
        (Some(b"1"), _) => Some(true),
        (_, Some(sampled)) => Some(decision(sampled)?),
        (_, None) => None,
    };
    match (headers.contains_key(TRACE_ID), sampled) {
        (true, sampled) => {
            let (trace_id, span_id) = (only(headers, &TRACE_ID)?, only(headers, &SPAN_ID)?);
            span(trace_id.as_bytes(), span_id.as_bytes(), sampled)
        }
        (false, Some(sampled)) => Some(Place::NoTrace { sampled }),
        (false, None) => None,
    }
}

fn span(trace_id: &[u8], span_id: &[u8], sampled: Option<bool>) -> Option<Place> {
    let trace_id = match trace_id.len() {
        // An old 64-bit trace: its other half is zero.
        16 => {
            let low: [u8; 8] = hex::read_id(trace_id)?;
            u128::from(u64::from_be_bytes(low)).to_be_bytes()
        }
        _ => hex::read_id(trace_id)?,
    };
    Some(Place::Span(Parent {
        trace_id,
        span_id: hex::read_id(span_id)?,
        sampled,
    }))
}

/// Some libraries of old write words.
fn decision(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// Makes our span the parent for a next hop that reads only B3, where the request had B3 for the same trace. B3 of
/// another trace is another tracer's; broken B3 is removed.
pub(super) fn rewrite(headers: &mut HeaderMap, trace: &TraceContext) {
    if !has_any(headers, &ALL) {
        return;
    }
    if headers.contains_key(B3) {
        match read(headers) {
            Some(Place::Span(parent)) if parent.trace_id == trace.trace_id => {
                headers.insert(B3, one(trace));
            }
            Some(Place::Span(_) | Place::NoTrace { .. }) => {}
            None => {
                headers.remove(B3);
            }
        }
    }
    if headers.contains_key(TRACE_ID) {
        match read_several(headers) {
            Some(Place::Span(parent)) if parent.trace_id == trace.trace_id => {
                write_several(headers, trace);
            }
            Some(Place::Span(_) | Place::NoTrace { .. }) => {}
            None => remove_all(headers, &SEVERAL),
        }
    }
}

fn one(trace: &TraceContext) -> HeaderValue {
    let mut text = Vec::with_capacity(68);
    hex::write(&mut text, &trace.trace_id);
    text.push(b'-');
    hex::write(&mut text, &trace.span_id);
    text.extend(if trace.sampled { b"-1" } else { b"-0" });
    if let Some(parent) = &trace.parent_id {
        text.push(b'-');
        hex::write(&mut text, parent);
    }
    header(text)
}

fn write_several(headers: &mut HeaderMap, trace: &TraceContext) {
    let id = |bytes: &[u8]| {
        let mut text = Vec::with_capacity(2 * bytes.len());
        hex::write(&mut text, bytes);
        header(text)
    };
    headers.insert(TRACE_ID, id(&trace.trace_id));
    headers.insert(SPAN_ID, id(&trace.span_id));
    match &trace.parent_id {
        Some(parent) => headers.insert(PARENT_ID, id(parent)),
        None => headers.remove(PARENT_ID),
    };
    if headers.get(FLAGS).is_none_or(|flags| flags != "1") {
        headers.insert(
            DECISION,
            HeaderValue::from_static(if trace.sampled { "1" } else { "0" }),
        );
    }
}

fn header(text: Vec<u8>) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
        .expect("hexadecimal digits and dashes can be sent")
}

const B3: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const DECISION: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

static SEVERAL: [HeaderName; 5] = [TRACE_ID, SPAN_ID, PARENT_ID, DECISION, FLAGS];
static ALL: [HeaderName; 6] = [B3, TRACE_ID, SPAN_ID, PARENT_ID, DECISION, FLAGS];
