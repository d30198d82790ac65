//! The script of `weft demo --once`: calls the shop as a visitor would, and checks each step against what must have
//! happened.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;

use super::identities::identity;
use super::journal::Journal;
use super::process::{Ended, How};
use super::shop::{IMPOSTOR, Plan};
use super::trace::{Side, Span, Trace};
use crate::app::web::WebPage;
use crate::app::{AppName, Seen};
use crate::client::{self, Answer, CallError};

/// What a step found: what happened, or how it differs from what must have happened.
pub(crate) type Finding = Result<String, String>;

/// One step and its finding.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) finding: Finding,
}

/// Somebody without identity who calls the shop.
#[derive(Debug)]
pub(crate) struct Visitor<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) journal: &'a Journal,
}

/// Plays the whole script; returns the trace of the first visit and the checks.
pub(crate) async fn play(visitor: &Visitor<'_>) -> (Option<Trace>, Vec<Check>) {
    let visit = visitor.visit().await;
    let mut checks = visitor.hops(&visit);
    let (trace, check) = visitor.trace(&visit).await;
    checks.push(check);
    checks.push(visitor.new_trace().await);
    checks.push(visitor.through_outbound_port().await);
    checks.push(visitor.grpc_status().await);
    checks.push(visitor.plaintext_to_strict().await);
    checks.push(visitor.wrong_identity().await);
    checks.push(visitor.unknown_service().await);
    checks.push(visitor.metrics().await);
    (trace, checks)
}

/// Checks that every process ended by itself when it was told to.
pub(crate) fn all_ended(ended: &[Ended]) -> Check {
    let unclean: Vec<_> = ended
        .iter()
        .filter(|ended| ended.how != How::Clean)
        .collect();
    let finding = if unclean.is_empty() {
        Ok(format!("{} processes", ended.len()))
    } else {
        let told = unclean
            .iter()
            .map(|ended| format!("{}: {:?}", ended.name, ended.how));
        Err(told.collect::<Vec<_>>().join(", "))
    };
    check("every process ends when it is told to", finding)
}

/// A call to `web`, with a trace begun by the visitor.
pub(crate) struct Visit {
    trace: String,
    span: String,
    page: Result<WebPage, String>,
}

impl Visit {
    /// Tells whether the visitor was answered.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn answered(&self) -> anyhow::Result<()> {
        let answered = self.page.as_ref().map(|_| ());
        answered.map_err(|difference| anyhow::anyhow!("web does not answer: {difference}"))
    }
}

