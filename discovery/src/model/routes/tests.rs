use super::*;
use crate::cluster::{Notes, ServicePort};
use weft_api::workload::AppProtocol;

fn names() -> Names {
    Names {
        cluster_domain: "cluster.local".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
    }
}

fn services() -> HashMap<Key, Service> {
    let port = |port| ServicePort {
        name: String::new(),
        port,
        protocol: AppProtocol::Unknown,
    };
    let service = Service {
        ports: vec![port(80), port(90)],
        ..Service::default()
    };
    ["echo", "v1", "v2"]
        .into_iter()
        .map(|name| (Key::new("shop", name), service.clone()))
        .collect()
}

fn route(
    kind: &'static str,
    namespace: &str,
    rules: Value,
    port: Option<u16>,
) -> (RouteRef, Route) {
    let mut parent = json!({"group": "", "kind": "Service", "name": "echo", "namespace": "shop"});
    if let Some(port) = port {
        parent["port"] = json!(port);
    }
    let route = Route {
        spec: json!({"parentRefs": [parent], "rules": rules}),
        created: 0,
        generation: 1,
        notes: Notes::default(),
    };
    (
        RouteRef {
            kind,
            key: Key::new(namespace, "route"),
        },
        route,
    )
}

fn documents(routes: &[(RouteRef, Route)]) -> (Vec<(u32, Value)>, Vec<String>) {
    let attached: Vec<_> = routes.iter().map(|(name, route)| (name, route)).collect();
    let (own, consumers) = of_service(&Key::new("shop", "echo"), &attached, &services(), &names());
    let document = |layer: weft::Layer| {
        let document: Value = serde_json::from_str(&layer.document).unwrap();
        (layer.port, document["routes"].clone())
    };
    (
        own.into_iter().map(document).collect(),
        consumers.into_keys().collect(),
    )
}

/// The one document of one rule, without the last line, which is for what nothing fits.
fn lines(kind: &'static str, rule: Value) -> Vec<Value> {
    let (mut documents, _) = documents(&[route(kind, "shop", json!([rule]), None)]);
    let Value::Array(mut lines) = documents.remove(0).1 else {
        unreachable!()
    };
    lines.pop();
    lines
}

fn backend(name: &str) -> Value {
    json!({"name": name, "port": 80})
}

#[test]
fn each_part_of_a_rule_becomes_a_part_of_a_route() {
    let split = json!([{"service": "v1.shop:80", "weight": "1"}]);
    let to_v1 = json!([backend("v1")]);
    let rows = [
        (
            "nothing but a backend",
            HTTP_ROUTE,
            json!({"backendRefs": to_v1}),
            json!([{"split": split}]),
        ),
        (
            "exact path and method",
            HTTP_ROUTE,
            json!({"matches": [{"path": {"type": "Exact", "value": "/a"}, "method": "GET"}], "backendRefs": to_v1}),
            json!([{"match": {"path": "/a", "method": "GET"}, "split": split}]),
        ),
        (
            "prefix, header, parameter",
            HTTP_ROUTE,
            json!({"matches": [{"path": {"value": "/a/"}, "headers": [{"name": "x", "value": "1*"}], "queryParams": [{"name": "q", "type": "RegularExpression", "value": "a+"}]}], "backendRefs": to_v1}),
            json!([{"match": {"path": "/a/*", "headers": {"x": "regex:1\\*"}, "query": {"q": "regex:a+"}}, "split": split}]),
        ),
        (
            "weights",
            HTTP_ROUTE,
            json!({"backendRefs": [{"name": "v1", "port": 80, "weight": 70}, {"name": "v2", "port": 90, "weight": 30}, {"name": "v2", "port": 80, "weight": 0}]}),
            json!([{"split": [{"service": "v1.shop:80", "weight": "70"}, {"service": "v2.shop:90", "weight": "30"}]}]),
        ),
        (
            "a backend that is not there",
            HTTP_ROUTE,
            json!({"backendRefs": [backend("nobody")]}),
            json!([{"fault": {"abort": {"status": "500"}}}]),
        ),
        (
            "a part that is not there",
            HTTP_ROUTE,
            json!({"backendRefs": [backend("v1"), backend("nobody")]}),
            json!([{"fault": {"abort": {"status": "500", "share": "50.00%"}}, "split": split}]),
        ),
        (
            "headers, also of the backend",
            HTTP_ROUTE,
            json!({"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "1"}], "remove": ["b"]}}],
                   "backendRefs": [{"name": "v1", "port": 80, "filters": [{"requestHeaderModifier": {"add": [{"name": "c", "value": "2"}]}}]}]}),
            json!([{"headers": {"request": {"set": {"a": "1"}, "remove": ["b"], "add": {"c": "2"}}}, "split": split}]),
        ),
        (
            "redirect",
            HTTP_ROUTE,
            json!({"filters": [{"requestRedirect": {"scheme": "https", "hostname": "example.org", "port": 8443, "statusCode": 301}}]}),
            json!([{"redirect": {"scheme": "https", "host": "example.org", "port": "8443", "status": "301"}}]),
        ),
        (
            "a prefix replaced",
            HTTP_ROUTE,
            json!({"matches": [{"path": {"value": "/old"}}], "filters": [{"urlRewrite": {"hostname": "h.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new/"}}}], "backendRefs": to_v1}),
            json!([{"match": {"path": "/old"}, "rewrite": {"path": "/new", "host": "h.example"}, "split": split},
                   {"match": {"path": "/old/*"}, "rewrite": {"path": "/new/$1", "host": "h.example"}, "split": split}]),
        ),
        (
            "times",
            HTTP_ROUTE,
            json!({"timeouts": {"request": "10s", "backendRequest": "0s"}, "backendRefs": to_v1}),
            json!([{"timeout": {"request": "10s"}, "split": split}]),
        ),
        (
            "a method of gRPC",
            GRPC_ROUTE,
            json!({"matches": [{"method": {"service": "a.B", "method": "C"}}], "backendRefs": to_v1}),
            json!([{"match": {"path": "/a.B/C"}, "split": split}]),
        ),
    ];
    for (name, kind, rule, want) in rows {
        assert_eq!(Value::Array(lines(kind, rule)), want, "{name}");
    }
}

