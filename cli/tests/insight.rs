//! What people see of a mesh: the commands against real proxies, the waterfall of a real Jaeger, the page in a real browser.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use weft_tests::app::echo;
use weft_tests::client::Http1;
use weft_tests::jaeger::Jaeger;
use weft_tests::mesh::{Pair, Starting};
use weft_tests::process::{Process, eventually};
use weft_tests::scratch::Scratch;
use weft_tests::tools::require;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn weft(words: &[&str], pair: &Pair) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    let proxies = format!("{},{}", pair.web.admin, pair.orders.admin);
    command
        .args(words)
        .args(["--proxy", &proxies])
        .stdin(Stdio::null());
    command
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

async fn text(command: Command) -> String {
    let output = run(command).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn json(command: Command) -> Value {
    serde_json::from_str(&text(command).await).unwrap()
}

/// Calls as `web` calls `orders`, with a trace; and a stranger, who is refused.
async fn calls(pair: &Pair, count: usize) {
    let mut client = Http1::connect(pair.web.outbound).await;
    for _ in 0..count {
        client
            .send(format!(
                "GET /orders/7?token=hunter2&page=3 HTTP/1.1\r\nhost: orders\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer().await.status, 200);
    }
    let answer = client.get("nowhere.invalid", "/lost").await;
    assert_eq!(answer.reject(), "unknown_service");
}

#[tokio::test]
async fn edges_say_who_calls_whom_and_whether_it_is_encrypted() {
    let pair = Pair::new(echo());
    calls(&pair, 3).await;
    Http1::connect(pair.orders.inbound)
        .await
        .get("orders", "/")
        .await;
    let edges = json(weft(&["edges", "--output", "json"], &pair)).await;
    let find = |source: &str| {
        let all = edges.as_array().unwrap().iter();
        let mut found =
            all.filter(|edge| edge["source"] == source && edge["destination"] == "orders");
        found
            .next()
            .unwrap_or_else(|| panic!("no edge of {source} in {edges:#}"))
            .clone()
    };
    let (web, stranger) = (find("web"), find("unknown"));
    assert_eq!(
        (&web["requests"], &web["mutual_tls"]),
        (&3.into(), &true.into())
    );
    assert_eq!(
        web["source_identity"],
        "spiffe://cluster.local/ns/default/sa/web"
    );
    assert_eq!(
        (&stranger["requests"], &stranger["mutual_tls"]),
        (&1.into(), &false.into())
    );
    let table = text(weft(&["edges"], &pair)).await;
    assert!(
        table.contains("web      default/orders   http      yes"),
        "{table}"
    );
    assert!(
        table.contains("unknown  default/orders   http      NO"),
        "{table}"
    );
}

#[tokio::test]
async fn top_tells_rates_of_now() {
    let pair = Pair::new(echo());
    calls(&pair, 3).await;
    let output = text(weft(&["top"], &pair)).await;
    assert!(output.starts_with("SERVICE"), "{output}");
    let mut command = weft(&["top", "--output", "json"], &pair);
    command.stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    while !waiting.is_finished() {
        calls(&pair, 1).await;
    }
    let services: Value = serde_json::from_slice(&waiting.await.unwrap().stdout).unwrap();
    let orders = services
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["service"] == "orders")
        .unwrap();
    assert!(orders["rate"].as_f64().unwrap() > 0.0, "{services:#}");
    assert_eq!(orders["success"], 1.0);
    assert!(orders["p99_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn tap_shows_requests_as_they_pass_without_their_secrets() {
    let pair = Pair::new(echo());
    let mut command = weft(
        &[
            "tap",
            "orders",
            "--path",
            "/orders",
            "--seconds",
            "3",
            "--output",
            "json",
        ],
        &pair,
    );
    command.stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    while !waiting.is_finished() {
        calls(&pair, 1).await;
    }
    let output = String::from_utf8(waiting.await.unwrap().stdout).unwrap();
    assert!(
        !output.contains("hunter2") && !output.contains("/lost"),
        "{output}"
    );
    let lines: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let served = lines
        .iter()
        .find(|line| line["workload"] == "orders")
        .unwrap();
    let rows = [
        ("method", "GET"),
        ("path", "/orders/7"),
        ("query", "token=***&page=3"),
        ("caller", "spiffe://cluster.local/ns/default/sa/web"),
        ("trace_id", TRACE),
    ];
    for (field, want) in rows {
        assert_eq!(served[field], want, "{served:#}");
    }
}

/// What `weft trace` draws, times and bars left out.
fn rows(picture: &str) -> Vec<String> {
    let row = |line: &str| {
        let parts: Vec<&str> = line.split('|').collect();
        let note = parts.last().unwrap().split("ms").last().unwrap();
        format!("{}{}", parts[0].trim_end(), note.trim_end())
    };
    picture.lines().skip(1).map(row).collect()
}

const WATERFALL: [&str; 2] = [
    "  web      out  calls orders.default, which is spiffe://cluster.local/ns/default/sa/orders: 200",
    "  orders   in  HTTP/1.1 over mutual TLS 1.3 from spiffe://cluster.local/ns/default/sa/web: 200",
];

#[tokio::test]
async fn a_trace_is_drawn_from_the_proxies() {
    let pair = Pair::new(echo());
    // What is watched is kept, where no collector wants spans.
    text(weft(&["tap", "--seconds", "0"], &pair)).await;
    calls(&pair, 1).await;
    let picture = text(weft(&["trace", TRACE], &pair)).await;
    assert_eq!(rows(&picture), WATERFALL, "{picture}");
    let output = run(weft(&["trace", "ab"], &pair)).await;
    assert!(!output.status.success());
}

fn exports<'a>(proxy: Starting<'a>, endpoint: &str) -> Starting<'a> {
    proxy
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .set("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .set("OTEL_BSP_SCHEDULE_DELAY", "20")
}

#[tokio::test]
async fn a_trace_is_drawn_from_a_real_jaeger() {
    let Some(jaeger) = Jaeger::start().await else {
        return;
    };
    let endpoint = format!("http://{}", jaeger.grpc);
    let pair = Pair::with(
        echo(),
        |web| exports(web, &endpoint),
        |orders| exports(orders, &endpoint),
    );
    calls(&pair, 1).await;
    jaeger.trace(TRACE, 2).await;
    let query = jaeger.query.to_string();
    let header = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let picture = text(weft(&["trace", &header, "--jaeger", &query], &pair)).await;
    assert_eq!(rows(&picture), WATERFALL, "{picture}");
    let spans = json(weft(
        &["trace", TRACE, "--jaeger", &query, "--output", "json"],
        &pair,
    ))
    .await;
    assert_eq!(spans.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_page_works_in_a_real_browser() {
    let Some([browser]) = require(["chromium-headless-shell"]) else {
        return;
    };
    let pair = Pair::new(echo());
    let mut page = Process::start(
        "the dashboard",
        weft(&["dashboard", "--listen", "127.0.0.1:0"], &pair),
    );
    let output = page.output();
    let address = page.until("an address", || {
        let said = std::fs::read_to_string(&output).ok()?;
        said.lines().find_map(|line| {
            line.strip_prefix("dashboard: http://")?
                .parse::<SocketAddr>()
                .ok()
        })
    });
    let mesh = Http1::connect(address)
        .await
        .get("localhost", "/api/mesh")
        .await;
    assert_eq!(mesh.status, 200);
    let foreign = Http1::connect(address)
        .await
        .get("evil.example", "/api/mesh")
        .await;
    assert_eq!(foreign.status, 421);
    calls(&pair, 20).await;
    Http1::connect(pair.orders.inbound)
        .await
        .get("orders", "/")
        .await;
    // The page is told of what is a second old.
    let told = async || {
        Http1::connect(address)
            .await
            .get("localhost", "/api/mesh")
            .await
            .text()
            .contains("unknown_service")
    };
    weft_tests::eventually::eventually(Duration::from_secs(10), told, |told| *told).await;
    let folder = Scratch::new();
    let picture = folder.path().join("page.png");
    let url = format!("http://{address}/?trace={TRACE}");
    let look = |more: String| {
        let mut command = Command::new(&browser);
        command
            .args([
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--window-size=1280,1100",
            ])
            .args(["--virtual-time-budget=4000", &more, &url]);
        command
    };
    let dom = text(look("--dump-dom".to_owned())).await;
    for (count, what) in [
        (1, r#"class="mark secure""#),
        // Idle or not: on a busy machine the calls are old when they are drawn.
        (1, r#"class="edge"#),
        (1, r#"class="edge plain"#),
        (20, "GET /orders/7?token=***&amp;page=3"),
        (1, "unknown_service"),
        (40, r#"class="bar client""#),
        (1, "from spiffe://cluster.local/ns/default/sa/web"),
    ] {
        // The table shows the newest only.
        let seen = dom.matches(what).count();
        assert!(seen >= count.min(7), "{what} is there {seen} times: {dom}");
    }
    assert!(!dom.contains("hunter2"));
    run(look(format!("--screenshot={}", picture.display()))).await;
    let size = eventually(Duration::from_secs(5), || {
        std::fs::metadata(&picture)
            .map(|file| file.len())
            .map_err(|error| error.to_string())
    });
    assert!(size > 20_000, "a picture of {size} bytes shows nothing");
}
