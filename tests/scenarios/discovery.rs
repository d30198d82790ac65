//! Services and policy from the control plane: learned on the first call, changed live, kept when it is away.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use weft_discovery::cluster::{Change, Condition, Key, Notes, Route, RouteRef};
use weft_tests::app;
use weft_tests::client::{Answer, Http1};
use weft_tests::discovery::{Discovery, notes};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Mesh, Proxy};
use weft_tests::metrics::Scrape;
use weft_tests::scratch::Scratch;

/// `web` calls `orders`, and both know each other from discovery alone. Fields end in their order.
struct Shop {
    web: Proxy,
    orders: Proxy,
    discovery: Discovery,
    app: app::App,
    mesh: Mesh,
}

impl Shop {
    fn new() -> Self {
        let mesh = Mesh::new();
        let discovery = Discovery::new(&mesh);
        let app = app::echo();
        let orders = discovery
            .supplies(mesh.proxy("orders").serves(80, app.address), "orders-0")
            .start();
        let web = discovery.supplies(mesh.proxy("web"), "web-0").start();
        discovery.service(
            "orders",
            &[],
            &[(orders.inbound, Some("orders"), Condition::Ready)],
        );
        Self {
            web,
            orders,
            discovery,
            app,
            mesh,
        }
    }

    async fn call(&self) -> Answer {
        call(self.web.outbound).await
    }
}

