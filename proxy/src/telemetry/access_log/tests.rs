//! Lines as a log collector reads them.

use std::collections::BTreeSet;
use std::sync::mpsc::{Sender, channel};

use http::{HeaderValue, StatusCode};

use super::*;
use crate::config::LogFormat;
use crate::telemetry::record::{Direction, End, RequestRecord};
use crate::telemetry::sample;

fn entry(record: &RequestRecord) -> Arc<Entry> {
    Arc::new(Entry::of_request(record))
}

fn written(entry: &Entry, format: LogFormat) -> String {
    let mut lines = String::new();
    let live = Live::new(AccessLogMode::All, format);
    line::write(&mut lines, entry, &live.made());
    lines
}

#[test]
fn a_request_is_one_json_object_without_its_query() {
    let mut record = sample::request(Direction::Inbound);
    record.reject = Some("connect");
    record.status = StatusCode::from_u16(503).ok();
    let text = written(&entry(&record), LogFormat::Json);
    assert!(
        text.ends_with("}\n") && text.matches('\n').count() == 1,
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows: &[(&str, serde_json::Value)] = &[
        ("time", "2023-11-14T22:13:20.123Z".into()),
        ("direction", "inbound".into()),
        ("client", "10.0.0.7:41000".into()),
        ("caller", "spiffe://cluster.local/ns/shop/sa/web".into()),
        ("method", "POST".into()),
        ("authority", "orders.shop:8080".into()),
        ("path", "/orders/7".into()),
        ("http_version", "2".into()),
        ("status", 503.into()),
        ("reject", "connect".into()),
        ("request_bytes", 12.into()),
        ("first_byte_ms", 1.5.into()),
        ("service", "orders.shop.svc.cluster.local:8080".into()),
        ("mutual_tls", true.into()),
        ("trace_id", "ab".repeat(16).into()),
        ("span_id", "cd".repeat(8).into()),
        ("user_agent", "curl/8.14".into()),
    ];
    for (name, want) in rows {
        assert_eq!(&line[name], want, "{name}");
    }
    assert!(
        line.get("grpc_status").is_none(),
        "what has no value is left out"
    );
}

#[test]
fn no_value_can_pose_as_a_field_or_a_line() {
    let mut record = sample::request(Direction::Inbound);
    record.user_agent = Some(HeaderValue::from_bytes(b"a\" status=200 \xff\tx").unwrap());
    record.host = None;
    record.uri = "/a%0Ab/\u{e9}=1"
        .parse()
        .unwrap_or_else(|_| "/a%0Ab".parse().unwrap());
    for format in [LogFormat::Json, LogFormat::Text] {
        let line = written(&entry(&record), format);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
    }
    let text = written(&entry(&record), LogFormat::Text);
    assert!(text.contains(r#" user_agent="a\" status=200 "#), "{text}");
    assert!(text.contains(" status=200 "), "{text}");
}

#[test]
fn a_long_path_is_cut() {
    let mut record = sample::request(Direction::Inbound);
    record.uri = format!("/{}", "a".repeat(5000)).parse().unwrap();
    assert!(written(&entry(&record), LogFormat::Json).len() < 2500);
}

#[test]
fn errors_are_what_failed_here_or_at_the_server() {
    type Change = fn(&mut RequestRecord);
    let with = |change: fn(&mut RequestRecord)| {
        let mut record = sample::request(Direction::Outbound);
        change(&mut record);
        record.has_failed()
    };
    let rows: &[(&str, Change, bool)] = &[
        ("success", |_| {}, false),
        (
            "not found",
            |record| record.status = Some(StatusCode::NOT_FOUND),
            false,
        ),
        (
            "500",
            |record| record.status = Some(StatusCode::INTERNAL_SERVER_ERROR),
            true,
        ),
        (
            "rejected with 404",
            |record| record.reject = Some("unknown_service"),
            true,
        ),
        (
            "broken off",
            |record| record.end = End::UpstreamFailed,
            true,
        ),
        (
            "caller gone",
            |record| record.end = End::DownstreamGone,
            false,
        ),
        (
            "grpc not found",
            |record| record.grpc_status = Some(5),
            false,
        ),
        (
            "grpc unavailable",
            |record| record.grpc_status = Some(14),
            true,
        ),
    ];
    for (name, change, want) in rows {
        assert_eq!(with(*change), *want, "{name}");
    }
}

#[test]
fn policy_chooses_the_lines_while_the_proxy_runs() {
    let live = Live::new(AccessLogMode::Errors, LogFormat::Json);
    let log = AccessLog::new(live.clone(), Number::default(), io::sink());
    let mut policy = weft_policy::Policy::default();
    let rows = [
        (None, [false, true]),
        (Some(weft_policy::own::AccessLog::All), [true, true]),
        (Some(weft_policy::own::AccessLog::Off), [false, false]),
        (None, [false, true]),
    ];
    for (access, want) in rows {
        policy.log.access = access;
        live.apply(&policy);
        assert_eq!([log.wants(false), log.wants(true)], want, "{access:?}");
    }
    policy.log.mask = vec!["User-Agent".to_owned(), "page".to_owned()];
    policy.log.format = Some(weft_policy::own::LogFormat::Text);
    live.apply(&policy);
    let mut record = sample::request(Direction::Inbound);
    record.uri = "/orders?page=7&token=secret&sort=name".parse().unwrap();
    let mut line = String::new();
    line::write(&mut line, &entry(&record), &live.made());
    assert!(
        line.contains(r#" query="page=***&token=***&sort=name" "#),
        "{line}"
    );
    assert!(line.contains(" user_agent=*** "), "{line}");
}

/// Tells what it is given, once it is let.
struct Gate {
    told: Sender<String>,
    open: Receiver<()>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open.recv().map_err(io::Error::other)?;
        self.told
            .send(String::from_utf8(bytes.to_vec()).unwrap())
            .map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_is_too_slow_costs_lines_and_never_time() {
    let (told, lines) = channel();
    let (open, opened) = channel();
    let dropped = Number::default();
    let gate = Gate { told, open: opened };
    let log = AccessLog::new(
        Live::new(AccessLogMode::All, LogFormat::Json),
        dropped.clone(),
        gate,
    );
    let entry = entry(&sample::request(Direction::Inbound));
    let given = QUEUE + 2 * BATCH + 1000;
    for _ in 0..given {
        log.log(&entry);
    }
    let lost = dropped.get();
    assert!(lost > 0, "the queue has a bound");
    for _ in 0..given {
        open.send(()).unwrap();
    }
    log.flush();
    drop((log, open));
    let written: usize = lines.iter().map(|text| text.matches('\n').count()).sum();
    assert_eq!(written, given - usize::try_from(lost).unwrap());
}

#[test]
fn the_documented_fields_are_the_ones_in_the_code() {
    let mut request = sample::request(Direction::Outbound);
    request.grpc_status = Some(14);
    request.reject = Some("connect");
    request.route = Some(crate::telemetry::record::RouteFacts {
        name: "routes[0]".into(),
        template: Some("/orders/{id}".into()),
    });
    request.upgraded = true;
    let waited = Some(Duration::from_millis(2));
    request.waits.queue = waited;
    request.waits.connect = waited;
    let mut inbound = sample::tcp(Direction::Inbound);
    inbound.error = Some("reset");
    let mut code: BTreeSet<String> = BTreeSet::new();
    for entry in [Entry::of_request(&request), Entry::of_tcp(&inbound)] {
        code.extend(
            line::fields(&entry, &Mask::default())
                .into_iter()
                .map(|(name, _)| name.to_owned()),
        );
    }
    let text = include_str!("../../../../docs/access-log.md");
    let name = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let docs: BTreeSet<String> = text.lines().filter_map(name).collect();
    assert_eq!(docs, code, "docs/access-log.md and the code differ");
}
