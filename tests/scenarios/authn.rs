//! Tokens of users, as the proxy of the called app judges them: HTTP/1, HTTP/2 and gRPC through two proxies.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Request};
use serde_json::{Value, json};
use weft_ca::token::mint::TokenIssuer;
use weft_tests::app;
use weft_tests::client::{Answer, Http1, Http2};
use weft_tests::eventually::eventually;
use weft_tests::mesh::Pair;
use weft_tests::metrics::Scrape;
use weft_tests::scratch::Scratch;

const ISSUER: &str = "https://issuer.test";

/// `web` calls `orders`, which wants tokens of one issuer, whose keys are in a file.
struct Bench {
    pair: Pair,
    tokens: TokenIssuer,
    scratch: Scratch,
}

impl Bench {
    fn new(rest: &str) -> Self {
        let (tokens, scratch) = (TokenIssuer::generate(ISSUER).unwrap(), Scratch::new());
        let keys = scratch.file("keys.json", tokens.key_set().unwrap());
        let policy = text(&keys.display().to_string(), rest);
        let pair = Pair::with(app::echo(), |web| web, |orders| orders.policy(policy));
        Self {
            pair,
            tokens,
            scratch,
        }
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut claims =
            json!({"iss": ISSUER, "aud": "orders", "sub": "ann", "exp": now.as_secs() + 300});
        change(&mut claims);
        self.tokens.sign(&claims).unwrap()
    }