impl Visitor<'_> {
    pub(crate) async fn visit(&self) -> Visit {
        let trace = format!("{:032x}", fastrand::u128(1..));
        let span = format!("{:016x}", fastrand::u64(1..));
        let mut headers = HeaderMap::new();
        let traceparent = HeaderValue::try_from(format!("00-{trace}-{span}-01"));
        headers.extend(traceparent.map(|value| (TRACEPARENT, value)));
        headers.insert(CLIENT_CERT, HeaderValue::from_static(FORGED));
        let answer = self.call(self.plan.web.inbound, "web", "/", &headers).await;
        let page = answer
            .map_err(|error| chain(&error))
            .and_then(|answer| page(&answer));
        Visit { trace, span, page }
    }

    fn hops(&self, visit: &Visit) -> Vec<Check> {
        let page = visit.page.as_ref();
        let hop = |app| {
            let page = page.map_err(Clone::clone)?;
            hop(page, app)
        };
        let greeting = page.map_err(Clone::clone).map(|page| page.greeting.clone());
        let over = |app, protocol, from| hop(app).and_then(|seen| called(seen, protocol, from));
        vec![
            check("a visitor is answered by all three apps", greeting),
            check(
                "web believes no identity from outside",
                hop(AppName::Web).and_then(anonymous),
            ),
            check(
                "orders is called by web, over HTTP/1.1",
                over(AppName::Orders, "HTTP/1.1", AppName::Web),
            ),
            check(
                "users is called by orders, over gRPC",
                over(AppName::Users, "gRPC over HTTP/2", AppName::Orders),
            ),
        ]
    }

    /// Waits for the trace of a visit and checks that it has every hop.
    async fn trace(&self, visit: &Visit) -> (Option<Trace>, Check) {
        let trace = self.whole_trace(&visit.trace).await;
        let finding = match &trace {
            Ok(trace) => whole(trace, Some(&visit.span)),
            Err(difference) => Err(difference.clone()),
        };
        (
            trace.ok(),
            check("the visitor's trace has every hop, in order", finding),
        )
    }

    async fn new_trace(&self) -> Check {
        let finding = async {
            let answer = self
                .call(self.plan.web.inbound, "web", "/", &HeaderMap::new())
                .await;
            let page = page(&answer.map_err(|error| chain(&error))?)?;
            let seen = hop(&page, AppName::Web)?;
            let id = seen.trace().ok_or("web got no traceparent")?;
            whole(&self.whole_trace(id).await?, None)
        };
        check("without one, the first proxy begins a trace", finding.await)
    }

    async fn through_outbound_port(&self) -> Check {
        let finding = async {
            let none = HeaderMap::new();
            let answer = self
                .call(self.plan.web.outbound, "orders", "/orders", &none)
                .await;
            let answer = answer.map_err(|error| chain(&error))?;
            let page: Hops = read(&answer)?;
            let seen = page.hops.first().ok_or("orders told nothing")?;
            called(seen, "HTTP/1.1", AppName::Web)
        };
        check(
            "web's outbound port leads into the mesh as web",
            finding.await,
        )
    }

    async fn grpc_status(&self) -> Check {
        let answer = self
            .call(self.plan.web.inbound, "web", "/nobody", &HeaderMap::new())
            .await;
        let finding = match answer {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND && reject(&answer).is_none() => {
                Ok("gRPC NOT_FOUND of users, 404 of orders and web".to_owned())
            }
            other => Err(described(other)),
        };
        check("an app's own error passes unchanged", finding)
    }

    async fn plaintext_to_strict(&self) -> Check {
        let none = HeaderMap::new();
        let answer = self
            .call(self.plan.orders.inbound, "orders", "/orders", &none)
            .await;
        let finding = match answer {
            Err(CallError::Exchange { .. }) => Ok("the connection was closed".to_owned()),
            Ok(answer) if reject(&answer).is_some() => Ok(described(Ok(answer))),
            other => Err(described(other)),
        };
        check("plaintext to a strict proxy is refused", finding)
    }

    async fn wrong_identity(&self) -> Check {
        let finding = self.rejected(IMPOSTOR).await;
        check("an endpoint with a wrong identity is refused", finding)
    }

    async fn unknown_service(&self) -> Check {
        let finding = self.rejected("nowhere.invalid").await;
        check("a service nobody knows is refused", finding)
    }

    /// Calls `service` through web's proxy, which must answer itself, in the way all its answers have.
    async fn rejected(&self, service: &str) -> Finding {
        let answer = self
            .call(self.plan.web.outbound, service, "/", &HeaderMap::new())
            .await;
        let answer = answer.map_err(|error| chain(&error))?;
        let label = reject(&answer).ok_or_else(|| format!("{} without {REJECT}", answer.status))?;
        let body: Rejection = read(&answer)?;
        if answer.status.is_success() || body.status != "error" || body.reason != label {
            return Err(described(Ok(answer)));
        }
        Ok(format!(
            "{} {REJECT}: {label} ({})",
            answer.status.as_u16(),
            body.message
        ))
    }

    async fn metrics(&self) -> Check {
        let at = self.plan.orders.metrics;
        let answer = self
            .call(at, "localhost", "/metrics", &HeaderMap::new())
            .await;
        let finding = answer
            .map_err(|error| chain(&error))
            .and_then(|answer| counted(&answer));
        check("orders' metrics name the caller", finding)
    }

    async fn call(
        &self,
        to: SocketAddr,
        host: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, CallError> {
        client::get(to, host, path, headers).await
    }

    async fn whole_trace(&self, id: &str) -> Result<Trace, String> {
        let complete = |trace: &&Trace| trace.spans.len() >= PATH.len();
        let found = self.journal.find(EXPORT, |entries| {
            entries.trace(id).filter(complete).cloned()
        });
        found.await.map_err(|death| match death {
            Some(death) => death.to_string(),
            None => {
                let spans = self
                    .journal
                    .read(|entries| entries.trace(id).map_or(0, |trace| trace.spans.len()));
                format!("{spans} of {} spans after {EXPORT:?}", PATH.len())
            }
        })
    }
}

