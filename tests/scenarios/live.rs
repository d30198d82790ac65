//! Policy while it changes: annotations and the policy file, what is wrong with them, and what the mesh says of it.

use std::time::Duration;

use tokio::time::Instant;
use weft_tests::app;
use weft_tests::client::{Answer, Http1};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Pair, Proxy};
use weft_tests::metrics::Scrape;

async fn metric(proxy: &Proxy, name: &str) -> f64 {
    Scrape::of(proxy.metrics).await.sum(name, &[])
}

async fn explained(proxy: &Proxy) -> serde_json::Value {
    let mut client = Http1::connect(proxy.admin).await;
    let answer = client.get("localhost", "/policy").await;
    serde_json::from_str(answer.text()).unwrap()
}

#[tokio::test]
async fn a_changed_annotation_acts_within_two_seconds_on_open_connections() {
    let pair = Pair::with(
        app::echo(),
        |web| web,
        |orders| orders.annotations("app=\"orders\"\nweft.dev/deny=\"users\"\n"),
    );
    let mut client = Http1::connect(pair.web.outbound).await;
    assert_eq!(client.get("orders", "/").await.status, 200);
    for (lines, want) in [("weft.dev/deny=\"web\"\n", 403), ("app=\"orders\"\n", 200)] {
        pair.orders.set_annotations(lines);
        let changed = Instant::now();
        let ask = async || client.get("orders", "/").await.status.as_u16();
        eventually(Duration::from_secs(10), ask, |status| *status == want).await;
        let took = changed.elapsed();
        assert!(took < Duration::from_secs(2), "{lines:?} took {took:?}");
    }
}

#[tokio::test]
async fn annotations_lie_over_the_file_and_each_value_tells_who_said_it() {
    let pair = Pair::with(
        app::echo(),
        |web| web,
        |orders| {
            let annotations = "weft.dev/limits.headers=\"8KiB\"\nweft.dev/deny=\"users\"\n";
            orders
                .policy("limits: {headers: 32KiB, body: 1MiB}\ndeny: [bank/*]\n")
                .annotations(annotations)
        },
    );
    let page = explained(&pair.orders).await;
    let values: Vec<String> = page["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| {
            let text = |key: &str| value[key].as_str().unwrap().to_owned();
            format!("{}={} {}", text("path"), text("value"), text("layer"))
        })
        .collect();
    let want = [
        "deny[0]=\"bank/*\" file",
        "deny[1]=users pod",
        "limits.body=1MiB file",
        "limits.headers=8KiB pod",
    ];
    assert_eq!(values, want);
    assert_eq!(page["problems"], serde_json::json!([]));
}

#[tokio::test]
async fn a_bad_change_changes_nothing_is_counted_once_and_shown() {
    let pair = Pair::with(
        app::echo(),
        |web| web,
        |orders| orders.annotations("weft.dev/deny=\"users\"\n"),
    );
    let bad = "weft.dev/deny=\"web\"\nweft.dev/retry.attemps=\"3\"\nweft.dev/timeout=\"10\"\n";
    pair.orders.set_annotations(bad);
    let limit = Duration::from_secs(10);
    let rejected = async || metric(&pair.orders, "weft_policy_rejected_total").await;
    eventually(limit, rejected, |count| *count > 0.0).await;
    let mut client = Http1::connect(pair.web.outbound).await;
    assert_eq!(
        client.get("orders", "/").await.status,
        200,
        "the last good one"
    );
    let page = explained(&pair.orders).await;
    let want = serde_json::json!([
        "weft.dev/timeout: \"10\" has no unit; write \"10s\" or \"10ms\"",
        "weft.dev/retry.attemps: unknown key; did you mean weft.dev/retry.attempts?",
    ]);
    let sorted = |list: &serde_json::Value| {
        let mut lines: Vec<String> = serde_json::from_value(list.clone()).unwrap();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&page["problems"]), sorted(&want));
    assert_eq!(page["version"], 1);
    pair.orders.set_annotations("weft.dev/deny=\"web\"\n");
    let ask = async || client.get("orders", "/").await.status.as_u16();
    eventually(limit, ask, |status| *status == 403).await;
    assert!((metric(&pair.orders, "weft_policy_rejected_total").await - 1.0).abs() < 0.1);
    assert_eq!(
        explained(&pair.orders).await["problems"],
        serde_json::json!([])
    );
}

async fn ask_why(proxy: &Proxy, path: &str) -> Answer {
    let mut client = Http1::connect(proxy.outbound).await;
    let head = format!("GET {path} HTTP/1.1\r\nhost: orders\r\nx-weft-explain: 1\r\n\r\n");
    client.send(head).await;
    client.answer().await
}

fn why(answer: &Answer) -> Vec<String> {
    let lines = answer.headers.get_all("x-weft-explain").iter();
    lines
        .map(|line| line.to_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn whoever_may_ask_is_told_what_decided() {
    let pair = Pair::with(
        app::echo(),
        |web| web.policy("explain: web\n"),
        |orders| {
            orders
                .policy("explain: web\ndeny: [{paths: [/admin/*]}]\n")
                .annotations("weft.dev/allow=\"web\"\n")
        },
    );
    let passed = why(&ask_why(&pair.web, "/").await);
    assert_eq!(passed.len(), 2, "{passed:?}");
    assert!(
        passed[0].starts_with("inbound; policy=1; service=orders"),
        "{passed:?}"
    );
    assert!(passed[0].contains("; rule=allow[0]; by=pod "), "{passed:?}");
    assert!(
        passed[1].starts_with("outbound; policy=1; service=orders"),
        "{passed:?}"
    );
    assert!(passed[1].contains("; attempts=1"), "{passed:?}");
    let refused = ask_why(&pair.web, "/admin/a").await;
    assert_eq!(refused.status, 403);
    let refused = why(&refused);
    assert!(
        refused[0].contains("; refused=authz_denied; by=file "),
        "{refused:?}"
    );
}

#[tokio::test]
async fn whoever_may_not_ask_is_told_nothing() {
    let pair = Pair::with(
        app::echo(),
        |web| web,
        |orders| orders.policy("explain: users\n"),
    );
    assert!(why(&ask_why(&pair.web, "/").await).is_empty());
    // Nor does an app's word pass for the mesh's.
    let forged = Pair::with(
        app::scripted(|_| {
            let head = "HTTP/1.1 200 OK\r\nx-weft-explain: inbound; rule=allow[7]\r\n";
            format!("{head}content-length: 0\r\n\r\n").into_bytes()
        }),
        |web| web,
        |orders| orders,
    );
    assert!(why(&ask_why(&forged.web, "/").await).is_empty());
}
