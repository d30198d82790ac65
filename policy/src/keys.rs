//! The table of keys: what an operator can write, where it acts and what holds without it. `docs/policy.md` is made of it.
//!
//! A path stands for itself, with `<...>` for a free key and `[]` for an item of a list. The readers in the files beside this one are
//! what parses; a test compares the keys that they know with this table, and that each example is taken.

use std::fmt::Write as _;

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `retry.attempts`, `to.<service>`, `routes[].match`.
    pub path: &'static str,
    /// What can be written, in words.
    pub form: &'static str,
    /// What holds where it is not written.
    pub default: &'static str,
    /// Who acts on it.
    pub side: Side,
    /// When a change acts.
    pub when: When,
    /// One line.
    pub doc: &'static str,
    /// A document with it.
    pub example: &'static str,
}

/// Which proxy acts on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The service's own, on what comes in.
    Inbound,
    /// Those of its callers, on what goes out. Only these may stand on a Service and under `to`.
    Callers,
    /// The service's own, on what goes out or for itself.
    Own,
    /// None: the injector, when it puts a proxy beside the app. Not in a policy file, which no injector reads.
    Pod,
}

/// When a change of a key acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// On the next request or connection.
    Live,
    /// When the pod, or the proxy, starts again.
    Start,
}

impl Side {
    const ALL: [Self; 4] = [Self::Inbound, Self::Callers, Self::Own, Self::Pod];

    fn title(self) -> &'static str {
        match self {
            Self::Inbound => "What comes in: enforced by the service's own proxy",
            Self::Callers => "How it is called: enforced by the callers' proxies",
            Self::Own => "What goes out, and how the proxy itself runs",
            Self::Pod => "How its pod is put together: read by the injector, on Kubernetes alone",
        }
    }
}

/// Keys that are parsed, so that a mistake is found, and refused, for nothing would act on them yet.
pub const LATER: [&str; 6] = ["cors", "csrf", "guard", "cache", "mask", "api-keys"];

macro_rules! keys {
    ($($side:ident $when:ident $path:literal, $form:literal, $default:literal, $doc:literal, $example:literal;)*) => {
        &[$(Key {
            path: $path,
            form: $form,
            default: $default,
            side: Side::$side,
            when: When::$when,
            doc: $doc,
            example: $example,
        }),*]
    };
}