/// Checks that the spans of `trace` follow the call's path, each the child of the one before.
fn whole(trace: &Trace, caller: Option<&str>) -> Finding {
    let spans = trace.in_order();
    let path: Vec<_> = spans
        .iter()
        .map(|span| (span.service.as_str(), span.side))
        .collect();
    if path != PATH {
        return Err(format!("the spans are {path:?}"));
    }
    let parents: Vec<_> = spans.iter().map(|span| span.parent.as_deref()).collect();
    let wanted = std::iter::once(caller).chain(spans.iter().map(|span| Some(span.id.as_str())));
    if !parents.iter().copied().eq(wanted.take(PATH.len())) {
        return Err(format!("the parents are {parents:?}"));
    }
    if let Some(orphan) = spans
        .iter()
        .find(|span| span.side == Side::Inbound && !known(trace, span))
    {
        return Err(format!(
            "{} saw another traceparent than its proxy's",
            orphan.service
        ));
    }
    Ok(format!("{} spans", PATH.len()))
}

fn known(trace: &Trace, span: &Span) -> bool {
    trace
        .seen_in(span)
        .is_some_and(|seen| seen.app == span.service)
}

fn page(answer: &Answer) -> Result<WebPage, String> {
    if answer.status != StatusCode::OK {
        let body = String::from_utf8_lossy(&answer.body);
        return Err(format!("{} {body}", answer.status));
    }
    read(answer)
}

fn hop(page: &WebPage, app: AppName) -> Result<&Seen, String> {
    let found = page.hops.iter().find(|seen| seen.app == app.as_str());
    found.ok_or_else(|| format!("{} told nothing", app.as_str()))
}

fn anonymous(seen: &Seen) -> Finding {
    match &seen.client_cert {
        None => Ok(format!(
            "{} in plaintext, the forged header is gone",
            seen.protocol
        )),
        Some(header) => Err(format!("{} got {CLIENT_CERT}: {header}", seen.app)),
    }
}

fn called(seen: &Seen, protocol: &str, from: AppName) -> Finding {
    let want = identity(from);
    if seen.caller() != Some(&want) || seen.protocol != protocol {
        let (got, header) = (&seen.protocol, &seen.client_cert);
        return Err(format!(
            "{got} with {CLIENT_CERT} {header:?}, not {protocol} from {want}"
        ));
    }
    Ok(format!("mutual TLS, {want}"))
}

fn counted(answer: &Answer) -> Finding {
    let text = String::from_utf8_lossy(&answer.body);
    let wanted = [
        "istio_requests_total{".to_owned(),
        "reporter=\"destination\"".to_owned(),
        format!("source_principal=\"{}\"", identity(AppName::Web)),
        "connection_security_policy=\"mutual_tls\"".to_owned(),
    ];
    let is_wanted = |line: &&str| wanted.iter().all(|part| line.contains(part));
    let line = text.lines().find(is_wanted);
    let line = line.ok_or_else(|| format!("no line has {}", wanted.join(" and ")))?;
    let value = line.rsplit(' ').next().unwrap_or_default();
    Ok(format!(
        "istio_requests_total from {} is {value}",
        identity(AppName::Web)
    ))
}

fn reject(answer: &Answer) -> Option<&str> {
    answer.headers.get(REJECT)?.to_str().ok()
}

fn read<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, String> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        let body = String::from_utf8_lossy(&answer.body);
        format!("{} {body:?}: {error}", answer.status)
    })
}

fn described(answer: Result<Answer, CallError>) -> String {
    match answer {
        Ok(answer) => {
            let body = String::from_utf8_lossy(&answer.body);
            format!("{} {body}", answer.status)
        }
        Err(error) => chain(&error),
    }
}

