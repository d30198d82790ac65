//! A real Jaeger with its traces in memory, and what its API says of a trace.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::client::Http1;
use crate::eventually::eventually;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::tools::require;

/// A running Jaeger; it ends when it is dropped.
#[derive(Debug)]
pub struct Jaeger {
    /// Takes spans over gRPC.
    pub grpc: SocketAddr,
    /// Takes spans over HTTP.
    pub http: SocketAddr,
    /// Answers questions.
    pub query: SocketAddr,
    _process: Process,
    _config: Scratch,
}

/// A span as Jaeger tells of it.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// `service.name` of its resource.
    pub service: String,
    /// `SPAN_KIND_SERVER`, `SPAN_KIND_CLIENT` or `SPAN_KIND_INTERNAL`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Hexadecimal.
    pub id: String,
    /// Hexadecimal; empty at the root.
    pub parent: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Attributes of its resource, as text.
    pub resource: BTreeMap<String, String>,
    /// Names of its events.
    pub events: Vec<String>,
    /// 2 is an error.
    pub status: u64,
}

impl Span {
    /// The value of an attribute, or nothing.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Jaeger {
    /// Starts it on free ports, or skips the running test and returns `None`.
    pub async fn start() -> Option<Self> {
        let [program] = require(["jaeger"])?;
        let [grpc, http, query, query_grpc, health] = free();
        let config = Scratch::new();
        let places = [
            ("QUERY_RPC", query_grpc),
            ("QUERY", query),
            ("HEALTH", health),
            ("OTLP_GRPC", grpc),
            ("OTLP_HTTP", http),
        ];
        let put = |text: String, (name, address): (&str, SocketAddr)| {
            text.replace(&format!("\"{name}\""), &format!("\"{address}\""))
        };
        let text = places.into_iter().fold(CONFIG.to_owned(), put);
        let file = config.file("jaeger.yaml", text);
        let mut command = Command::new(program);
        command.arg("--config").arg(file);
        let process = Process::start("Jaeger", command);
        let jaeger = Self {
            grpc,
            http,
            query,
            _process: process,
            _config: config,
        };
        let limit = Duration::from_secs(30);
        let listens = async || tokio::net::TcpStream::connect(query).await.is_ok();
        eventually(limit, listens, |listens| *listens).await;
        eventually(limit, async || jaeger.services().await.is_some(), |up| *up).await;
        Some(jaeger)
    }

    async fn services(&self) -> Option<Value> {
        let answer = Http1::connect(self.query).await;
        let mut answer = answer;
        let answer = answer.get("jaeger", "/api/services").await;
        serde_json::from_str(answer.text()).ok()
    }

    /// The trace `id` as `/api/v3/traces` has it, once it has `count` spans.
    pub async fn trace(&self, id: &str, count: usize) -> Vec<Span> {
        let limit = Duration::from_secs(20);
        let look = async || self.spans(id).await;
        eventually(limit, look, |spans| spans.len() >= count).await
    }

    async fn spans(&self, id: &str) -> Vec<Span> {
        let mut client = Http1::connect(self.query).await;
        let answer = client.get("jaeger", &format!("/api/v3/traces/{id}")).await;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        read(&answer)
    }
}

fn read(answer: &Value) -> Vec<Span> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut spans = Vec::new();
    for of_resource in list(at(answer, "/result/resourceSpans")) {
        let resource = pairs(at(&of_resource, "/resource/attributes"));
        for of_scope in list(at(&of_resource, "/scopeSpans")) {
            spans.extend(
                list(at(&of_scope, "/spans"))
                    .iter()
                    .map(|span| one(span, &resource)),
            );
        }
    }
    spans.sort_by_key(|span| span.start);
    spans
}

fn one(span: &Value, resource: &BTreeMap<String, String>) -> Span {
    let text = |name: &str| plain(&span[name]);
    let number = |name: &str| text(name).parse().unwrap_or(0);
    let events = span["events"].as_array().cloned().unwrap_or_default();
    let kind = match text("kind").as_str() {
        "1" => "SPAN_KIND_INTERNAL".to_owned(),
        "2" => "SPAN_KIND_SERVER".to_owned(),
        "3" => "SPAN_KIND_CLIENT".to_owned(),
        other => other.to_owned(),
    };
    Span {
        service: resource.get("service.name").cloned().unwrap_or_default(),
        kind,
        name: text("name"),
        id: text("spanId"),
        parent: text("parentSpanId"),
        start: number("startTimeUnixNano"),
        end: number("endTimeUnixNano"),
        attributes: pairs(&span["attributes"]),
        resource: resource.clone(),
        events: events.iter().map(|event| plain(&event["name"])).collect(),
        status: plain(at(span, "/status/code")).parse().unwrap_or(0),
    }
}

fn pairs(attributes: &Value) -> BTreeMap<String, String> {
    let list = attributes.as_array().cloned().unwrap_or_default();
    let pair = |pair: &Value| {
        let value = pair["value"].as_object()?.values().next()?;
        Some((plain(&pair["key"]), plain(value)))
    };
    list.iter().filter_map(pair).collect()
}

/// What stands there, or null.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn plain(value: &Value) -> String {
    let mut text = String::new();
    let _infallible = match value {
        Value::Null => Ok(()),
        Value::String(own) => write!(text, "{own}"),
        other => write!(text, "{other}"),
    };
    text
}

/// Ports that nobody has at the moment.
fn free<const N: usize>() -> [SocketAddr; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

const CONFIG: &str = r#"
service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  pipelines:
    traces: {receivers: [otlp], exporters: [jaeger_storage_exporter]}
  telemetry:
    metrics: {level: none}
extensions:
  jaeger_storage: {backends: {memory: {memory: {max_traces: 10000}}}}
  jaeger_query:
    storage: {traces: memory}
    http: {endpoint: "QUERY"}
    grpc: {endpoint: "QUERY_RPC"}
  healthcheckv2: {use_v2: true, http: {endpoint: "HEALTH"}}
receivers:
  otlp: {protocols: {grpc: {endpoint: "OTLP_GRPC"}, http: {endpoint: "OTLP_HTTP"}}}
exporters:
  jaeger_storage_exporter: {trace_storage: memory}
"#;
