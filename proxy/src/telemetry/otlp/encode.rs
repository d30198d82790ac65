//! Spans as the bytes of OTLP's protobuf messages, written once from the entries.
//!
//! By hand, as spans of every request must not cost as much as the request: the generated types make a tree of small strings
//! for each span first, which takes six times the instructions. Field numbers are those of `opentelemetry/proto/trace/v1`
//! and `common/v1`; what is written here is read back with the generated types by this module's tests.

use std::time::{SystemTime, UNIX_EPOCH};

use super::span::{Event, Span, Value};

/// A batch: spans of one resource and one scope.
#[derive(Debug, Default)]
pub(super) struct Batch {
    spans: Vec<u8>,
    count: u64,
}

impl Batch {
    /// With room for so many spans of the usual length.
    pub(super) fn with_room(spans: usize) -> Self {
        Self {
            spans: Vec::with_capacity(spans.saturating_mul(USUAL_LENGTH)),
            count: 0,
        }
    }

    /// Appends a span.
    pub(super) fn push(&mut self, span: &Span<'_>) {
        let out = &mut self.spans;
        key(out, SCOPE_SPANS_SPANS, WIRE_BYTES);
        let length_at = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        span_of(out, span);
        let length = out.len() - length_at - LENGTH_BYTES;
        if let Some(place) = out.get_mut(length_at..length_at + LENGTH_BYTES) {
            place.copy_from_slice(&padded(length));
        }
        self.count += 1;
    }

    /// How many spans.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// `ExportTraceServiceRequest`, of `resource` as [`resource`] makes it, with `room` bytes free before it. The spans are
    /// copied once: what is around them is told in front.
    pub(super) fn request(&self, resource: &[u8], room: usize) -> Vec<u8> {
        let mut scope = Vec::new();
        text(&mut scope, 1, "weft-proxy");
        text(&mut scope, 2, env!("CARGO_PKG_VERSION"));
        let of_scope = 1 + length_of(scope.len()) + self.spans.len();
        let of_resource = 1 + length_of(resource.len()) + 1 + length_of(of_scope);
        let mut request = Vec::with_capacity(room + 1 + length_of(of_resource));
        request.resize(room, 0);
        key(&mut request, 1, WIRE_BYTES);
        varint(&mut request, of_resource as u64);
        bytes(&mut request, 1, resource);
        key(&mut request, 2, WIRE_BYTES);
        varint(&mut request, of_scope as u64);
        bytes(&mut request, 1, &scope);
        request.extend_from_slice(&self.spans);
        request
    }
}

/// `Resource`.
pub(super) fn resource(attributes: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in attributes {
        attribute(&mut out, 1, name, &Value::Text(value.as_str().into()));
    }
    out
}

fn span_of(out: &mut Vec<u8>, span: &Span<'_>) {
    bytes(out, 1, &span.trace.trace_id);
    bytes(out, 2, &span.trace.span_id);
    if let Some(parent) = &span.trace.parent_id {
        bytes(out, 4, parent);
    }
    text(out, 5, &span.name);
    number(out, 6, span.kind as u64);
    fixed64(out, 7, nanos(span.start));
    fixed64(out, 8, nanos(span.end));
    for (name, value) in &span.attributes.0 {
        attribute(out, 9, name, value);
    }
    for event in &span.events {
        event_of(out, event);
    }
    if let Some(why) = span.error {
        let mut status = Vec::new();
        text(&mut status, 2, why);
        number(&mut status, 3, STATUS_ERROR);
        bytes(out, 15, &status);
    }
    // The context of a span that has come from elsewhere (`SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`), and W3C's flags.
    let remote = if span.trace.parent_id.is_some() {
        0x300
    } else {
        0x100
    };
    key(out, 16, WIRE_FIXED32);
    out.extend_from_slice(&(remote | u32::from(span.trace.sampled)).to_le_bytes());
}

fn event_of(out: &mut Vec<u8>, event: &Event) {
    let mut own = Vec::new();
    fixed64(&mut own, 1, nanos(event.at));
    text(&mut own, 2, event.name);
    for (name, value) in &event.attributes {
        attribute(&mut own, 3, name, value);
    }
    bytes(out, 11, &own);
}

/// `KeyValue` with an `AnyValue`; the lengths are told before they are written, so that nothing is copied.
fn attribute(out: &mut Vec<u8>, field: u64, name: &str, value: &Value<'_>) {
    let inner = 1 + match value {
        Value::Text(text) => length_of(text.len()),
        Value::Flag(_) => 1,
        Value::Number(number) => varint_length(number.cast_unsigned()),
    };
    let length = 1 + length_of(name.len()) + 1 + length_of(inner);
    key(out, field, WIRE_BYTES);
    varint(out, length as u64);
    bytes(out, 1, name.as_bytes());
    key(out, 2, WIRE_BYTES);
    varint(out, inner as u64);
    match value {
        // Also where it is empty: a choice must be made.
        Value::Text(text) => bytes(out, 1, text.as_bytes()),
        Value::Flag(flag) => number(out, 2, u64::from(*flag)),
        Value::Number(value) => number(out, 3, value.cast_unsigned()),
    }
}