/// All keys, in the order of the page.
#[rustfmt::skip]
pub const KEYS: &[Key] = keys![
    Inbound Live "mtls", "`strict`, `permissive`", "`permissive`", "`strict` refuses plaintext; a layer above cannot take it back", "mtls: strict";
    Inbound Live "allow", "callers, or list of rules", "all", "who may call; what matches no rule is refused with 403", "allow: 'web, shop/*'";
    Inbound Live "deny", "callers, or list of rules", "none", "who may not, looked at first; adds up over the layers", "deny: users";
    Inbound Live "allow[].from", "callers", "anybody", "the verified identity", "allow: [{from: web}]";
    Inbound Live "allow[].methods", "list of methods", "all", "", "allow: [{methods: [GET]}]";
    Inbound Live "allow[].paths", "list of paths", "all", "`/a`, `/a/*`, `/users/{id}`, `regex:...`, after normalisation", "allow: [{paths: [/a/*]}]";
    Inbound Live "allow[].ports", "list of ports", "all", "on opaque connections only identity and port count", "allow: [{ports: [8080]}]";
    Inbound Live "allow[].hosts", "list of hosts", "all", "`orders.example`, `*.example`", "allow: [{hosts: ['*.example']}]";
    Inbound Live "allow[].claims", "map of claim to values", "all", "of a verified token", "allow: [{claims: {role: [admin]}}]";
    Inbound Live "allow[].headers", "map of header to value", "all", "a text, `*` for any, `regex:...`, `absent`", "allow: [{headers: {x-a: b}}]";
    Inbound Live "authz.mode", "`enforce`, `audit`", "`enforce`", "`audit` counts and logs what would be refused, and lets it pass", "authz: {mode: audit}";
    Inbound Live "jwt", "a map, or a list of them for several issuers", "none", "tokens of users: [jwt.md](jwt.md)", "jwt: {issuer: 'https://i.example', jwks: 'https://i.example/keys'}";
    Inbound Live "jwt.issuer", "text", "", "must be written; the `iss` of its tokens", "jwt: {issuer: 'https://i.example'}";
    Inbound Live "jwt.audiences", "list", "any", "one of them must be in `aud`", "jwt: {issuer: 'https://i.example', audiences: [orders]}";
    Inbound Live "jwt.jwks", "URL, file, inline keys, or a secret", "the issuer's discovery document", "where its keys are", "jwt: {issuer: 'https://i.example', jwks: 'https://i.example/keys'}";
    Inbound Live "jwt.jwks.keys", "list of JWK", "", "keys written here (RFC 7517)", "jwt: {issuer: 'https://i.example', jwks: {keys: []}}";
    Inbound Live "jwt.jwks.secret", "base64", "", "for HS256 and its like", "jwt: {issuer: 'https://i.example', algorithms: [HS256], jwks: {secret: 'c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ='}}";
    Inbound Live "jwt.jwks.secret-file", "file", "", "the same from a file", "jwt: {issuer: 'https://i.example', algorithms: [HS256], jwks: {secret-file: /keys/secret}}";
    Inbound Live "jwt.required", "`true`, `false`", "`true`", "whether a request without a token is refused", "jwt: {issuer: 'https://i.example', required: false}";
    Inbound Live "jwt.exempt", "list of paths", "none", "where no token is asked for", "jwt: {issuer: 'https://i.example', exempt: [/healthz]}";
    Inbound Live "jwt.paths", "list of paths", "all", "where this issuer's tokens are taken", "jwt: {issuer: 'https://i.example', paths: [/api/*]}";
    Inbound Live "jwt.algorithms", "list of algorithms", "those of key pairs", "never `none`", "jwt: {issuer: 'https://i.example', algorithms: [ES256]}";
    Inbound Live "jwt.claims-to-headers", "map of claim to header", "none", "the caller's own copies are removed first", "jwt: {issuer: 'https://i.example', claims-to-headers: {sub: x-user}}";
    Inbound Live "jwt.clock-skew", "duration", "`60s`", "how far clocks may differ", "jwt: {issuer: 'https://i.example', clock-skew: 1m}";
    Inbound Live "jwt.from", "list of `header:<name>`, `query:<name>`, `cookie:<name>`", "`header:authorization`", "where tokens are looked for", "jwt: {issuer: 'https://i.example', from: ['cookie:session']}";
    Inbound Live "jwt.forward", "`true`, `false`", "`true`", "whether the app sees the token", "jwt: {issuer: 'https://i.example', forward: false}";
    Inbound Live "rate-limit", "rates, or list of limits", "none", "GCRA; 429 beyond it: [limits.md](limits.md)", "rate-limit: 100/s";
    Inbound Live "rate-limit[].rate", "rate", "", "`100/s`, `1000/min`, `5000/h`", "rate-limit: [{rate: 100/s}]";
    Inbound Live "rate-limit[].burst", "number", "that before the slash", "how many may come at once", "rate-limit: [{rate: 100/s, burst: 10}]";
    Inbound Live "rate-limit[].per", "list of `client-ip`, `identity`, `header:<name>`, `claim:<name>`, `path`", "all together", "what is counted apart", "rate-limit: [{rate: 100/s, per: client-ip}]";
    Inbound Live "rate-limit[].match", "match", "all", "which requests count", "rate-limit: [{rate: 100/s, match: /api/*}]";
    Inbound Live "rate-limit[].trusted-hops", "number", "0", "proxies in front that append to `x-forwarded-for`", "rate-limit: [{rate: 100/s, per: client-ip, trusted-hops: 1}]";
    Inbound Live "concurrency", "number, `auto`", "none", "requests in flight; 503 beyond it", "concurrency: auto";
    Inbound Live "limits.headers", "size", "`64KiB`", "bytes of a request's head; 431 beyond it", "limits: {headers: 16KiB}";
    Inbound Live "limits.header-count", "number", "100", "header fields of a request", "limits: {header-count: 50}";
    Inbound Live "limits.body", "size", "none", "bytes of a request's body; 413 beyond it", "limits: {body: 1MiB}";
    Inbound Live "limits.connections", "number", "10000", "connections to the app", "limits: {connections: 100}";
    Inbound Live "limits.streams", "number", "250", "requests at a time on an HTTP/2 connection", "limits: {streams: 10}";
    Inbound Live "limits.header-timeout", "duration", "`10s`", "for a request's head", "limits: {header-timeout: 5s}";
    Inbound Live "limits.idle-timeout", "duration", "`1h`", "silence of a connection", "limits: {idle-timeout: 5m}";
    Inbound Live "headers.request.set.<header>", "text", "", "replaces what is there", "headers: {request: {set: {x-a: b}}}";
    Inbound Live "headers.request.add.<header>", "text", "", "adds one more", "headers: {request: {add: {x-a: b}}}";
    Inbound Live "headers.request.remove", "list of headers", "", "", "headers: {request: {remove: [x-a]}}";
    Inbound Live "headers.response", "as `headers.request`", "", "the same of the answer", "headers: {response: {set: {x-a: b}, add: {x-b: c}, remove: [x-c]}}";
    Inbound Live "fault", "a map, or a list of them", "none", "delays and aborts on purpose", "fault: {abort: 503}";
    Inbound Live "fault.match", "match", "all", "which requests", "fault: {match: /a, abort: 503}";
    Inbound Live "fault.delay.for", "duration", "", "how long", "fault: {delay: {for: 1s}}";
    Inbound Live "fault.delay.share", "share", "`100%`", "of requests", "fault: {delay: {for: 1s, share: 5%}}";
    Inbound Live "fault.abort.status", "status, or gRPC code by name", "", "what is answered", "fault: {abort: {status: 503}}";
    Inbound Live "fault.abort.share", "share", "`100%`", "of requests", "fault: {abort: {status: unavailable, share: 5%}}";
    Inbound Live "ports.<port>", "protocol, or a map", "detected", "what a port of the app speaks", "ports: {8080: http}";
    Inbound Live "ports.<port>.protocol", "`http`, `http2`, `grpc`, `tcp`, `tls`, `skip`", "detected", "", "ports: {8080: {protocol: tls}}";
    Inbound Live "ports.<port>.mtls", "`strict`, `permissive`", "`mtls`", "of this port alone", "ports: {8080: {mtls: strict}}";
    Inbound Live "explain", "callers", "nobody", "who may ask with `x-weft-explain: 1` what decided", "explain: web";

    Callers Live "timeout", "duration, short for `timeout.request`, or a map", "none", "[resilience.md](resilience.md)", "timeout: 10s";
    Callers Live "timeout.request", "duration", "none", "to the head of the answer, over all tries; for gRPC to the trailers", "timeout: {request: 10s}";
    Callers Live "timeout.try", "duration", "none", "the same for one try", "timeout: {try: 1s}";
    Callers Live "timeout.connect", "duration", "`1s`", "TCP and TLS with an endpoint", "timeout: {connect: 500ms}";
    Callers Live "timeout.idle", "duration", "`1h`", "silence of streams, upgrades and tunnels", "timeout: {idle: 5m}";
    Callers Live "retry", "number, short for `retry.attempts`, or a map", "", "", "retry: 3";
    Callers Live "retry.attempts", "number", "2", "all tries, so 1 is no retry", "retry: {attempts: 3}";
    Callers Live "retry.on", "list of `connect`, `refused-stream`, `reset`, `timeout`, statuses, gRPC codes", "`connect, refused-stream, reset`", "what is tried again", "retry: {on: [5xx, unavailable]}";
    Callers Live "retry.methods", "list of methods", "idempotent ones", "what may be sent again though it may have been processed", "retry: {methods: [GET, POST]}";
    Callers Live "retry.backoff.base", "duration", "`25ms`", "longest first pause; doubles", "retry: {backoff: 50ms}";
    Callers Live "retry.backoff.max", "duration", "`250ms`", "longest pause; ten times `base` if only that is written", "retry: {backoff: {max: 1s}}";
    Callers Live "retry.try-timeout", "duration", "none", "as `timeout.try`", "retry: {try-timeout: 1s}";
    Callers Live "retry.budget.share", "share", "`20%`", "of requests", "retry: {budget: 10%}";
    Callers Live "retry.budget.min-rate", "rate", "`10/s`", "without regard to requests", "retry: {budget: {min-rate: 1/s}}";
    Callers Live "retry.max-body", "size", "`64KiB`", "what is kept of a request's body to be sent again", "retry: {max-body: 1MiB}";
    Callers Live "breaker", "share, short for `breaker.ratio`, `off`, or a map", "left out after 5 failures in a row", "of each endpoint", "breaker: 50%";
    Callers Live "breaker.ratio", "share, `off`", "none", "of failures within `window`", "breaker: {ratio: 50%}";
    Callers Live "breaker.window", "duration", "`10s`", "", "breaker: {ratio: 50%, window: 30s}";
    Callers Live "breaker.min-requests", "number", "5", "fewer decide nothing", "breaker: {ratio: 50%, min-requests: 20}";
    Callers Live "breaker.consecutive", "number, `off`", "5, or none where `ratio` is written", "failures in a row", "breaker: {consecutive: 3}";
    Callers Live "breaker.open-for", "duration", "`10s`", "doubles each time", "breaker: {open-for: 5s}";
    Callers Live "breaker.max-open-for", "duration", "`5m`", "", "breaker: {max-open-for: 1m}";
    Callers Live "breaker.max-ejected", "share", "`50%`, or `100%` where a breaker is written", "of the endpoints that may be open at once", "breaker: {max-ejected: 30%}";
    Callers Live "balance", "algorithm, or a map", "", "[routing.md](routing.md)", "balance: round-robin";
    Callers Live "balance.algorithm", "`least-loaded`, `round-robin`, `random`, `hash:client-ip`, `hash:header:<name>`, `hash:cookie:<name>`", "`least-loaded`", "", "balance: {algorithm: 'hash:header:x-user'}";
    Callers Live "balance.locality", "`prefer`, `strict`, `off`", "`prefer`", "endpoints of the own zone", "balance: {locality: strict}";
    Callers Live "balance.warmup", "duration", "none", "how long a new endpoint gets less", "balance: {warmup: 30s}";
    Callers Live "pool.connections", "number", "1024", "to one endpoint", "pool: {connections: 10}";
    Callers Live "pool.pending", "number", "1024", "requests that wait for one", "pool: {pending: 10}";
    Callers Live "pool.requests-per-connection", "number", "none", "after so many it is closed", "pool: {requests-per-connection: 1000}";
    Callers Live "pool.idle", "duration", "`60s`", "how long an unused one is kept", "pool: {idle: 30s}";
    Callers Live "routes", "list", "the service itself", "the first that matches is taken: [routing.md](routing.md)", "routes: [{match: /a, split: [v1]}]";
    Callers Live "routes[].match", "path, a map, or a list of them", "all", "", "routes: [{match: [/a, {path: /b, method: GET, host: a.example, headers: {x-a: b}, query: {c: d}}]}]";
    Callers Live "routes[].split", "list of services", "the service itself", "", "routes: [{split: [{service: v1, weight: 9}, {service: v2, weight: 1}]}]";
    Callers Live "routes[].rewrite", "path, or a map", "none", "`$1` and `{name}` stand for what the match took", "routes: [{match: /api/*, rewrite: {path: /$1, host: b.example}}]";
    Callers Live "routes[].redirect", "path, or a map", "none", "answered by the proxy", "routes: [{redirect: {scheme: https, host: a.example, port: 443, path: /b, status: 301}}]";
    Callers Live "routes[].headers", "as `headers`", "none", "", "routes: [{headers: {request: {set: {x-a: b}}}}]";
    Callers Live "routes[].timeout", "as `timeout`", "the service's", "", "routes: [{timeout: 1s}]";
    Callers Live "routes[].retry", "as `retry`", "the service's", "", "routes: [{retry: 1}]";
    Callers Live "routes[].mirror", "service, or a map", "none", "a copy whose answer nobody reads", "routes: [{mirror: {service: v2, share: 10%}}]";
    Callers Live "routes[].fault", "as one `fault`", "none", "", "routes: [{fault: {abort: 503}}]";
    Callers Live "routes[].fallback", "as `fallback`", "the service's", "", "routes: [{fallback: later}]";
    Callers Live "fallback", "text, short for `fallback.body`, or a map", "none", "answered where the service cannot", "fallback: later";
    Callers Live "fallback.status", "status", "200", "", "fallback: {status: 503, body: later}";
    Callers Live "fallback.content-type", "text", "`text/plain; charset=utf-8`", "", "fallback: {content-type: application/json, body: '{}'}";
    Callers Live "fallback.body", "text", "empty", "`{name}` stands for what the route took", "fallback: {body: 'no {id} today'}";

    Own Live "to.<service>", "any key of the callers' side", "what the service asks for", "a caller's own word for its own calls", "to: {orders: {timeout: 1s}}";
    Own Live "egress", "`allow`, `deny`, or list of hosts", "`allow`", "what is not in the mesh", "egress: [api.example, '*.cdn.example']";
    Own Live "trace.sample", "rate, or share", "`10/s`", "new traces; a parent's decision is followed: [tracing.md](tracing.md)", "trace: 5%";
    Own Start "trace.otlp", "URL", "`OTEL_EXPORTER_OTLP_ENDPOINT`", "the collector that gets the spans; the variable wins", "trace: {otlp: 'http://jaeger:4317'}";
    Own Live "trace.attributes.<name>", "text", "none", "added to every span", "trace: {attributes: {team: shop}}";
    Own Live "log.access", "`off`, `errors`, `all`", "`errors`", "[access-log.md](access-log.md)", "log: all";
    Own Live "log.format", "`json`, `text`", "`json`", "", "log: {format: text}";
    Own Live "log.level", "filter", "`info`", "of the proxy's own log", "log: {level: debug}";
    Own Live "log.mask", "list of names", "none", "headers and parameters that are masked beside the usual ones", "log: {mask: [x-secret]}";
    Own Live "drain", "duration", "`30s`", "how long to finish what runs when the pod ends", "drain: 1m";

    Pod Start "inject", "`enabled`, `disabled`", "the namespace's label", "whether a pod gets a proxy; as a label `weft.dev/inject` on the Namespace or the pod", "inject: disabled";
    Pod Start "skip.inbound-ports", "list of ports", "none", "of the app, reached without the proxy", "skip: {inbound-ports: [9090]}";
    Pod Start "skip.outbound-ports", "list of ports", "none", "called without the proxy", "skip: {outbound-ports: [5432, 6379]}";
    Pod Start "skip.outbound-cidrs", "list of networks", "none", "called without the proxy", "skip: {outbound-cidrs: [10.0.0.0/8, 'fd00::/8']}";
    Pod Start "proxy.image", "image", "that of the installation", "of the proxy", "proxy: {image: 'weft.dev/weft:0.1.0'}";
    Pod Start "proxy.cpu", "quantity", "`10m`", "CPU request", "proxy: {cpu: 100m}";
    Pod Start "proxy.memory", "quantity", "`20Mi`", "memory request", "proxy: {memory: 32Mi}";
    Pod Start "proxy.cpu-limit", "quantity", "none", "CPU limit", "proxy: {cpu-limit: '1'}";
    Pod Start "proxy.memory-limit", "quantity", "`128Mi`", "memory limit", "proxy: {memory-limit: 256Mi}";
    Pod Start "proxy.workers", "number", "from the CPU limit", "threads for traffic", "proxy: {workers: 2}";
];