async fn call(outbound: SocketAddr) -> Answer {
    Http1::connect(outbound).await.get("orders", "/").await
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_service_is_known_with_the_first_call_and_called_as_who_it_is() {
    let shop = Shop::new();
    let answer = shop.call().await;
    assert_eq!(answer.status, 200, "{}", answer.reject());
    assert!(
        answer
            .header("seen-x-forwarded-client-cert")
            .contains("sa/web")
    );
    // Who it is, the certificate says; what it is a part of, discovery.
    let labels = [
        "reporter=\"source\"",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/orders\"",
        "destination_workload=\"orders-0\"",
        "destination_workload_namespace=\"default\"",
    ];
    let counted = async || {
        let scrape = Scrape::of(shop.web.metrics).await;
        scrape.sum("istio_requests_total", &labels)
    };
    eventually(SOON, counted, |counted| *counted == 1.0).await;
    let unknown = Http1::connect(shop.web.outbound)
        .await
        .get("nobody.shop", "/")
        .await;
    assert_eq!(unknown.reject(), "unknown_service");
}

#[tokio::test]
async fn an_address_of_somebody_else_is_never_called_as_before() {
    let shop = Shop::new();
    assert_eq!(shop.call().await.status, 200);
    shop.discovery.service(
        "orders",
        &[],
        &[(shop.orders.inbound, Some("other"), Condition::Ready)],
    );
    let refused = async || shop.call().await.reject().to_owned();
    eventually(SOON, refused, |reject| reject == "wrong_identity").await;
    shop.discovery.service(
        "orders",
        &[],
        &[(shop.orders.inbound, Some("orders"), Condition::Ready)],
    );
    eventually(
        SOON,
        async || shop.call().await.status.as_u16(),
        |status| *status == 200,
    )
    .await;
}

#[tokio::test]
async fn endpoints_that_end_are_used_only_where_nobody_else_is() {
    let shop = Shop::new();
    let second = app::echo();
    let other = shop.mesh.proxy("orders").serves(80, second.address).start();
    let rows = |one, two| {
        [
            (shop.orders.inbound, Some("orders"), one),
            (other.inbound, Some("orders"), two),
        ]
    };
    shop.discovery
        .service("orders", &[], &rows(Condition::Ending, Condition::Unready));
    assert_eq!(
        shop.call().await.status,
        200,
        "the one that ends still serves"
    );
    shop.discovery
        .service("orders", &[], &rows(Condition::Unready, Condition::Unready));
    let refused = async || shop.call().await.reject().to_owned();
    eventually(SOON, refused, |reject| reject == "no_endpoint").await;
    shop.discovery
        .service("orders", &[], &rows(Condition::Unready, Condition::Ready));
    eventually(
        SOON,
        async || shop.call().await.status.as_u16(),
        |status| *status == 200,
    )
    .await;
}

#[tokio::test]
async fn a_namespace_says_who_may_call_and_a_service_how() {
    let shop = Shop::new();
    assert_eq!(shop.call().await.status, 200);
    let deny = notes(&[("weft.dev/deny", "web")]);
    shop.discovery
        .apply([Change::Namespace("default".into(), Some(deny))]);
    let refused = async || shop.call().await.reject().to_owned();
    eventually(SOON, refused, |reject| reject == "authz_denied").await;
    // A bad one changes nothing.
    let bad = notes(&[("weft.dev/deny", "{")]);
    shop.discovery
        .apply([Change::Namespace("default".into(), Some(bad))]);
    assert_eq!(shop.call().await.reject(), "authz_denied");
    shop.discovery
        .apply([Change::Namespace("default".into(), Some(notes(&[])))]);
    eventually(
        SOON,
        async || shop.call().await.status.as_u16(),
        |status| *status == 200,
    )
    .await;

    let row = [(shop.orders.inbound, Some("orders"), Condition::Ready)];
    let gone = [(
        "weft.dev/routes",
        "[{match: {path: /}, redirect: /elsewhere}]",
    )];
    shop.discovery.service("orders", &gone, &row);
    eventually(
        SOON,
        async || shop.call().await.status.as_u16(),
        |status| (300..400).contains(status),
    )
    .await;
}

#[tokio::test]
async fn without_the_control_plane_the_last_known_state_serves_also_after_a_restart() {
    let mut shop = Shop::new();
    let state = Scratch::new();
    let starting = || {
        shop.mesh
            .proxy("web")
            .set("WEFT_STATE_DIR", state.path().display())
    };
    let first = shop.discovery.supplies(starting(), "web-1").start();
    assert_eq!(call(first.outbound).await.status, 200);
    let file = state.path().join("discovery.pb");
    eventually(SOON, async || file.exists(), |exists| *exists).await;
    shop.discovery.stop();
    assert_eq!(call(first.outbound).await.status, 200);
    drop(first);
    let second = shop.discovery.supplies(starting(), "web-1").start();
    assert_eq!(call(second.outbound).await.status, 200);

    // While nobody could tell, the pod went elsewhere.
    let app = app::echo();
    let moved = shop.mesh.proxy("orders").serves(80, app.address).start();
    shop.discovery.service(
        "orders",
        &[],
        &[(moved.inbound, Some("orders"), Condition::Ready)],
    );
    shop.orders.shutdown();
    shop.discovery.start();
    let updates = async || {
        Scrape::of(second.metrics)
            .await
            .sum("weft_discovery_connected", &[])
    };
    eventually(SOON, updates, |connected| *connected > 0.5).await;
    eventually(
        SOON,
        async || call(second.outbound).await.status.as_u16(),
        |status| *status == 200,
    )
    .await;
    let _running = &shop.app;
}

#[tokio::test]
async fn an_http_route_sends_requests_elsewhere_and_refuses_what_no_rule_fits() {
    let shop = Shop::new();
    let second = app::scripted(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nv2".to_vec());
    let other = shop.mesh.proxy("next").serves(80, second.address).start();
    shop.discovery.service(
        "next",
        &[],
        &[(other.inbound, Some("next"), Condition::Ready)],
    );
    let rule = json!({
        "matches": [{"path": {"value": "/new"}}],
        "filters": [{"responseHeaderModifier": {"set": [{"name": "x-way", "value": "route"}]}}],
        "backendRefs": [{"name": "next", "port": 80}],
    });
    let route = Route {
        spec: json!({"parentRefs": [{"group": "", "kind": "Service", "name": "orders"}], "rules": [rule]}),
        created: 0,
        generation: 1,
        notes: Notes::default(),
    };
    let name = RouteRef {
        kind: "HTTPRoute",
        key: Key::new("default", "orders"),
    };
    shop.discovery
        .apply([Change::Route(name.clone(), Some(route))]);
    let get = async |path: &str| {
        Http1::connect(shop.web.outbound)
            .await
            .get("orders", path)
            .await
    };
    let answer = get("/new/a").await;
    assert_eq!(
        (answer.text(), answer.header("x-way")),
        ("v2", "route"),
        "{}",
        answer.reject()
    );
    assert_eq!(get("/old").await.status, 404);
    shop.discovery.apply([Change::Route(name, None)]);
    eventually(
        SOON,
        async || get("/old").await.status.as_u16(),
        |status| *status == 200,
    )
    .await;
}