/// A length as three bytes: a reader takes a varint that is longer than it must be (Protocol Buffers, encoding).
fn padded(length: usize) -> [u8; LENGTH_BYTES] {
    let length = length as u64;
    [
        low_bits(length) | 0x80,
        low_bits(length >> 7) | 0x80,
        low_bits(length >> 14),
    ]
}

/// What `length` bytes take with the length before them.
fn length_of(length: usize) -> usize {
    length + varint_length(length as u64)
}

fn varint_length(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn text(out: &mut Vec<u8>, field: u64, value: &str) {
    if !value.is_empty() {
        bytes(out, field, value.as_bytes());
    }
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, WIRE_BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    key(out, field, WIRE_VARINT);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u64, value: u64) {
    key(out, field, WIRE_FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Of fields up to 15 one byte, which is what most have.
#[inline]
fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

#[inline]
fn varint(out: &mut Vec<u8>, mut value: u64) {
    if value < 0x80 {
        return out.push(low_bits(value));
    }
    while value >= 0x80 {
        out.push(low_bits(value) | 0x80);
        value >>= 7;
    }
    out.push(low_bits(value));
}

fn low_bits(value: u64) -> u8 {
    value.to_le_bytes()[0] & 0x7f
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A span of a request with all its attributes has some 900 bytes.
const USUAL_LENGTH: usize = 1200;
/// Up to 2 MB, where texts have at most some KB.
const LENGTH_BYTES: usize = 3;
const SCOPE_SPANS_SPANS: u64 = 2;
const STATUS_ERROR: u64 = 2;
const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_BYTES: u64 = 2;
const WIRE_FIXED32: u64 = 5;

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Read;
    use prost::Message as _;

    use super::super::span::{Attributes, Kind};
    use super::*;
    use crate::telemetry::record::TraceContext;

    fn span<'a>(attributes: Vec<(&'a str, Value<'a>)>) -> Span<'a> {
        Span {
            trace: TraceContext {
                trace_id: [1; 16],
                span_id: [2; 8],
                parent_id: Some([3; 8]),
                sampled: true,
            },
            kind: Kind::Client,
            name: "GET /orders/{id}".into(),
            start: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001),
            end: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_002),
            attributes: Attributes(attributes),
            events: vec![Event {
                name: "weft.retry",
                at: UNIX_EPOCH,
                attributes: vec![("weft.attempt", Value::Number(1))],
            }],
            error: Some("connect"),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let long = "x".repeat(20_000);
        let texts = [
            "",
            "a",
            &"y".repeat(127),
            &"z".repeat(128),
            long.as_str(),
            "\u{fc}",
        ];
        let mut attributes: Vec<(&str, Value<'_>)> = texts
            .iter()
            .map(|text| ("text", Value::Text(Cow::Borrowed(*text))))
            .collect();
        for number in [0, 1, -1, 127, 128, i64::MAX, i64::MIN] {
            attributes.push(("number", Value::Number(number)));
        }
        attributes.push(("flag", Value::Flag(true)));
        let span = span(attributes);
        let mut batch = Batch::default();
        batch.push(&span);
        batch.push(&span);
        let own = resource(&[("service.name".to_owned(), "orders".to_owned())]);
        let read = ExportTraceServiceRequest::decode(&batch.request(&own, 5)[5..]).unwrap();
        let of_resource = &read.resource_spans[0];
        let service = &of_resource.resource.as_ref().unwrap().attributes[0];
        assert_eq!(service.key, "service.name");
        assert_eq!(
            of_resource.scope_spans[0].scope.as_ref().unwrap().name,
            "weft-proxy"
        );
        let spans = &of_resource.scope_spans[0].spans;
        assert_eq!((spans.len(), batch.count()), (2, 2));
        assert_eq!(spans[0], spans[1]);
        let one = &spans[0];
        assert_eq!((&one.trace_id, &one.span_id), (&vec![1; 16], &vec![2; 8]));
        assert_eq!((&one.parent_span_id, one.kind), (&vec![3; 8], 3));
        assert_eq!(one.name, "GET /orders/{id}");
        assert_eq!(one.start_time_unix_nano, 1_700_000_000_000_000_001);
        assert_eq!(one.end_time_unix_nano, 1_700_000_000_000_000_002);
        assert_eq!(one.flags, 0x301);
        let status = one.status.as_ref().unwrap();
        assert_eq!((status.code, status.message.as_str()), (2, "connect"));
        assert_eq!(
            (one.events.len(), one.events[0].name.as_str()),
            (1, "weft.retry")
        );
        let values: Vec<String> = one
            .attributes
            .iter()
            .map(
                |pair| match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
                    Read::StringValue(text) => text.clone(),
                    Read::IntValue(number) => number.to_string(),
                    Read::BoolValue(flag) => flag.to_string(),
                    other => panic!("{other:?}"),
                },
            )
            .collect();
        let want: Vec<String> = span
            .attributes
            .0
            .iter()
            .map(|(_, value)| value.to_string())
            .collect();
        assert_eq!(values, want);
    }
}
