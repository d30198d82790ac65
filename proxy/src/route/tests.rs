//! Which route is taken, and what it is called.

use std::time::Duration;

use weft_policy::matcher::HostPattern;
use weft_policy::timeout::Timeouts;
use weft_policy::{Calls, matcher::ValueMatch};

use super::*;
use crate::policy::calls::Kept;

fn path(text: &str) -> RequestMatch {
    RequestMatch {
        paths: vec![PathPattern::parse(text).unwrap()],
        ..RequestMatch::default()
    }
}

fn route(matches: Vec<RequestMatch>) -> Route {
    Route {
        matches,
        ..Route::default()
    }
}

fn policy(routes: Vec<Route>) -> CallPolicy {
    let calls = Calls {
        routes,
        ..Calls::default()
    };
    CallPolicy::new(calls, None, "shop", &Kept::default())
}

fn request(uri: &str) -> Request<Body> {
    let request = Request::get(uri).header("host", "orders:80");
    request.header("x-beta", "1").body(Body::empty()).unwrap()
}

#[test]
fn the_first_route_that_matches_is_taken() {
    let post = RequestMatch {
        methods: vec![http::Method::POST],
        ..path("/a/*")
    };
    let beta = RequestMatch {
        headers: vec![(
            http::HeaderName::from_static("x-beta"),
            ValueMatch::OneOf(vec!["1".to_owned()]),
        )],
        query: vec![("v".to_owned(), ValueMatch::Present)],
        ..path("/a/*")
    };
    let host = RequestMatch {
        hosts: vec![HostPattern::parse("orders").unwrap()],
        ..path("/users/{id}")
    };
    let routes = vec![
        route(vec![post]),
        route(vec![beta]),
        route(vec![path("/b"), path("/a/*")]),
        route(vec![host]),
        route(vec![path("regex:/r[0-9]+")]),
    ];
    let policy = policy(routes);
    let table = policy.routes.as_ref().unwrap();
    let rows = [
        ("/a/1?v", Some(("routes[1]", "/a/*"))),
        ("/a/1", Some(("routes[2]", "/a/*"))),
        ("/b", Some(("routes[2]", "/b"))),
        ("/users/7", Some(("routes[3]", "/users/{id}"))),
        ("/r12", Some(("routes[4]", "regex:/r[0-9]+"))),
        ("/r", None),
        ("/", None),
    ];
    for (uri, want) in rows {
        let request = request(uri);
        let got = table.find(&request);
        let got = got.map(|(rule, pattern)| (&*rule.name, pattern.unwrap().as_str()));
        assert_eq!(got, want, "{uri}");
    }
}

#[test]
fn a_route_without_a_match_takes_all() {
    let policy = policy(vec![route(Vec::new())]);
    let table = policy.routes.as_ref().unwrap();
    assert!(table.find(&request("/any")).is_some());
    assert!(self::policy(Vec::new()).routes.is_none());
}

#[test]
fn what_a_route_says_of_calling_lies_over_the_service() {
    let timeout = Timeouts {
        request: Some(Duration::from_secs(1)),
        ..Timeouts::DEFAULT
    };
    let own = Route {
        timeout: Some(timeout),
        ..route(vec![path("/slow")])
    };
    let policy = policy(vec![own, route(Vec::new())]);
    let table = policy.routes.as_ref().unwrap();
    let calls = |uri| {
        let way = Way {
            rule: table.find(&request(uri)).map(|(rule, _)| rule),
            ..Way::default()
        };
        way.calls(&policy)
    };
    assert_eq!(calls("/slow").calls.timeout, timeout);
    assert!(Arc::ptr_eq(&calls("/slow").budget, &policy.budget));
    assert!(std::ptr::eq(calls("/other"), &raw const policy));
}