    /// The same request over HTTP/1 and HTTP/2.
    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> [Answer; 2] {
        let mut one = Http1::connect(self.pair.web.outbound).await;
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        one.send(format!(
            "GET {path} HTTP/1.1\r\nhost: orders\r\n{lines}\r\n"
        ))
        .await;
        let mut request = Request::get(format!("http://orders{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let two = Http2::connect(self.pair.web.outbound).await;
        let two = two.send(request.body(()).unwrap(), "", HeaderMap::new());
        [one.answer().await, two.await.unwrap()]
    }

    async fn labels(&self, path: &str, headers: &[(&str, &str)]) -> [String; 2] {
        let answers = self.ask(path, headers).await;
        answers.map(|answer| match answer.status.as_u16() {
            200 => "ok".to_owned(),
            _ => answer.reject().to_owned(),
        })
    }
}

fn text(keys: &str, rest: &str) -> String {
    format!("jwt: {{issuer: \"{ISSUER}\", audiences: [orders], jwks: \"{keys}\"{rest}}}\n")
}

#[tokio::test]
async fn a_token_opens_the_way_and_its_claims_reach_the_app() {
    let bench = Bench::new(", claims-to-headers: {sub: x-user}, exempt: [/healthz]");
    let bearer = format!("Bearer {}", bench.token(|_| {}));
    for answer in bench
        .ask(
            "/a",
            &[
                ("authorization", &bearer),
                ("x-user", "root"),
                ("X_User", "root"),
            ],
        )
        .await
    {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("seen-x-user"), "ann");
        assert_eq!(answer.header("seen-x_user"), "");
        assert_eq!(answer.header("seen-authorization"), bearer);
    }
    for answer in bench.ask("/healthz", &[("x-user", "root")]).await {
        assert_eq!(
            (answer.status.as_u16(), answer.header("seen-x-user")),
            (200, "")
        );
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong_and_never_reaches_the_app() {
    let bench = Bench::new("");
    for answer in bench.ask("/a", &[]).await {
        assert_eq!(answer.status, 401);
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"weft\"");
        assert_eq!(answer.header("content-type"), "application/json");
        let body: Value = serde_json::from_str(answer.text()).unwrap();
        assert_eq!(body["status"], "error");
        assert_eq!(body["reason"], "jwt_missing");
        assert_eq!(answer.header("target"), "", "the app has not answered");
    }
    let expired = format!("Bearer {}", bench.token(|claims| claims["exp"] = json!(1)));
    for answer in bench.ask("/a", &[("authorization", &expired)]).await {
        assert_eq!(
            (answer.status.as_u16(), answer.reject()),
            (401, "jwt_expired")
        );
        let challenge = answer.header("www-authenticate");
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        assert!(
            challenge.contains("error_description=\"the token has expired\""),
            "{challenge}"
        );
    }
    let other = format!(
        "Bearer {}",
        bench.token(|claims| claims["aud"] = json!("users"))
    );
    let rows = [
        (other.as_str(), "jwt_audience"),
        ("Bearer a.b.c", "jwt_malformed"),
        ("Bearer", "jwt_malformed"),
        ("Basic dTpw", "jwt_missing"),
    ];
    for (value, want) in rows {
        assert_eq!(
            bench.labels("/a", &[("authorization", value)]).await,
            [want; 2],
            "{value}"
        );
    }
    let scrape = Scrape::of(bench.pair.orders.metrics).await;
    let expired = ["direction=\"inbound\"", "reason=\"jwt_expired\""];
    assert!(scrape.sum("weft_rejects_total", &expired) >= 2.0);
}

#[tokio::test]
async fn grpc_callers_get_unauthenticated() {
    let bench = Bench::new("");
    let call = || {
        Request::post("http://orders/shop.Orders/List")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    };
    let client = Http2::connect(bench.pair.web.outbound).await;
    let send = async |request: http::request::Builder| {
        let sent = client.send(request.body(()).unwrap(), "", HeaderMap::new());
        sent.await.unwrap()
    };
    let refused = send(call()).await;
    assert_eq!(
        (refused.status.as_u16(), refused.header("grpc-status")),
        (200, "16")
    );
    assert_eq!(refused.reject(), "jwt_missing");
    let bearer = format!("Bearer {}", bench.token(|_| {}));
    let passed = send(call().header("authorization", bearer)).await;
    assert_eq!(
        (passed.status.as_u16(), passed.header("grpc-status")),
        (200, "")
    );
    assert_eq!(passed.header("target"), "http://orders/shop.Orders/List");
}

#[tokio::test]
async fn tricks_with_paths_do_not_reach_an_exemption() {
    let bench = Bench::new(", exempt: [/public/*]");
    let rows = [
        ("/public/a", "ok"),
        ("/public/./a", "ok"),
        ("/public/../admin", "jwt_missing"),
        ("/public/%2e%2e/admin", "jwt_missing"),
        ("/public/..%2Fadmin", "jwt_missing"),
        ("/public/..;/admin", "jwt_missing"),
        ("/public/%252e%252e/admin", "jwt_missing"),
        ("//public/a", "jwt_missing"),
        ("/publica", "jwt_missing"),
    ];
    for (path, want) in rows {
        assert_eq!(bench.labels(path, &[]).await, [want; 2], "{path}");
    }
}

#[tokio::test]
async fn a_rotated_key_and_a_changed_policy_act_on_kept_connections() {
    let bench = Bench::new("");
    let old = format!("Bearer {}", bench.token(|_| {}));
    let mut client = Http1::connect(bench.pair.web.outbound).await;
    let mut ask = async |bearer: &str| {
        client
            .send(format!(
                "GET / HTTP/1.1\r\nhost: orders\r\nauthorization: {bearer}\r\n\r\n"
            ))
            .await;
        let answer = client.answer().await;
        (answer.status.as_u16(), answer.reject().to_owned())
    };
    assert_eq!(ask(&old).await.0, 200);
    let next = TokenIssuer::generate(ISSUER).unwrap();
    let path = bench.scratch.file("keys.next", next.key_set().unwrap());
    std::fs::rename(path, bench.scratch.path().join("keys.json")).unwrap();
    let gone = (401, "jwt_key".to_owned());
    eventually(
        Duration::from_secs(10),
        async || ask(&old).await,
        |answer| *answer == gone,
    )
    .await;
    bench.pair.orders.change_policy("{}").await;
    assert_eq!(
        ask("Bearer nonsense").await.0,
        200,
        "nothing is asked for any more"
    );
}

#[tokio::test]
async fn where_a_token_is_required_unread_bytes_do_not_pass() {
    let bench = Bench::new("");
    for bytes in [
        &b"\0\x01\x02"[..],
        b"\x16\x03\x01\0\x05hello",
        b"*1\r\n$4\r\nPING\r\n",
    ] {
        let mut client = Http1::connect(bench.pair.orders.inbound).await;
        client.send(bytes).await;
        let rest = client.whole().await.unwrap_or_default();
        assert!(rest.is_empty(), "{rest:?}");
    }
}
