//! Trouble on purpose: delays and aborts of what matches, and of nothing else.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;
use weft_tests::app::echo;
use weft_tests::client::{Answer, Http1, Http2, grpc_call};
use weft_tests::mesh::Pair;
use weft_tests::metrics::Scrape;

fn pair(fault: &str) -> Pair {
    let policy = format!("fault: [{{match: {{headers: {{x-test: \"1\"}}}}, {fault}}}]");
    Pair::with(echo(), |web| web, |orders| orders.policy(policy))
}

async fn ask(pair: &Pair, header: &str) -> Answer {
    let mut client = Http1::connect(pair.web.outbound).await;
    let head = format!("GET / HTTP/1.1\r\nhost: orders\r\n{header}\r\n");
    client.send(head).await;
    client.answer().await
}

const TEST: &str = "x-test: 1\r\n";

#[tokio::test]
async fn what_matches_is_aborted_and_marked_as_such() {
    let pair = pair("abort: {status: 418}");
    let aborted = ask(&pair, TEST).await;
    assert_eq!(
        (aborted.status.as_u16(), aborted.reject()),
        (418, "fault_abort")
    );
    let passed = ask(&pair, "x-test: 2\r\n").await;
    assert_eq!((passed.status, passed.reject()), (StatusCode::OK, ""));
    let scrape = Scrape::of(pair.orders.metrics).await;
    let counted = |name, label| scrape.sum(name, &[label]);
    assert_eq!(counted("weft_faults_total", r#"kind="abort""#), 1.0);
    assert_eq!(
        counted("weft_rejects_total", r#"reason="fault_abort""#),
        1.0
    );
}

#[tokio::test]
async fn a_grpc_call_is_aborted_with_a_code_and_http_with_what_it_means() {
    let pair = pair("abort: {status: unavailable}");
    let client = Http2::connect(pair.web.outbound).await;
    let mut call = grpc_call("orders", "/shop.Orders/Get");
    call.headers_mut()
        .insert("x-test", HeaderValue::from_static("1"));
    let aborted = client.send(call, "", HeaderMap::new()).await.unwrap();
    assert_eq!(
        (aborted.status, aborted.header("grpc-status")),
        (StatusCode::OK, "14")
    );
    assert_eq!(
        ask(&pair, TEST).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn a_delayed_request_waits_alone() {
    let pair = pair("delay: {for: 400ms}");
    let began = Instant::now();
    let delayed = async {
        let answer = ask(&pair, TEST).await;
        (answer.status, began.elapsed())
    };
    // The same worker serves others meanwhile.
    let others = async {
        for _ in 0..5 {
            assert_eq!(ask(&pair, "").await.status, StatusCode::OK);
        }
        began.elapsed()
    };
    let ((status, waited), passed) = tokio::join!(delayed, others);
    assert_eq!(status, StatusCode::OK);
    assert!(waited >= Duration::from_millis(400), "{waited:?}");
    assert!(passed < waited, "{passed:?} {waited:?}");
}

#[tokio::test]
async fn a_share_is_a_share() {
    let pair = pair("abort: {status: 500, share: 30%}");
    let mut client = Http1::connect(pair.web.outbound).await;
    let mut aborted = 0;
    for _ in 0..500 {
        client
            .send(format!("GET / HTTP/1.1\r\nhost: orders\r\n{TEST}\r\n"))
            .await;
        aborted += u32::from(client.answer().await.reject() == "fault_abort");
    }
    // Six standard deviations.
    assert!((88..=212).contains(&aborted), "{aborted} of 500");
}
