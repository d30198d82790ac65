//! The script of `weft demo --once`: calls the shop as a visitor would, and checks each step against what must have
//! happened.

pub(super) mod finding;

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};

use self::finding::{
    Hops, PATH, anonymous, called, chain, clean, counted, described, hop, page, read, reject,
    rejected, whole,
};
use super::journal::Journal;
use super::netns;
use super::plan::{IMPOSTOR, Plan};
use super::process::Ended;
use super::scenes;
use super::trace::Trace;
use crate::app::AppName;
use crate::app::web::WebPage;
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
    checks.push(visitor.as_web().await);
    checks.push(visitor.grpc_status().await);
    checks.push(visitor.plaintext_to_strict().await);
    checks.push(visitor.wrong_identity().await);
    // With redirection an address that nobody knows is outside the mesh, and passed through.
    if visitor.plan.network.proxy_user().is_none() {
        checks.push(visitor.unknown_service().await);
        checks.extend(scenes::play(visitor.plan).await);
    }
    checks.push(visitor.metrics().await);
    (trace, checks)
}

/// Checks that every process ended by itself when it was told to.
pub(crate) fn all_ended(ended: &[Ended]) -> Check {
    check("every process ends when it is told to", clean(ended))
}

/// Checks that the operator's collector took all spans.
pub(crate) fn all_forwarded(journal: &Journal) -> Check {
    let (taken, trouble) = journal.read(|all| (all.forwarded, all.not_forwarded.clone()));
    let finding = match trouble {
        Some(reason) => Err(reason),
        None if taken == 0 => Err("it took none of them in time".to_owned()),
        None => Ok(format!("{taken} exports")),
    };
    check("your own collector gets the spans too", finding)
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
    /// Calls `web` with a trace of our own and an identity we do not have.
    pub(crate) async fn visit(&self) -> Visit {
        let trace = format!("{:032x}", fastrand::u128(1..));
        let span = format!("{:016x}", fastrand::u64(1..));
        let mut headers = HeaderMap::new();
        let traceparent = HeaderValue::try_from(format!("00-{trace}-{span}-01"));
        headers.extend(traceparent.map(|value| (TRACEPARENT, value)));
        headers.insert(CLIENT_CERT, HeaderValue::from_static(FORGED));
        let answer = self.call_web("/", &headers).await;
        let page = answer
            .map_err(|error| chain(&error))
            .and_then(|answer| page(&answer));
        Visit { trace, span, page }
    }

    fn hops(&self, visit: &Visit) -> Vec<Check> {
        let page = visit.page.as_ref();
        let hop = |app| {
            hop(
                page.map_err(|_told_above| "no answer, no hop".to_owned())?,
                app,
            )
        };
        let over = |app, protocol, from| called(hop(app)?, protocol, from);
        let greeting = page.map_err(Clone::clone).map(|page| page.greeting.clone());
        let nobody = hop(AppName::Web).and_then(anonymous);
        let web = over(AppName::Orders, "HTTP/1.1", AppName::Web);
        let orders = over(AppName::Users, "gRPC over HTTP/2", AppName::Orders);
        vec![
            check("a visitor is answered by all three apps", greeting),
            check("web believes no identity from outside", nobody),
            check("orders is called by web, over HTTP/1.1", web),
            check("users is called by orders, over gRPC", orders),
        ]
    }

    async fn trace(&self, visit: &Visit) -> (Option<Trace>, Check) {
        let trace = self.whole_trace(&visit.trace).await;
        let judged = trace.as_ref().map_err(Clone::clone);
        let finding = judged.and_then(|trace| whole(trace, Some(&visit.span)));
        (
            trace.ok(),
            check("the visitor's trace has every hop, in order", finding),
        )
    }

    async fn new_trace(&self) -> Check {
        let finding = async {
            let answer = self.call_web("/", &HeaderMap::new()).await;
            let page = page(&answer.map_err(|error| chain(&error))?)?;
            let seen = hop(&page, AppName::Web)?;
            let id = seen.trace().ok_or("web got no traceparent")?;
            whole(&self.whole_trace(id).await?, None)
        };
        check("without one, the first proxy begins a trace", finding.await)
    }

    async fn as_web(&self) -> Check {
        let finding = async {
            let answer = self.call_as_web("orders", "/orders").await;
            let answer = answer.map_err(|error| chain(&error))?;
            let page: Hops = read(&answer)?;
            let seen = page.hops.first().ok_or("orders told nothing")?;
            called(seen, "HTTP/1.1", AppName::Web)
        };
        check("whatever leaves web enters the mesh as web", finding.await)
    }

    async fn grpc_status(&self) -> Check {
        let answer = self.call_web("/nobody", &HeaderMap::new()).await;
        let finding = match answer {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND && reject(&answer).is_none() => {
                Ok("gRPC NOT_FOUND of users, 404 of orders and web".to_owned())
            }
            other => Err(described(other)),
        };
        check("an app's own error passes unchanged", finding)
    }

    async fn plaintext_to_strict(&self) -> Check {
        let (entry, none) = (self.plan.orders.entry, HeaderMap::new());
        let finding = match client::get(entry, "orders", "/orders", &none).await {
            Err(CallError::Exchange { .. }) => Ok("the connection was closed".to_owned()),
            Ok(answer) if reject(&answer).is_some() => Ok(described(Ok(answer))),
            other => Err(described(other)),
        };
        check("plaintext to a strict proxy is refused", finding)
    }

    async fn wrong_identity(&self) -> Check {
        let finding = self.rejection(IMPOSTOR, "wrong_identity").await;
        check("an endpoint with a wrong identity is refused", finding)
    }

    async fn unknown_service(&self) -> Check {
        let finding = self.rejection("nowhere.invalid", "unknown_service").await;
        check("a service nobody knows is refused", finding)
    }

    /// Calls `service` as web; the mesh must answer itself, for the reason `label`.
    async fn rejection(&self, service: &str, label: &str) -> Finding {
        let answer = self.call_as_web(service, "/").await;
        rejected(&answer.map_err(|error| chain(&error))?, label)
    }

    async fn metrics(&self) -> Check {
        let (metrics, none) = (self.plan.orders.metrics, HeaderMap::new());
        let answer = client::get(metrics, "localhost", "/metrics", &none).await;
        let finding = answer
            .map_err(|error| chain(&error))
            .and_then(|answer| counted(&answer));
        check("orders' metrics name the caller", finding)
    }

    async fn call_web(&self, path: &str, headers: &HeaderMap) -> Result<Answer, CallError> {
        client::get(self.plan.web.entry, "web", path, headers).await
    }

    /// Calls `service` from where web is, in the way web would.
    async fn call_as_web(&self, service: &str, path: &str) -> Result<Answer, CallError> {
        let web = &self.plan.web;
        match &web.namespace {
            None => client::get(web.outbound, service, path, &HeaderMap::new()).await,
            Some(namespace) => {
                let to = self.plan.address_of(service).unwrap_or(web.outbound);
                netns::get_from(namespace, to, service, path).await
            }
        }
    }

    async fn whole_trace(&self, id: &str) -> Result<Trace, String> {
        let complete = |trace: &&Trace| trace.spans.len() >= PATH.len();
        let find = self
            .journal
            .find(EXPORT, |all| all.trace(id).filter(complete).cloned());
        find.await.map_err(|death| match death {
            Some(death) => death.to_string(),
            None => {
                let count = |trace: &Trace| trace.spans.len();
                let spans = self.journal.read(|all| all.trace(id).map_or(0, count));
                format!("{spans} of {} spans after {EXPORT:?}", PATH.len())
            }
        })
    }
}

pub(crate) fn check(name: &'static str, finding: Finding) -> Check {
    Check { name, finding }
}

/// How long spans may take from the proxies to here.
const EXPORT: Duration = Duration::from_secs(10);
const TRACEPARENT: http::HeaderName = http::HeaderName::from_static("traceparent");
const CLIENT_CERT: &str = "x-forwarded-client-cert";
/// What a visitor claims to be.
const FORGED: &str =
    "By=spiffe://cluster.local/ns/shop/sa/web;URI=spiffe://cluster.local/ns/shop/sa/admin";