/// The page of the documentation that lists them.
#[must_use]
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for side in Side::ALL {
        // Writing to a string does not fail.
        let _infallible = writeln!(
            page,
            "\n## {}\n\n| key | value | default | is |\n|---|---|---|---|",
            side.title()
        );
        for key in KEYS.iter().filter(|key| key.side == side) {
            let Key {
                path,
                form,
                default,
                doc,
                ..
            } = key;
            let start = match (key.when, key.side) {
                (When::Start, Side::Inbound | Side::Callers | Side::Own) => "; read at the start",
                (When::Start, Side::Pod) | (When::Live, _) => "",
            };
            let _infallible = writeln!(page, "| `{path}` | {form} | {default} | {doc}{start} |");
        }
    }
    page
}

const HEAD: &str = "\
# Policy

Everything that can be asked of a service is one document, a tree of keys. Off Kubernetes it is a YAML file (`WEFT_POLICY_FILE`); an annotation `weft.dev/<dotted.path>` sets the node at that path, and its
value is YAML (`WEFT_ANNOTATIONS_FILE`, in the form of a downward-API volume). So these say the same:

```yaml
weft.dev/retry.attempts: \"3\"
weft.dev/retry: \"{attempts: 3}\"
weft.dev/policy: |
  retry: {attempts: 3}
```

