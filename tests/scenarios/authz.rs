//! Who may call what: rules by identity, path, method, host, header and port, for HTTP/1, HTTP/2, gRPC and opaque bytes.

use std::time::Duration;

use http::{HeaderMap, Method, Request};
use serde_json::json;
use weft_tests::app::{self, App};
use weft_tests::client::{Http1, Http2};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Mesh, Pair, Proxy};
use weft_tests::metrics::Scrape;

type Headers<'a> = &'a [(&'a str, &'a str)];

fn pair(app: App, policy: &str) -> Pair {
    Pair::with(app, |web| web, |orders| orders.policy(policy))
}

/// What becomes of a request over HTTP/1 and HTTP/2.
async fn ask(proxy: &Proxy, method: &Method, path: &str, headers: Headers<'_>) -> [String; 2] {
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let mut one = Http1::connect(proxy.outbound).await;
    one.send(format!(
        "{method} {path} HTTP/1.1\r\nhost: orders\r\n{lines}\r\n"
    ))
    .await;
    let one = one.answer().await;
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://orders{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let two = Http2::connect(proxy.outbound).await;
    let two = two.send(request.body(()).unwrap(), "", HeaderMap::new());
    [one, two.await.unwrap()].map(|answer| match answer.status.as_u16() {
        200 => "ok".to_owned(),
        status => format!("{status} {}", answer.reject()),
    })
}

async fn counted(proxy: &Proxy, name: &str, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    Scrape::of(proxy.metrics).await.sum(name, &[&reason])
}

#[tokio::test]
async fn only_the_callers_that_are_named_get_through() {
    let policy = "allow: [web]\n";
    let pair = pair(app::echo(), policy);
    let other = pair.mesh.proxy("other").start();
    assert_eq!(ask(&pair.web, &Method::GET, "/", &[]).await, ["ok"; 2]);
    let refused = ["403 authz_not_allowed"; 2];
    assert_eq!(ask(&other, &Method::GET, "/", &[]).await, refused);
    let mut plain = Http1::connect(pair.orders.inbound).await;
    let answer = plain.get("orders", "/").await;
    assert_eq!(answer.reject(), "authz_not_allowed", "nobody is no caller");
    let call = Request::post("http://orders/shop.Orders/List")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let client = Http2::connect(other.outbound).await;
    let answer = client.send(call, "", HeaderMap::new()).await.unwrap();
    assert_eq!(answer.header("grpc-status"), "7", "{answer:?}");
    pair.orders.change_policy("deny: [web]\n").await;
    assert_eq!(
        ask(&pair.web, &Method::GET, "/", &[]).await,
        ["403 authz_denied"; 2]
    );
    assert_eq!(ask(&other, &Method::GET, "/", &[]).await, ["ok"; 2]);
}

