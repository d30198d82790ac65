//! `weft trace ID`: a trace as a waterfall, from a Jaeger or from the proxies.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client;
use crate::demo::Paint;
use crate::demo::trace::{Side, Span, Trace};
use crate::demo::waterfall::draw;
use crate::explain::Output;
use crate::insight::{Proxies, ProxiesArgs};

/// Which trace, and where it is looked for.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct TraceArgs {
    /// Identifier of the trace: 32 hexadecimal digits, or a whole traceparent
    pub(crate) id: String,
    /// Ask the query API of this Jaeger instead of the proxies, such as 127.0.0.1:16686
    #[arg(long, value_name = "ADDR")]
    pub(crate) jaeger: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) proxies: ProxiesArgs,
}

/// Draws it.
///
/// # Errors
/// Nobody has it, or nobody answers.
pub(crate) async fn run(args: &TraceArgs) -> anyhow::Result<()> {
    let id = id_of(&args.id)?;
    let spans = match args.jaeger {
        Some(jaeger) => from_jaeger(jaeger, &id).await?,
        None => Proxies::of(&args.proxies).await?.trace(&id).await?,
    };
    if spans.is_empty() {
        match args.jaeger {
            Some(jaeger) => bail!("the Jaeger at {jaeger} has no trace {id}"),
            None => bail!(
                "no proxy has spans of {id} any more: each keeps its last 256 requests that failed or were sampled; --jaeger asks a Jaeger"
            ),
        }
    }
    let text = match args.proxies.output {
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&json_of(&spans))?),
        Output::Text => drawn(&id, spans),
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn drawn(id: &str, spans: Vec<Span>) -> String {
    let paint = match std::io::stdout().is_terminal() {
        true => Paint::Colours,
        false => Paint::Plain,
    };
    let mut trace = Trace::new(id.to_owned(), Instant::now());
    trace.spans = spans;
    draw(&trace, paint)
}

/// 16 digits are an old trace of 64 bits.
fn id_of(text: &str) -> anyhow::Result<String> {
    let id = text
        .split('-')
        .max_by_key(|part| part.len())
        .unwrap_or(text);
    let digits =
        !id.is_empty() && id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    match digits {
        true => Ok(format!("{:0>32}", id.to_ascii_lowercase())),
        false => bail!("{text:?} is no trace: write its 32 hexadecimal digits"),
    }
}

async fn from_jaeger(jaeger: SocketAddr, id: &str) -> anyhow::Result<Vec<Span>> {
    let path = format!("/api/v3/traces/{id}");
    let answer = client::get(jaeger, &jaeger.to_string(), &path, &HeaderMap::new()).await;
    let answer = answer.with_context(|| format!("ask the Jaeger at {jaeger}"))?;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(Vec::new()),
        status => bail!("the Jaeger at {jaeger} answered {status} to {path}"),
    }
    let answer: Value = serde_json::from_slice(&answer.body).context("read Jaeger's answer")?;
    Ok(read(&answer))
}

/// Reads OTLP as JSON, as `/api/v3/traces` has it.
fn read(answer: &Value) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in list(at(answer, "/result/resourceSpans")) {
        let resource = attributes(at(of_resource, "/resource/attributes"));
        let service = resource.get("service.name").cloned();
        let service = service.unwrap_or_else(|| "unknown".to_owned());
        for of_scope in list(at(of_resource, "/scopeSpans")) {
            let read = list(at(of_scope, "/spans"))
                .iter()
                .map(|span| span_of(span, &service));
            spans.extend(read);
        }
    }
    spans
}

fn span_of(span: &Value, service: &str) -> Span {
    let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
    let time = |name: &str| Duration::from_nanos(plain(&span[name]).parse().unwrap_or(0));
    let kind = plain(&span["kind"]);
    Span {
        service: service.to_owned(),
        side: match kind.as_str() {
            "2" | "SPAN_KIND_SERVER" => Side::Inbound,
            "3" | "SPAN_KIND_CLIENT" => Side::Outbound,
            _ => Side::Whole,
        },
        id: text("spanId"),
        parent: Some(text("parentSpanId")).filter(|parent| !parent.is_empty()),
        name: text("name"),
        start: time("startTimeUnixNano"),
        end: time("endTimeUnixNano"),
        attributes: attributes(at(span, "/attributes")),
    }
}

fn attributes(pairs: &Value) -> BTreeMap<String, String> {
    let pair = |pair: &Value| {
        let value = pair["value"].as_object()?.values().next()?;
        Some((pair["key"].as_str()?.to_owned(), plain(value)))
    };
    list(pairs).iter().filter_map(pair).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What stands there, or null.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The spans as JSON, times in nanoseconds since 1970.
pub(crate) fn json_of(spans: &[Span]) -> Value {
    let mut sorted: Vec<&Span> = spans.iter().collect();
    sorted.sort_by_key(|span| span.start);
    let one = |span: &&Span| {
        json!({
            "service": span.service,
            "kind": match span.side {
                Side::Inbound => "server",
                Side::Outbound => "client",
                Side::Whole => "internal",
            },
            "span_id": span.id,
            "parent_id": span.parent,
            "name": span.name,
            "start": nanos(span.start),
            "end": nanos(span.end),
            "attributes": span.attributes,
        })
    };
    sorted.iter().map(one).collect()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_named_by_its_digits_or_its_header() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let rows = [
            (id, Some(id)),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                Some(id),
            ),
            ("A3CE929D0E0E4736", Some("0000000000000000a3ce929d0e0e4736")),
            ("", None),
            ("orders", None),
        ];
        for (text, want) in rows {
            assert_eq!(id_of(text).ok().as_deref(), want, "{text}");
        }
    }

    #[test]
    fn what_jaeger_answers_is_read() {
        let answer = json!({"result": {"resourceSpans": [{
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "orders"}}]},
            "scopeSpans": [{"spans": [{
                "traceId": "ab", "spanId": "01", "parentSpanId": "", "name": "GET", "kind": 2,
                "startTimeUnixNano": "1000", "endTimeUnixNano": "3000",
                "attributes": [{"key": "http.response.status_code", "value": {"intValue": "200"}}],
            }]}],
        }]}});
        let spans = read(&answer);
        assert_eq!(
            (spans[0].service.as_str(), spans[0].side),
            ("orders", Side::Inbound)
        );
        assert_eq!(
            (spans[0].took(), &spans[0].parent),
            (Duration::from_micros(2), &None)
        );
        assert_eq!(
            spans[0].attribute(&["http.response.status_code"]),
            Some("200")
        );
    }
}
