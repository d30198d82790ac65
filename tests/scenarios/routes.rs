//! Which way a call takes: match, split, rewrite, redirect, header edits, mirror, a caller's own word, and what lies outside the mesh.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderMap;
use weft_tests::app::{self, App};
use weft_tests::client::{Answer, Http1, Http2, grpc_call};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Endpoint, Mesh, Proxy};
use weft_tests::metrics::Scrape;

/// `web`, and services behind proxies of their own, each of which says its name.
struct Shop {
    mesh: Mesh,
    web: Proxy,
    asked: Vec<Arc<AtomicUsize>>,
    _services: Vec<(Proxy, App)>,
}

const NAMES: [&str; 2] = ["orders", "orders-v2"];

impl Shop {
    fn new(policy: &str) -> Self {
        let mesh = Mesh::new();
        let mut asked = Vec::new();
        let mut services = Vec::new();
        for name in NAMES {
            let count = Arc::<AtomicUsize>::default();
            asked.push(Arc::clone(&count));
            let app = App::http(move |request| {
                count.fetch_add(1, Ordering::Relaxed);
                let mut response = app::echoed(request);
                response
                    .headers_mut()
                    .insert("served-by", name.parse().unwrap());
                async { response }
            });
            let proxy = mesh.proxy(name).serves(80, app.address).start();
            services.push((proxy, app));
        }
        let endpoints: Vec<[Endpoint; 1]> = services
            .iter()
            .map(|(proxy, _)| [proxy.endpoint()])
            .collect();
        let rows: Vec<(&str, u16, &str, &[Endpoint])> = NAMES
            .iter()
            .zip(&endpoints)
            .map(|(name, endpoints)| (*name, 80, "-", endpoints.as_slice()))
            .collect();
        mesh.services(&rows);
        let web = mesh.proxy("web").policy(policy).start();
        Self {
            mesh,
            web,
            asked,
            _services: services,
        }
    }

    /// The same over HTTP/1 and HTTP/2.
    async fn ask(&self, head: &str, headers: &str) -> [Answer; 2] {
        let (method, path) = head.split_once(' ').unwrap();
        let mut one = Http1::connect(self.web.outbound).await;
        one.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: orders\r\n{headers}\r\n"
        ))
        .await;
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://orders{path}"));
        for line in headers.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let two = Http2::connect(self.web.outbound).await;
        let two = two.send(request.body(()).unwrap(), "", HeaderMap::new());
        [one.answer().await, two.await.unwrap()]
    }
}

fn to_orders(routes: &str) -> String {
    format!("to: {{orders: {{routes: {routes}}}}}\n")
}