- One leaf set twice on one object is an error. Under a map with free keys (`to`, `ports`, `headers.request.set`) exactly one segment is the key; one with a dot or a slash is written inside the YAML value.
- Units are always written: durations `250ms` `2s` `1m30s` `1h`; sizes `64KiB` `10MB`; shares `5%`; rates `100/s` `1000/min` `5000/h`. Status sets: `503`, `5xx`, `500-504`, `gateway-error`.
- Callers are `web` (a service account of the same namespace), `shop/web`, `shop/*`, `spiffe://other.domain/ns/x/sa/y`, `*` (anyone with an identity). A service is `orders` (same namespace) or `orders.shop`.
- `weft explain` and `/policy` show every value but those of secrets: `secret`, and of headers those whose name sounds like one (`authorization`, `cookie`, `x-api-key`, ...; as in the [access log](access-log.md)).
- A match is a path, or `{path, method, host, headers, query}`. Paths are exact `/a`, prefix `/a/*`, template `/users/{id}`, or `regex:...`.
- Anchors, aliases, tags, repeated keys and invisible characters are refused.

A good change acts on the next request or connection, and needs no restart; where a key is read when the proxy starts or its pod is made, the line says so. A bad one changes nothing: the last good policy stays, every problem is logged once, counted in `weft_policy_rejected_total`
and shown by `weft explain`, with key, value, reason and the nearest right thing. `weft lint FILE` says the same before.