/// Returns an error with its causes.
fn chain(error: &CallError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn check(name: &'static str, finding: Finding) -> Check {
    Check { name, finding }
}

/// The part of an answer that tells who was called.
#[derive(Deserialize)]
struct Hops {
    hops: Vec<Seen>,
}

/// The body of an answer the mesh makes itself.
#[derive(Deserialize)]
struct Rejection {
    status: String,
    message: String,
    reason: String,
}

/// Whose proxies a call passes, and on which side.
const PATH: [(&str, Side); 5] = [
    ("web", Side::Inbound),
    ("web", Side::Outbound),
    ("orders", Side::Inbound),
    ("orders", Side::Outbound),
    ("users", Side::Inbound),
];
/// How long spans may take from the proxies to here.
const EXPORT: Duration = Duration::from_secs(10);
const TRACEPARENT: http::HeaderName = http::HeaderName::from_static("traceparent");
const CLIENT_CERT: &str = "x-forwarded-client-cert";
/// What a visitor claims to be.
const FORGED: &str =
    "By=spiffe://cluster.local/ns/shop/sa/web;URI=spiffe://cluster.local/ns/shop/sa/admin";
const REJECT: &str = "x-weft-reject";

#[cfg(test)]
mod tests {
    use super::super::trace::tests::{span, trace};
    use super::*;

    fn whole_trace() -> Trace {
        let ids = ["a", "b", "c", "d", "e"];
        let parents = ["visitor", "a", "b", "c", "d"];
        let times = 0u64..;
        let made = PATH.into_iter().zip(ids).zip(parents).zip(times);
        let spans: Vec<_> = made
            .map(|(((place, id), parent), at)| span(place, id, parent, (at, 20 - at)))
            .collect();
        let mut trace = trace(spans);
        trace.seen = vec![seen("web", "a"), seen("orders", "c"), seen("users", "e")];
        trace
    }

    fn seen(app: &str, parent: &str) -> Seen {
        Seen {
            app: app.to_owned(),
            call: "GET /".to_owned(),
            protocol: "HTTP/1.1".to_owned(),
            client_cert: Some("By=x;URI=spiffe://cluster.local/ns/shop/sa/web".to_owned()),
            traceparent: Some(format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{parent}-01")),
        }
    }

    #[tokio::test]
    async fn a_trace_with_a_hop_missing_or_astray_is_a_difference() {
        type Change = fn(&mut Trace);
        let rows: &[(&str, Change, bool)] = &[
            ("whole", |_| {}, true),
            ("no last hop", |trace| drop(trace.spans.pop()), false),
            (
                "a hop under a wrong parent",
                |trace| trace.spans[4].parent = Some("b".to_owned()),
                false,
            ),
            (
                "a visitor's span lost",
                |trace| trace.spans[0].parent = None,
                false,
            ),
            (
                "an app that saw another trace",
                |trace| drop(trace.seen.remove(1)),
                false,
            ),
        ];
        for (name, change, good) in rows {
            let mut trace = whole_trace();
            change(&mut trace);
            let finding = whole(&trace, Some("visitor"));
            assert_eq!(finding.is_ok(), *good, "{name}: {finding:?}");
        }
    }

    #[test]
    fn a_call_by_somebody_else_or_over_something_else_is_a_difference() {
        let orders = seen("orders", "c");
        assert!(called(&orders, "HTTP/1.1", AppName::Web).is_ok());
        assert!(called(&orders, "HTTP/1.1", AppName::Users).is_err());
        assert!(called(&orders, "HTTP/2.0", AppName::Web).is_err());
        assert!(anonymous(&orders).is_err());
    }

    #[test]
    fn a_process_that_had_to_be_killed_is_a_difference() {
        let ended = |how| Ended {
            name: "proxy of web".to_owned(),
            how,
        };
        assert!(
            all_ended(&[ended(How::Clean), ended(How::Clean)])
                .finding
                .is_ok()
        );
        let killed = all_ended(&[ended(How::Clean), ended(How::Killed)]).finding;
        assert_eq!(killed.unwrap_err(), "proxy of web: Killed");
    }
}