#[tokio::test]
async fn the_first_route_that_matches_is_taken() {
    let shop = Shop::new(&to_orders(
        r#"[
        {match: {path: /exact}, split: [orders-v2]},
        {match: {path: /pre/*, method: POST}, split: [orders-v2]},
        {match: {path: "/users/{id}/cart"}, split: [orders-v2]},
        {match: {path: "regex:/[0-9]+"}, split: [orders-v2]},
        {match: {headers: {x-beta: "1"}}, split: [orders-v2]},
        {match: {query: {beta: "yes"}}, split: [orders-v2]},
        {match: [{path: /a}, {path: /b}], split: [orders-v2]}]"#,
    ));
    let rows = [
        ("GET /exact", "", 1),
        ("GET /exact/more", "", 0),
        ("POST /pre/x", "", 1),
        ("GET /pre/x", "", 0),
        ("GET /users/7/cart", "", 1),
        ("GET /users/7/8/cart", "", 0),
        ("GET /12", "", 1),
        ("GET /12a", "", 0),
        ("GET /", "x-beta: 1\r\n", 1),
        ("GET /", "x-beta: 2\r\n", 0),
        ("GET /?beta=yes", "", 1),
        ("GET /?beta=no", "", 0),
        ("GET /b", "", 1),
        ("GET /x/../exact", "", 1),
        ("GET /%65xact", "", 1),
    ];
    for (head, headers, want) in rows {
        for answer in shop.ask(head, headers).await {
            assert_eq!(answer.header("served-by"), NAMES[want], "{head} {headers}");
        }
    }
    let web = Http2::connect(shop.web.outbound).await;
    let call = web
        .send(grpc_call("orders", "/exact"), "", HeaderMap::new())
        .await
        .unwrap();
    assert_eq!(
        call.header("served-by"),
        "orders-v2",
        "gRPC is routed alike"
    );
}

#[tokio::test]
async fn of_a_thousand_calls_each_version_gets_its_share() {
    let shop = Shop::new(&to_orders(
        "[{split: [{service: orders, weight: 90}, {service: orders-v2, weight: 10}]}]",
    ));
    let mut client = Http1::connect(shop.web.outbound).await;
    for _ in 0..1000 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    let second = shop.asked[1].load(Ordering::Relaxed);
    assert!((80..=120).contains(&second), "{second} of 1000");
    // Changed while the connection is used: nobody loses a request.
    let all = to_orders("[{split: [orders-v2]}]");
    shop.web.change_policy(&all).await;
    for _ in 0..20 {
        assert_eq!(
            client.get("orders", "/").await.header("served-by"),
            "orders-v2"
        );
    }
}

#[tokio::test]
async fn a_route_rewrites_redirects_and_edits() {
    let shop = Shop::new(&to_orders(
        r#"[
        {match: /api/user/*, rewrite: /$1, headers: {request: {set: {x-seen: routed}, remove: [x-drop]}, response: {add: {x-way: api}}}},
        {match: "/items/{id}", rewrite: {path: "/v2/{id}?full=1", host: items.example}},
        {match: /up/*, rewrite: /a/$1},
        {match: /old/*, redirect: {path: /new/$1, status: 301}},
        {match: /secure, redirect: {scheme: https, host: shop.example}}]"#,
    ));
    for answer in shop.ask("GET /api/user/7/x?q=1", "x-drop: 1\r\n").await {
        assert!(answer.header("target").ends_with("/7/x?q=1"), "{answer:?}");
        assert_eq!(answer.header("seen-x-seen"), "routed");
        assert_eq!(answer.header("seen-x-drop"), "");
        assert_eq!(answer.header("x-way"), "api");
    }
    for answer in shop.ask("GET /items/9", "").await {
        let (target, host) = (answer.header("target"), answer.header("seen-host"));
        assert!(target.ends_with("/v2/9?full=1"), "{answer:?}");
        assert!(
            host == "items.example" || target.contains("items.example"),
            "{answer:?}"
        );
    }
    for answer in shop.ask("GET /old/a/b?c=d", "").await {
        assert_eq!(answer.status, 301);
        let location = answer.header("location");
        assert!(location.ends_with("/new/a/b?c=d"), "{location}");
        assert_eq!(answer.header("served-by"), "");
    }
    for answer in shop.ask("GET /secure?a=b", "").await {
        assert_eq!(answer.status, 302);
        assert_eq!(answer.header("location"), "https://shop.example/secure?a=b");
    }
    // What a capture holds can leave no directory and end no line.
    for (head, reaches) in [("GET /up/..%2f..%2fetc", false), ("GET /up/x", true)] {
        for answer in shop.ask(head, "").await {
            let served = !answer.header("served-by").is_empty();
            let inside = answer.header("target").contains("/a/");
            assert!(!served || inside, "{head}: {answer:?}");
            assert!(served || !reaches, "{head}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_disturbs_nobody() {
    let shop = Shop::new(&to_orders("[{mirror: orders-v2}]"));
    for answer in shop.ask("POST /a", "content-length: 0\r\n").await {
        assert_eq!(answer.header("served-by"), "orders");
    }
    let copies = async || shop.asked[1].load(Ordering::Relaxed);
    eventually(Duration::from_secs(5), copies, |count| *count == 2).await;
    // A mirror that is dead costs nothing.
    let endpoint = Endpoint::plain(([127, 0, 0, 1], 1).into());
    shop.mesh.services(&[
        ("orders", 80, "-", &[shop._services[0].0.endpoint()]),
        ("orders-v2", 80, "-", &[endpoint]),
    ]);
    for _ in 0..10 {
        for answer in shop.ask("GET /", "").await {
            assert_eq!(
                (answer.status.as_u16(), answer.header("served-by")),
                (200, "orders")
            );
        }
    }
}

#[tokio::test]
async fn a_service_that_nobody_knows_is_a_clear_answer() {
    let shop = Shop::new(&to_orders("[{split: [nobody.invalid]}]"));
    for answer in shop.ask("GET /", "").await {
        assert_eq!(
            (answer.status.as_u16(), answer.reject()),
            (503, "unknown_destination")
        );
    }
}

#[tokio::test]
async fn to_names_a_service_by_any_of_its_spellings_and_no_other() {
    for name in ["orders", "orders.default", "'orders:80'"] {
        let policy = format!("to: {{{name}: {{fallback: x, routes: [{{split: [orders-v2]}}]}}}}\n");
        let shop = Shop::new(&policy);
        for answer in shop.ask("GET /", "").await {
            assert_eq!(answer.header("served-by"), "orders-v2", "{name}");
        }
    }
    for name in ["orders.bank", "'orders:81'", "order"] {
        let policy = format!("to: {{{name}: {{routes: [{{split: [orders-v2]}}]}}}}\n");
        let shop = Shop::new(&policy);
        for answer in shop.ask("GET /", "").await {
            assert_eq!(answer.header("served-by"), "orders", "{name}");
        }
    }
}

#[tokio::test]
async fn egress_lets_out_what_is_listed() {
    let outside = app::echo();
    let address = outside.address;
    let rows = [
        ("egress: allow\n", true),
        ("egress: deny\n", false),
        ("egress: [127.0.0.1]\n", true),
        ("egress: [10.0.0.1, '*.example']\n", false),
    ];
    for (policy, passes) in rows {
        let shop = Shop::new(policy);
        let mut one = Http1::connect(shop.web.outbound).await;
        one.send(format!(
            "GET http://{address}/ HTTP/1.1\r\nhost: {address}\r\n\r\n"
        ))
        .await;
        let mut tunnel = Http1::connect(shop.web.outbound).await;
        tunnel
            .send(format!(
                "CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n\r\n"
            ))
            .await;
        let answers = [
            one.answer().await,
            tunnel.try_answer("CONNECT").await.unwrap(),
        ];
        for answer in answers {
            let want = if passes {
                (200, "")
            } else {
                (403, "egress_denied")
            };
            assert_eq!((answer.status.as_u16(), answer.reject()), want, "{policy}");
        }
        // What is in the mesh is none of its business.
        for answer in shop.ask("GET /", "").await {
            assert_eq!(answer.header("served-by"), "orders", "{policy}");
        }
        let refused = Scrape::of(shop.web.metrics).await;
        let refused = refused.sum("weft_rejects_total", &["reason=\"egress_denied\""]);
        assert_eq!(refused > 0.5, !passes, "{policy}");
    }
}

#[tokio::test]
async fn balance_is_what_policy_says() {
    let mesh = Mesh::new();
    let orders: Vec<(App, Proxy)> = (0..3)
        .map(|number| {
            let app = App::http(move |request| {
                let mut response = app::echoed(request);
                let number = number.to_string().parse().unwrap();
                response.headers_mut().insert("served-by", number);
                async { response }
            });
            let proxy = mesh.proxy("orders").serves(80, app.address).start();
            (app, proxy)
        })
        .collect();
    let endpoints: Vec<Endpoint> = orders.iter().map(|(_, proxy)| proxy.endpoint()).collect();
    mesh.services(&[("orders", 80, "-", &endpoints)]);
    let web = mesh
        .proxy("web")
        .policy("to: {orders: {balance: round-robin}}\n")
        .start();
    let mut client = Http1::connect(web.outbound).await;
    let mut counts = [0; 3];
    for _ in 0..30 {
        let answer = client.get("orders", "/").await;
        counts[answer.header("served-by").parse::<usize>().unwrap()] += 1;
    }
    assert_eq!(counts, [10, 10, 10]);
    web.change_policy("to: {orders: {balance: 'hash:header:x-user'}}\n")
        .await;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..20 {
        let mut places = std::collections::BTreeSet::new();
        for _ in 0..5 {
            client
                .send(format!(
                    "GET / HTTP/1.1\r\nhost: orders\r\nx-user: {user}\r\n\r\n"
                ))
                .await;
            places.insert(client.answer().await.header("served-by").to_owned());
        }
        assert_eq!(places.len(), 1, "user {user} stays at one endpoint");
        seen.extend(places);
    }
    assert_eq!(seen.len(), 3, "users are spread");
}
