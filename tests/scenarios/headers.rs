//! Header edits of policy, on the way to the app and back.

use http::StatusCode;
use weft_tests::app::echo;
use weft_tests::client::{Http1, Http2};
use weft_tests::mesh::Pair;

const POLICY: &str = "
headers:
  request: {set: {x-region: eu, x-two: [a, b]}, add: {x-more: \"2\"}, remove: [x-debug]}
  response: {set: {x-answer: \"yes\"}, remove: [method]}
rate-limit: [{rate: 1/h, match: /limited}]
";

#[tokio::test]
async fn both_heads_are_edited_and_so_are_refusals() {
    let pair = Pair::with(echo(), |web| web, |orders| orders.policy(POLICY));
    let mut client = Http1::connect(pair.web.outbound).await;
    let edited = "x-region: us\r\nx-more: 1\r\nx-debug: 1\r\n";
    client
        .send(format!(
            "GET /limited HTTP/1.1\r\nhost: orders\r\n{edited}\r\n"
        ))
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, StatusCode::OK);
    let seen = |name: &str| {
        let values = answer.headers.get_all(format!("seen-{name}")).iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(seen("x-region"), ["eu"]);
    assert_eq!(seen("x-two"), ["a", "b"]);
    assert_eq!(seen("x-more"), ["1", "2"]);
    assert!(seen("x-debug").is_empty());
    assert_eq!(
        (answer.header("x-answer"), answer.header("method")),
        ("yes", "")
    );
    let refused = client.get("orders", "/limited").await;
    assert_eq!(
        (refused.reject(), refused.header("x-answer")),
        ("rate_limited", "yes")
    );
    let client = Http2::connect(pair.web.outbound).await;
    let answer = client.get("orders", "/").await;
    assert_eq!(
        (answer.header("seen-x-region"), answer.header("x-answer")),
        ("eu", "yes")
    );
}
