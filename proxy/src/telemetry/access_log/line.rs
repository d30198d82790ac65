//! The fields of a line and their order; a field without a value is left out.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::time::rfc3339;
use crate::config::LogFormat;
use crate::telemetry::entry::{Entry, Request, Tcp, What};
use crate::telemetry::live::Made;
use crate::telemetry::mask::Mask;
use crate::telemetry::record::End;

/// Names and values.
type Fields = Vec<(&'static str, Value)>;

/// Appends the line of `entry` with its line feed.
pub(super) fn write(lines: &mut String, entry: &Entry, made: &Made) {
    let fields = fields(entry, &made.mask);
    match made.format {
        LogFormat::Json => json(lines, &fields),
        LogFormat::Text => text(lines, &fields),
    }
    lines.push('\n');
}

fn json(line: &mut String, fields: &Fields) {
    for (index, (name, value)) in fields.iter().enumerate() {
        let open = if index == 0 { '{' } else { ',' };
        // A string takes whatever is written to it.
        let _infallible = write!(line, "{open}\"{name}\":{value}");
    }
    line.push('}');
}

/// `name=value`, with JSON's quotes around what is no plain word, so that no value can pose as a field or a line.
fn text(line: &mut String, fields: &Fields) {
    for (index, (name, value)) in fields.iter().enumerate() {
        let space = if index == 0 { "" } else { " " };
        let _infallible = match value {
            Value::String(word) if is_plain(word) => write!(line, "{space}{name}={word}"),
            value => write!(line, "{space}{name}={value}"),
        };
    }
}

fn is_plain(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/[]@%+*~,;".contains(&byte);
    !word.is_empty() && word.bytes().all(plain)
}

/// The fields of `entry`, in their order.
pub(super) fn fields(entry: &Entry, mask: &Mask) -> Fields {
    let mut fields: Fields = vec![
        ("time", rfc3339(entry.started).into()),
        ("direction", entry.connection.direction.label().into()),
        ("client", entry.connection.client.to_string().into()),
    ];
    push(
        &mut fields,
        "caller",
        entry.connection.peer.as_ref().map(|id| id.as_str()),
    );
    match &entry.what {
        What::Request(request) => of_request(&mut fields, request, mask),
        What::Tcp(tcp) => of_tcp(&mut fields, tcp),
    }
    fields.push(("duration_ms", millis(entry.duration)));
    of_destination(&mut fields, entry);
    fields.push(("trace_id", hex(&entry.trace.trace_id).into()));
    fields.push(("span_id", hex(&entry.trace.span_id).into()));
    fields.push(("sampled", entry.trace.sampled.into()));
    fields
}

fn of_request(fields: &mut Fields, request: &Request, mask: &Mask) {
    let protocol = if request.grpc { "grpc" } else { "http" };
    fields.push(("protocol", protocol.into()));
    fields.push(("http_version", request.protocol_version().into()));
    fields.push(("method", request.method.as_str().into()));
    push(fields, "authority", request.authority());
    fields.push(("path", request.path().into()));
    push(fields, "query", request.query(mask));
    push(
        fields,
        "status",
        request.status.map(|status| status.as_u16()),
    );
    push(fields, "grpc_status", request.grpc_status);
    push(fields, "reject", request.reject);
    fields.push(("end", end(request.end).into()));
    if request.upgraded {
        fields.push(("upgraded", true.into()));
    }
    push(
        fields,
        "route",
        request.route.as_ref().map(|route| &*route.name),
    );
    let template = request
        .route
        .as_ref()
        .and_then(|route| route.template.as_deref());
    push(fields, "route_template", template);
    fields.push(("attempts", request.attempts.into()));
    fields.push(("request_bytes", request.request_bytes.into()));
    fields.push(("response_bytes", request.response_bytes.into()));
    push(fields, "user_agent", request.user_agent(mask));
    push(fields, "queue_ms", request.waits.queue.map(millis));
    push(fields, "connect_ms", request.waits.connect.map(millis));
    if let Some(first_byte) = request.first_byte {
        fields.push(("first_byte_ms", millis(first_byte)));
    }
}

fn of_tcp(fields: &mut Fields, tcp: &Tcp) {
    fields.push(("protocol", "tcp".into()));
    push(fields, "error", tcp.error);
    fields.push(("request_bytes", tcp.sent.into()));
    fields.push(("response_bytes", tcp.received.into()));
}

fn of_destination(fields: &mut Fields, entry: &Entry) {
    if let Some(destination) = &entry.destination {
        let service = &destination.service;
        fields.push((
            "service",
            format!("{}:{}", service.host, service.port).into(),
        ));
        push(
            fields,
            "endpoint",
            destination.endpoint.map(|address| address.to_string()),
        );
        push(
            fields,
            "endpoint_identity",
            destination.peer.as_ref().map(|id| id.as_str()),
        );
    }
    let downstream = entry.connection.secure;
    let upstream = entry
        .destination
        .as_ref()
        .is_some_and(|destination| destination.secure);
    fields.push(("mutual_tls", (downstream || upstream).into()));
}

fn push(fields: &mut Fields, name: &'static str, value: Option<impl Into<Value>>) {
    fields.extend(value.map(|value| (name, value.into())));
}

fn end(end: End) -> &'static str {
    match end {
        End::Complete => "complete",
        End::DownstreamGone => "caller_gone",
        End::UpstreamFailed => "answer_broke_off",
        End::Rejected => "rejected",
    }
}

/// With three decimals.
fn millis(duration: Duration) -> Value {
    let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    (f64::from(micros) / 1000.0).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