## Who says it

From the weakest: mesh, namespace, workload, policy file, pod, Service (only keys of the callers' side), caller (`to`). Maps merge key by key, scalars and lists replace, `null` returns to the default. Two exceptions, because a
pod must not undo what its namespace secured: `deny` adds up, and `mtls: strict` stays. `weft explain` prints every value with the layer that said it.
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Policy;
    use crate::read::watched;
    use crate::tests::scope;

    /// As the table has it: `to.orders` is `to.<service>`, `routes[0]` is `routes[]`.
    fn in_table(path: &str) -> String {
        let mut segments: Vec<String> = Vec::new();
        for segment in path.split('.') {
            let segment = segment.split('[').next().unwrap_or_default();
            segments.push(segment.to_owned());
        }
        segments.join(".")
    }

    fn plain(path: &str) -> String {
        let free = path.split('.').filter(|segment| !segment.starts_with('<'));
        free.map(|segment| segment.trim_end_matches("[]"))
            .collect::<Vec<_>>()
            .join(".")
    }

    #[test]
    fn every_example_is_taken_and_every_known_key_is_in_the_table() {
        let mut seen = BTreeSet::new();
        for key in KEYS {
            let (read, paths) = watched::watch(|| Policy::parse(key.example, &scope()));
            if let Err(problems) = read {
                panic!("{}: {}", key.path, problems[0]);
            }
            seen.extend(paths.into_iter().map(|path| in_table(&path)));
        }
        let listed: BTreeSet<String> = KEYS.iter().map(|key| plain(key.path)).collect();
        // What is listed once and means all of its like, and what has a line for the map that it is in.
        let elsewhere = |path: &str| {
            let same = ["deny.", "routes.", "headers.response.", "to."];
            let inner = [".match.", "ports."];
            same.iter().any(|prefix| path.starts_with(prefix))
                || inner.iter().any(|part| path.contains(part))
                || LATER
                    .iter()
                    .any(|later| path == *later || path.starts_with(&format!("{later}.")))
        };
        let has_inner = |path: &str| {
            listed
                .iter()
                .any(|one| one.starts_with(&format!("{path}.")))
        };
        let missing: Vec<&String> = seen
            .iter()
            .filter(|path| !listed.contains(*path) && !has_inner(path) && !elsewhere(path))
            .collect();
        assert!(missing.is_empty(), "not in the table: {missing:?}");
    }

    /// Written, the default changes nothing. Where it is left to the proxy's configuration, `docs/configuration.md` has it.
    #[test]
    fn the_defaults_of_the_table_are_those_of_the_code() {
        // What must stand beside a key for it to be taken.
        let beside = [
            ("jwt", "issuer: 'https://i.example'"),
            ("rate-limit[]", "rate: 1/s"),
            ("fault.delay", "for: 1s"),
            ("fault.abort", "status: 503"),
        ];
        let rows = [
            "jwt.required",
            "jwt.clock-skew",
            "jwt.from",
            "jwt.forward",
            "rate-limit[].trusted-hops",
            "authz.mode",
            "fault.delay.share",
            "fault.abort.share",
            "retry.attempts",
            "retry.on",
            "retry.backoff.base",
            "retry.backoff.max",
            "retry.budget.share",
            "retry.budget.min-rate",
            "retry.max-body",
            "balance.algorithm",
            "balance.locality",
            "fallback.status",
            "fallback.content-type",
            "egress",
        ];
        for path in rows {
            let key = KEYS.iter().find(|key| key.path == path).unwrap();
            let default = key.default.trim_matches('`');
            let default = match default.contains(", ") {
                true => format!("[{default}]"),
                false => default.to_owned(),
            };
            let document = |default: Option<&str>| {
                let (map, last) = path.rsplit_once('.').unwrap_or(("", path));
                let mut fields: Vec<String> = beside
                    .iter()
                    .filter(|(prefix, _)| *prefix == map)
                    .map(|(_, field)| (*field).to_owned())
                    .collect();
                fields.extend(default.map(|value| {
                    format!("{last}: {value:?}")
                        .replace('"', if value.starts_with('[') { "" } else { "'" })
                }));
                let inner = format!("{{{}}}", fields.join(", "));
                map.split('.')
                    .rev()
                    .filter(|name| !name.is_empty())
                    .fold(inner, |inner, name| match name.strip_suffix("[]") {
                        Some(list) => format!("{{{list}: [{inner}]}}"),
                        None => format!("{{{name}: {inner}}}"),
                    })
            };
            let read = |text: &str| {
                let problem =
                    |problems: Vec<crate::problem::Problem>| format!("{text}: {}", problems[0]);
                Policy::parse(text, &scope()).map_err(problem).unwrap()
            };
            let (written, without) = (document(Some(&default)), document(None));
            assert_eq!(read(&written), read(&without), "{written}");
        }
    }

    #[test]
    fn what_nothing_acts_on_is_refused() {
        for (text, path) in [
            ("cors: {}", "cors"),
            ("guard: {}", "guard"),
            ("api-keys: []", "api-keys"),
        ] {
            let problems = Policy::parse(text, &scope()).unwrap_err();
            let problem = problems[0].to_string();
            assert!(
                problem.starts_with(&format!("weft.dev/{path}: ")),
                "{problem}"
            );
            assert!(problem.contains("not there yet"), "{problem}");
        }
    }

    #[test]
    fn the_page_is_made_of_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        let made = page();
        let differs = written
            .lines()
            .zip(made.lines())
            .find(|(one, other)| one != other);
        assert!(
            written == made,
            "docs/policy.md is not what the table says ({differs:?}); \
             write it with `cargo test -p weft-policy -- --ignored write_the_page`"
        );
    }

    #[test]
    #[ignore = "writes docs/policy.md"]
    fn write_the_page() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md");
        std::fs::write(path, page()).unwrap();
    }
}
