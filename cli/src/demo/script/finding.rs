//! The judgements of the script: what was found, against what must have happened.

use http::StatusCode;
use serde::Deserialize;

use super::Finding;
use crate::app::web::WebPage;
use crate::app::{AppName, Seen};
use crate::client::{Answer, CallError};
use crate::demo::identities::identity;
use crate::demo::process::{Ended, How};
use crate::demo::trace::{Side, Span, Trace};

/// Checks that the spans of `trace` follow the call's path, each the child of the one before.
pub(super) fn whole(trace: &Trace, caller: Option<&str>) -> Finding {
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

/// Checks that every process ended by itself.
pub(super) fn clean(ended: &[Ended]) -> Finding {
    let unclean: Vec<_> = ended
        .iter()
        .filter(|ended| ended.how != How::Clean)
        .collect();
    if unclean.is_empty() {
        return Ok(format!("{} processes", ended.len()));
    }
    let told = unclean
        .iter()
        .map(|ended| format!("{}: {:?}", ended.name, ended.how));
    Err(told.collect::<Vec<_>>().join(", "))
}

/// Checks that the mesh itself answered, for the reason `label`, in the way all its answers have.
pub(super) fn rejected(answer: &Answer, label: &str) -> Finding {
    let body: Rejection = read(answer)?;
    let good = !answer.status.is_success() && reject(answer) == Some(label);
    if !good || body.status != "error" || body.reason != label {
        let (header, told) = (reject(answer), told(answer));
        return Err(format!("{told} with {REJECT}: {header:?}, not {label}"));
    }
    Ok(format!("{} {REJECT}: {label}", answer.status.as_u16()))
}

pub(super) fn page(answer: &Answer) -> Result<WebPage, String> {
    if answer.status != StatusCode::OK {
        return Err(told(answer));
    }
    read(answer)
}

pub(super) fn hop(page: &WebPage, app: AppName) -> Result<&Seen, String> {
    let found = page.hops.iter().find(|seen| seen.app == app.as_str());
    found.ok_or_else(|| format!("{} told nothing", app.as_str()))
}

pub(super) fn anonymous(seen: &Seen) -> Finding {
    match &seen.client_cert {
        None => Ok(format!(
            "{} in plaintext, the forged header is gone",
            seen.protocol
        )),
        Some(header) => Err(format!("{} got {CLIENT_CERT}: {header}", seen.app)),
    }
}

pub(super) fn called(seen: &Seen, protocol: &str, from: AppName) -> Finding {
    let want = identity(from);
    if seen.caller() != Some(&want) || seen.protocol != protocol {
        let (got, header) = (&seen.protocol, &seen.client_cert);
        return Err(format!(
            "{got} with {CLIENT_CERT} {header:?}, not {protocol} from {want}"
        ));
    }
    Ok(format!("mutual TLS, {want}"))
}

pub(super) fn counted(answer: &Answer) -> Finding {
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

pub(super) fn reject(answer: &Answer) -> Option<&str> {
    answer.headers.get(REJECT)?.to_str().ok()
}

pub(super) fn read<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, String> {
    serde_json::from_slice(&answer.body).map_err(|error| format!("{}: {error}", told(answer)))
}

pub(super) fn described(answer: Result<Answer, CallError>) -> String {
    match answer {
        Ok(answer) => told(&answer),
        Err(error) => chain(&error),
    }
}

/// Returns an answer on one line.
fn told(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    let words: Vec<_> = body.split_whitespace().collect();
    format!("{} {}", answer.status, words.join(" "))
}

/// Returns an error with its causes.
pub(in crate::demo) fn chain(error: &CallError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The part of an answer that tells who was called.
#[derive(Deserialize)]
pub(super) struct Hops {
    pub(super) hops: Vec<Seen>,
}

/// The body of an answer the mesh makes itself.
#[derive(Deserialize)]
struct Rejection {
    status: String,
    reason: String,
}

/// Whose proxies a call passes, and on which side.
pub(super) const PATH: [(&str, Side); 5] = [
    ("web", Side::Inbound),
    ("web", Side::Outbound),
    ("orders", Side::Inbound),
    ("orders", Side::Outbound),
    ("users", Side::Inbound),
];
const CLIENT_CERT: &str = "x-forwarded-client-cert";
const REJECT: &str = "x-weft-reject";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::trace::tests::{span, trace};

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
        assert!(clean(&[ended(How::Clean), ended(How::Clean)]).is_ok());
        let killed = clean(&[ended(How::Clean), ended(How::Killed)]);
        assert_eq!(killed.unwrap_err(), "proxy of web: Killed");
    }
}