#[test]
fn the_most_specific_match_comes_first() {
    let path = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
    let header = json!({"path": {"value": "/a"}, "headers": [{"name": "x", "value": "1"}]});
    let matches = json!([
        path("PathPrefix", "/"),
        path("PathPrefix", "/a"),
        path("Exact", "/a"),
        header,
        path("PathPrefix", "/a/b")
    ]);
    let lines = lines(
        HTTP_ROUTE,
        json!({"matches": matches, "backendRefs": [backend("v1")]}),
    );
    let found: Vec<(&str, bool)> = lines
        .iter()
        .map(|line| {
            (
                line["match"]["path"].as_str().unwrap_or("all"),
                line["match"]["headers"].is_object(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("/a", false),
            ("/a/b/*", false),
            ("/a/*", true),
            ("/a/*", false),
            ("all", false)
        ]
    );
}

#[test]
fn routes_are_for_their_port_and_their_callers() {
    let rules = || json!([{"backendRefs": [backend("v1")]}]);
    let (own, consumers) = documents(&[
        route(HTTP_ROUTE, "shop", rules(), Some(90)),
        route(HTTP_ROUTE, "web", rules(), None),
    ]);
    assert_eq!(own.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [90]);
    assert_eq!(consumers, ["web"]);
}

#[test]
fn grpc_wins_over_http_and_answers_in_its_own_words() {
    let rules = || json!([{"backendRefs": [backend("v1")]}]);
    let (own, _) = documents(&[
        route(HTTP_ROUTE, "shop", rules(), None),
        route(GRPC_ROUTE, "shop", rules(), None),
    ]);
    let lines = own[0].1.as_array().unwrap();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[1],
        json!({"fault": {"abort": {"status": "unimplemented"}}})
    );
}

#[test]
fn a_verdict_names_what_is_missing() {
    let rows = [
        ("v1", None, "True", "True"),
        ("nobody", None, "True", "False"),
        ("v1", Some(91), "False", "True"),
    ];
    for (backend_name, port, accepted, resolved) in rows {
        let (name, route) = route(
            HTTP_ROUTE,
            "shop",
            json!([{"backendRefs": [backend(backend_name)]}]),
            port,
        );
        let verdict = status::verdict(&name, &route, &services()).unwrap();
        let conditions = &verdict.parents[0]["conditions"];
        let found = [&conditions[0]["status"], &conditions[1]["status"]];
        assert_eq!(found, [accepted, resolved], "{backend_name} {port:?}");
    }
}
