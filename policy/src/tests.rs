//! Whole documents: every key is read, every mistake is named.

use super::*;
use crate::spiffe::TrustDomain;

mod forms;

pub(crate) fn scope() -> Scope {
    Scope {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        namespace: "shop".to_owned(),
    }
}

fn parse(text: &str) -> Policy {
    let problems = |problems: Vec<Problem>| {
        problems
            .iter()
            .map(|one| format!("{one}\n"))
            .collect::<String>()
    };
    Policy::parse(text, &scope()).map_err(problems).unwrap()
}

#[test]
fn nothing_written_is_the_default() {
    for text in ["", "{}", "# nothing\n", "timeout: null\nallow: ~\n"] {
        assert_eq!(parse(text), Policy::default(), "{text:?}");
    }
}

#[test]
fn short_and_long_forms_are_equal() {
    let rows = [
        ("timeout: 10s", "timeout: {request: 10s}"),
        ("retry: 3", "retry: {attempts: 3}"),
        (
            "retry: {backoff: 10ms}",
            "retry: {backoff: {base: 10ms, max: 100ms}}",
        ),
        (
            "retry: {on: 'connect, 5xx'}",
            "retry: {on: [connect, 500-599]}",
        ),
        (
            "retry: {budget: 10%}",
            "retry: {budget: {share: 10%, min-rate: 10/s}}",
        ),
        (
            "breaker: 50%",
            "breaker: {ratio: 50%, window: 10s, min-requests: 5, open-for: 10s, max-ejected: 100%}",
        ),
        ("breaker: off", "breaker: {ratio: off, consecutive: off}"),
        ("balance: random", "balance: {algorithm: random}"),
        (
            "rate-limit: 100/s",
            "rate-limit: [{rate: 100/s, burst: 100}]",
        ),
        (
            "rate-limit: '100/s, 1000/min'",
            "rate-limit: [100/s, {rate: 1000/min}]",
        ),
        (
            "allow: 'web, shop/checkout'",
            "allow: [{from: shop/web}, {from: [checkout]}]",
        ),
        ("allow: web", "allow: spiffe://cluster.local/ns/shop/sa/web"),
        ("deny: {paths: /admin/*}", "deny: [{paths: [/admin/*]}]"),
        (
            "fault: {delay: 2s}",
            "fault: [{delay: {for: 2s, share: 100%}}]",
        ),
        (
            "fault: {abort: {status: 503, share: 5%}}",
            "fault: [{abort: {share: 5%, status: '503'}}]",
        ),
        ("ports: {8080: grpc}", "ports: {8080: {protocol: grpc}}"),
        ("egress: 'a.com, *.b.com'", "egress: [a.com, '*.b.com']"),
        ("trace: 5%", "trace: {sample: 5%}"),
        ("log: all", "log: {access: all}"),
        ("fallback: sorry", "fallback: {status: 200, body: sorry}"),
        (
            "to: {orders: {timeout: 1s}}",
            "to: {orders.shop: {timeout: {request: 1s}}}",
        ),
        (
            "routes: [{match: /a/*, split: [v1, v2]}]",
            "routes: [{match: {path: [/a/*]}, split: [{service: v1.shop, weight: 1}, {service: v2, weight: 1}]}]",
        ),
        ("log: {mask: 'x-a, x-b'}", "log: {mask: [x-a, x-b]}"),
    ];
    for (short, long) in rows {
        assert_eq!(parse(short), parse(long), "{short}");
        assert_ne!(parse(short), Policy::default(), "{short}");
    }
}

#[test]
fn a_route_has_its_services_values_under_its_own() {
    let policy = parse(
        "{timeout: {request: 10s, try: 2s}, retry: 3, routes: [{timeout: 1s, retry: {on: 503}}]}",
    );
    let route = policy.calls.routes.first().unwrap();
    let timeout = route.timeout.unwrap();
    assert_eq!(timeout.request, Some(Duration::from_secs(1)));
    assert_eq!(timeout.per_try, Some(Duration::from_secs(2)));
    assert_eq!(route.retry.as_ref().unwrap().attempts, 3);
}

#[test]
fn mistakes_are_all_named_with_the_nearest_right_thing() {
    let rows = [
        (
            "retry: {attemps: 3}",
            "weft.dev/retry.attemps: unknown key; did you mean weft.dev/retry.attempts?",
        ),
        (
            "timeout: 10",
            "weft.dev/timeout: \"10\" has no unit; write \"10s\" or \"10ms\"",
        ),
        (
            "timeuot: 10s",
            "weft.dev/timeuot: unknown key; did you mean weft.dev/timeout?",
        ),
        (
            "timeout:",
            "weft.dev/timeout: has no value; write null to return to the default",
        ),
        (
            "timeout: [1s]",
            "weft.dev/timeout: is a list, not a map of request, try, connect, idle",
        ),
        (
            "mtls: stict",
            "weft.dev/mtls: \"stict\" is not known; did you mean \"strict\"?",
        ),
        (
            "mtls: 1",
            "weft.dev/mtls: \"1\" is not one of strict, permissive",
        ),
        (
            "allow: Web",
            "weft.dev/allow: \"Web\" is no caller; write web, shop/web, shop/*, spiffe://domain/ns/shop/sa/web or *",
        ),
        (
            "allow: [{methods: get}]",
            "weft.dev/allow[0].methods: \"get\" is no method; did you mean \"GET\"?",
        ),
        (
            "allow: [{from: []}]",
            "weft.dev/allow[0].from: is an empty list; leave the key out, or write what it must be",
        ),
        (
            "rate-limit: 100",
            "weft.dev/rate-limit: \"100\" has no time; write 100/s, 1000/min or 5000/h",
        ),
        (
            "rate-limit: 100/m",
            "weft.dev/rate-limit: \"100/m\" \"m\" is no time of a rate; write 100/s, 100/min or 100/h",
        ),
        (
            "rate-limit: {per: client-ip}",
            "weft.dev/rate-limit: needs the key rate",
        ),
        (
            "retry: 0",
            "weft.dev/retry: \"0\" is not a whole number from 1 to 10",
        ),
        (
            "routes: [{match: /a/*, rewrite: /$2}]",
            "weft.dev/routes[0].rewrite: \"/$2\" uses $2, which the match does not take from every path",
        ),
        (
            "tіmeout: 1s",
            "weft.dev/tіmeout: unknown key with the letter U+0456 (і); did you mean weft.dev/timeout?",
        ),
        (
            "jwt: {issuer: x, jwks: {secret: short}}",
            "weft.dev/jwt.jwks.secret: is shorter than 32 bytes",
        ),
        (
            "jwt: {issuer: x, algorithms: none}",
            "weft.dev/jwt.algorithms: \"none\" is not one of HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384, PS256, PS384, PS512, EdDSA",
        ),
        (
            "headers: {request: {set: {Content-Length: 1}}}",
            "weft.dev/headers.request.set.Content-Length: belongs to the connection or to the message's framing; it cannot be edited",
        ),
    ];
    for (text, want) in rows {
        let problems = Policy::parse(text, &scope()).unwrap_err();
        let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(lines, [want], "{text}");
    }
    let all: Vec<&str> = rows
        .iter()
        .map(|(text, _)| *text)
        .filter(|text| text.starts_with("retry: {") || text.starts_with("mtls: s"))
        .collect();
    assert_eq!(
        Policy::parse(&all.join("\n"), &scope()).unwrap_err().len(),
        all.len()
    );
}