#[tokio::test]
async fn tricks_get_no_further() {
    let policy =
        "deny:\n- {paths: [/admin/*]}\n- {methods: [DELETE]}\n- {headers: {x-role: admin}}\n";
    let pair = pair(app::echo(), policy);
    let denied = "403 authz_denied";
    let rows: [(&str, Headers<'_>, &str); 19] = [
        ("/a", &[], "ok"),
        ("/administrator", &[], "ok"),
        ("/a?x=/admin/b", &[], "ok"),
        ("/admin", &[], denied),
        ("/admin/b", &[], denied),
        ("/a/../admin/b", &[], denied),
        ("/./admin/b", &[], denied),
        ("/%61dmin/b", &[], denied),
        ("/a/%2e%2e/admin/b", &[], denied),
        ("//admin/b", &[], denied),
        ("/admin//b", &[], denied),
        ("/admin%2fb", &[], denied),
        ("/a/..%2fadmin/b", &[], denied),
        ("/a/..;/admin/b", &[], denied),
        ("/admin;x=1/b", &[], denied),
        ("/%2561dmin/b", &[], denied),
        ("/a/%ff", &[], "403 authz_unreadable"),
        ("/a", &[("x-role", "admin")], denied),
        (
            "/a",
            &[("x-role", "user"), ("x-role", "admin")],
            "403 authz_unreadable",
        ),
    ];
    for (path, headers, want) in rows {
        assert_eq!(
            ask(&pair.web, &Method::GET, path, headers).await,
            [want; 2],
            "{path} {headers:?}"
        );
    }
    assert_eq!(
        ask(&pair.web, &Method::DELETE, "/a", &[]).await,
        [denied; 2]
    );
    for method in ["delete", "Delete"] {
        let mut client = Http1::connect(pair.orders.inbound).await;
        client
            .send(format!("{method} /a HTTP/1.1\r\nhost: orders\r\n\r\n"))
            .await;
        assert_eq!(client.answer().await.status, 400, "{method}");
    }
}

#[tokio::test]
async fn allowed_paths_are_those_of_every_reading() {
    let policy = "allow:\n- {from: web, paths: [/public/*], methods: [GET]}\n";
    let pair = pair(app::echo(), policy);
    let no = "403 authz_not_allowed";
    let rows = [
        (Method::GET, "/public/a", "ok"),
        (Method::GET, "/public/a;v=1", "ok"),
        (Method::GET, "/public/a%2Fb", "ok"),
        (Method::PUT, "/public/a", no),
        (Method::POST, "/public/a", no),
        (Method::GET, "/public/../admin", no),
        (Method::GET, "/public/..%2Fadmin", no),
        (Method::GET, "/public/..;/admin", no),
        (Method::GET, "/public/%252e%252e/admin", no),
        (Method::GET, "/", no),
    ];
    for (method, path, want) in rows {
        let two = ask(&pair.web, &method, path, &[]).await;
        assert_eq!(two, [want; 2], "{method} {path}");
    }
}

#[tokio::test]
async fn audit_lets_pass_and_counts() {
    let policy = "deny: [{paths: [/admin/*]}]\nauthz: {mode: audit}\n";
    let pair = pair(app::echo(), policy);
    assert_eq!(
        ask(&pair.web, &Method::GET, "/admin/a", &[]).await,
        ["ok"; 2]
    );
    let audited = counted(&pair.orders, "weft_authz_audit_total", "authz_denied");
    assert!((audited.await - 2.0).abs() < 0.1);
    let refused = counted(&pair.orders, "weft_rejects_total", "authz_denied");
    assert!(refused.await < 0.1);
}

/// Sends bytes that are not HTTP through the mesh, and returns what comes back.
async fn opaque(proxy: &Proxy) -> Vec<u8> {
    let mut client = Http1::connect(proxy.outbound).await;
    client
        .send("CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n")
        .await;
    if client.try_answer("CONNECT").await.is_err() {
        return Vec::new();
    }
    let _closed = client.try_send([0, 1, 2]).await;
    client.finish_quietly().await;
    client.whole().await.unwrap_or_default()
}

#[tokio::test]
async fn opaque_bytes_are_judged_by_identity_and_port() {
    let policy = "allow: [web]\n";
    let pair = pair(app::tcp_echo(), policy);
    let other = pair.mesh.proxy("other").start();
    assert_eq!(opaque(&pair.web).await, [0, 1, 2]);
    assert!(opaque(&other).await.is_empty());
    assert!(counted(&pair.orders, "weft_rejects_total", "authz_not_allowed").await >= 1.0);
    for (text, want) in [
        ("allow: [{from: web, methods: [GET]}]\n", &[][..]),
        ("deny: [{paths: [/a]}]\n", &[]),
        ("deny: [{paths: [/a], ports: [81]}]\n", &[0, 1, 2]),
        ("allow: [{from: web, ports: [80]}]\n", &[0, 1, 2]),
    ] {
        pair.orders.change_policy(text).await;
        assert_eq!(opaque(&pair.web).await, want, "{text}");
    }
}

#[tokio::test]
async fn http_that_is_late_is_still_judged_as_http() {
    let policy = "allow: [{paths: [/a]}]\n";
    let pair = Pair::with(
        app::echo(),
        |web| web,
        |orders| orders.policy(policy).set("WEFT_DETECT_TIMEOUT", "20ms"),
    );
    let mut client = Http1::connect(pair.orders.inbound).await;
    let limit = Duration::from_secs(10);
    let accepted = async || {
        let scrape = Scrape::of(pair.orders.metrics).await;
        scrape.sum("weft_inbound_connections_accepted_total", &[])
    };
    eventually(limit, accepted, |count| *count > 0.0).await;
    assert_eq!(client.get("orders", "/a").await.status, 200);
    assert_eq!(
        client.get("orders", "/b").await.reject(),
        "authz_not_allowed"
    );
}

#[tokio::test]
async fn mtls_is_changed_while_connections_are_open() {
    let policy = "{}\n";
    let pair = pair(app::echo(), policy);
    let mut kept = Http1::connect(pair.orders.inbound).await;
    assert_eq!(kept.get("orders", "/").await.status, 200);
    pair.orders.change_policy("mtls: strict\n").await;
    let answer = kept.get("orders", "/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (403, "plaintext")
    );
    let mut late = Http1::connect(pair.orders.inbound).await;
    late.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    assert!(late.whole().await.unwrap_or_default().is_empty());
    assert_eq!(ask(&pair.web, &Method::GET, "/", &[]).await, ["ok"; 2]);
    pair.orders
        .change_policy("mtls: strict\nports: {80: {mtls: permissive}}\n")
        .await;
    assert_eq!(kept.get("orders", "/").await.status, 200);
}

#[tokio::test]
async fn a_port_that_is_declared_speaks_that_and_nothing_else() {
    let mesh = Mesh::new();
    let (echo, bytes) = (app::echo(), app::tcp_echo());
    let start = |app: &App, policy| {
        let orders = mesh.proxy("orders").serves(80, app.address);
        orders.policy(policy).start()
    };
    let orders = start(&echo, "ports: {80: http}\n");
    let mut client = Http1::connect(orders.inbound).await;
    client.send([0, 1, 2, b'\r', b'\n', b'\r', b'\n']).await;
    assert_eq!(client.answer().await.status, 400);
    assert_eq!(
        Http1::connect(orders.inbound)
            .await
            .get("orders", "/")
            .await
            .status,
        200
    );
    assert_eq!(
        Http2::connect(orders.inbound)
            .await
            .get("orders", "/")
            .await
            .status,
        200
    );
    let tcp = start(&bytes, "ports: {80: tcp}\n");
    let mut client = Http1::connect(tcp.inbound).await;
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    client.finish().await;
    assert_eq!(
        client.whole().await.unwrap(),
        b"GET / HTTP/1.1\r\n\r\n",
        "not read"
    );
}

#[tokio::test]
async fn rules_see_the_users_token() {
    let tokens = weft_ca::token::mint::TokenIssuer::generate("https://i.test").unwrap();
    let keys = tokens.key_set().unwrap();
    let policy = &format!(
        "jwt: {{issuer: \"https://i.test\", required: false, jwks: {keys}}}\n\
         allow:\n- {{paths: [/public]}}\n- {{claims: {{roles: [admin]}}}}\n"
    );
    let pair = pair(app::echo(), policy);
    let bearer = |roles: serde_json::Value| {
        let claims = json!({"iss": "https://i.test", "exp": 9_999_999_999_u64, "roles": roles});
        format!("Bearer {}", tokens.sign(&claims).unwrap())
    };
    let (admin, user) = (bearer(json!(["user", "admin"])), bearer(json!(["user"])));
    let rows: [(&str, Option<&str>, &str); 4] = [
        ("/public", None, "ok"),
        ("/a", None, "403 authz_not_allowed"),
        ("/a", Some(&user), "403 authz_not_allowed"),
        ("/a", Some(&admin), "ok"),
    ];
    for (path, token, want) in rows {
        let headers: Vec<(&str, &str)> = token
            .map(|token| ("authorization", token))
            .into_iter()
            .collect();
        assert_eq!(
            ask(&pair.web, &Method::GET, path, &headers).await,
            [want; 2],
            "{path} {token:?}"
        );
    }
}
