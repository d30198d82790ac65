//! A trace as a picture: a row a span, in the order the call passed them, with a bar for its share of the time.

use std::time::Duration;

use super::paint::Paint;
use super::trace::{Side, Span, Trace};

/// Draws `trace`; empty when it has no span.
pub(crate) fn draw(trace: &Trace, paint: Paint) -> String {
    let spans = trace.in_order();
    let Some(first) = spans.first() else {
        return String::new();
    };
    let whole = Extent::of(&spans);
    let title = format!(
        "{} {}  {}",
        outcome(first).unwrap_or("no status"),
        milliseconds(whole.length()),
        paint.dim(&format!("trace {}", trace.id)),
    );
    let mut picture = format!("{} {title}\n", paint.bold(&called(trace, first)));
    for span in spans {
        picture.push_str(&row(trace, span, &whole, paint));
        picture.push('\n');
    }
    picture
}

fn row(trace: &Trace, span: &Span, whole: &Extent, paint: Paint) -> String {
    let side = match span.side {
        Side::Inbound => "in ",
        Side::Outbound => "out",
        Side::Whole => "all",
    };
    let bar = match span.side {
        Side::Inbound => paint.good(&whole.bar(span)),
        Side::Outbound | Side::Whole => paint.dim(&whole.bar(span)),
    };
    format!(
        "  {:<8} {side} |{bar}| {:>10}  {}",
        span.service,
        milliseconds(span.took()),
        note(trace, span, paint),
    )
}

/// Says who called whom, over what.
fn note(trace: &Trace, span: &Span, paint: Paint) -> String {
    let outcome = outcome(span).unwrap_or("no status");
    match (span.side, trace.seen_in(span)) {
        (Side::Outbound | Side::Whole, _) => call(span, outcome),
        (Side::Inbound, Some(seen)) => match seen.caller() {
            Some(caller) => {
                let caller = paint.bold(caller);
                format!("{} over mutual TLS 1.3 from {caller}", seen.protocol)
            }
            None => format!(
                "{} in plaintext from somebody without identity",
                seen.protocol
            ),
        },
        (Side::Inbound, None) => served(span, outcome, paint),
    }
}

/// Says what the span alone knows of a call that came in.
fn served(span: &Span, outcome: &str, paint: Paint) -> String {
    let version = span.attribute(&["network.protocol.version"]);
    let protocol = version.map_or_else(|| "TCP".to_owned(), |version| format!("HTTP/{version}"));
    let from = match span.attribute(&["weft.peer.identity"]) {
        Some(peer) => format!("{protocol} over mutual TLS 1.3 from {}", paint.bold(peer)),
        None => format!("{protocol} in plaintext from somebody without identity"),
    };
    match span.attribute(&["weft.reject"]) {
        Some(reason) => format!("{from}: {outcome}, rejected by the mesh, {reason}"),
        None => format!("{from}: {outcome}"),
    }
}

/// Says who was called, and who it proved to be; or why the mesh refused.
fn call(span: &Span, outcome: &str) -> String {
    let host = span.attribute(SERVER).unwrap_or("somewhere");
    let to = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
    let rejected = span.attribute(&["weft.reject"]);
    match (rejected, span.attribute(&["weft.peer.identity"])) {
        (Some(reason), _) => format!("calls {to}: {outcome}, rejected by the mesh, {reason}"),
        (None, Some(identity)) => format!("calls {to}, which is {identity}: {outcome}"),
        (None, None) => format!("calls {to}: {outcome}"),
    }
}

fn called(trace: &Trace, first: &Span) -> String {
    let seen = trace.seen_in(first).map(|seen| seen.call.clone());
    seen.unwrap_or_else(|| {
        let path = first.attribute(&["url.path"]).unwrap_or_default();
        format!("{} {path}", first.name).trim_end().to_owned()
    })
}

fn outcome(span: &Span) -> Option<&str> {
    span.attribute(GRPC_STATUS)
        .or_else(|| span.attribute(&["http.response.status_code", "error.type"]))
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// From the first start to the last end.
struct Extent {
    start: Duration,
    end: Duration,
}

impl Extent {
    fn of(spans: &[&Span]) -> Self {
        let start = spans.iter().map(|span| span.start).min();
        let end = spans.iter().map(|span| span.end).max();
        Self {
            start: start.unwrap_or_default(),
            end: end.unwrap_or_default(),
        }
    }

    fn length(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }

    /// Returns [`COLUMNS`] characters, with `=` where the span was running; at least one of them.
    fn bar(&self, span: &Span) -> String {
        let from = self.column(span.start).min(COLUMNS - 1);
        let to = self.column(span.end).clamp(from + 1, COLUMNS);
        let (before, length, after) = (from, to - from, COLUMNS - to);
        format!(
            "{}{}{}",
            " ".repeat(before),
            "=".repeat(length),
            " ".repeat(after)
        )
    }

    fn column(&self, at: Duration) -> usize {
        let length = self.length().as_nanos().max(1);
        let into = at.saturating_sub(self.start).as_nanos();
        let column = into.saturating_mul(COLUMNS as u128) / length;
        usize::try_from(column).unwrap_or(COLUMNS)
    }
}

const COLUMNS: usize = 32;
const SERVER: &[&str] = &["server.address", "rpc.service", "url.full"];
const GRPC_STATUS: &[&str] = &[
    "rpc.response.status_code",
    "rpc.status_code",
    "rpc.grpc.status_code",
];

#[cfg(test)]
mod tests {
    use super::super::trace::tests::{span, trace};
    use super::*;
    use crate::app::Seen;

    fn bars(times: &[(u64, u64)]) -> Vec<String> {
        let place = ("web", Side::Inbound);
        let spans: Vec<_> = times
            .iter()
            .map(|time| span(place, "1", "", *time))
            .collect();
        let spans: Vec<_> = spans.iter().collect();
        let whole = Extent::of(&spans);
        spans.iter().map(|span| whole.bar(span)).collect()
    }

    #[test]
    fn bars_show_the_share_of_time_and_never_nothing() {
        let drawn = bars(&[
            (0, 3200),
            (800, 2400),
            (3199, 3200),
            (0, 1),
            (500, 500),
            (3200, 3200),
        ]);
        let want = [
            "=".repeat(32),
            format!("{}{}{}", " ".repeat(8), "=".repeat(16), " ".repeat(8)),
            format!("{}=", " ".repeat(31)),
            format!("={}", " ".repeat(31)),
            format!("{}={}", " ".repeat(5), " ".repeat(26)),
            format!("{}=", " ".repeat(31)),
        ];
        assert_eq!(drawn, want);
    }

    #[test]
    fn spans_without_length_still_have_a_bar() {
        assert_eq!(bars(&[(7, 7)]), [format!("={}", " ".repeat(31))]);
    }

    #[tokio::test]
    async fn a_call_is_drawn_hop_by_hop_with_its_identities() {
        let mut root = span(("web", Side::Inbound), "a1", "", (0, 3200));
        root.attributes
            .insert("http.response.status_code".to_owned(), "200".to_owned());
        let mut out = span(("web", Side::Outbound), "b2", "a1", (800, 2400));
        out.attributes.insert(
            "server.address".to_owned(),
            "orders.shop.svc.cluster.local".to_owned(),
        );
        out.attributes
            .insert("http.response.status_code".to_owned(), "200".to_owned());
        let orders = span(("orders", Side::Inbound), "c3", "b2", (1600, 2400));
        let mut trace = trace(vec![orders, out, root]);
        trace.seen = vec![
            seen("web", "a1", None),
            seen(
                "orders",
                "c3",
                Some("By=x;URI=spiffe://cluster.local/ns/shop/sa/web"),
            ),
        ];
        let want = "\
GET / 200 3.20 ms  trace 4bf92f3577b34da6a3ce929d0e0e4736
  web      in  |================================|    3.20 ms  HTTP/1.1 in plaintext from somebody without identity
  web      out |        ================        |    1.60 ms  calls orders.shop: 200
  orders   in  |                ========        |    0.80 ms  HTTP/1.1 over mutual TLS 1.3 from spiffe://cluster.local/ns/shop/sa/web
";
        assert_eq!(draw(&trace, Paint::Plain), want);
    }

    #[test]
    fn a_call_names_who_answered_or_why_the_mesh_refused() {
        type Attributes<'a> = &'a [(&'a str, &'a str)];
        let rows: &[(Attributes<'_>, &str)] = &[
            (&[("server.address", "10.0.0.1")], "calls 10.0.0.1: 200"),
            (
                &[
                    ("server.address", "a"),
                    ("weft.peer.identity", "spiffe://t/a"),
                ],
                "calls a, which is spiffe://t/a: 200",
            ),
            (
                &[("server.address", "a"), ("weft.reject", "wrong_identity")],
                "calls a: 200, rejected by the mesh, wrong_identity",
            ),
        ];
        for (attributes, want) in rows {
            let mut out = span(("web", Side::Outbound), "b2", "a1", (0, 1));
            let own = attributes
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            out.attributes.extend(own);
            assert_eq!(call(&out, "200"), *want);
        }
    }

    #[tokio::test]
    async fn a_trace_without_spans_draws_nothing() {
        assert_eq!(draw(&trace(Vec::new()), Paint::Plain), "");
    }

    fn seen(app: &str, span: &str, client_cert: Option<&str>) -> Seen {
        Seen {
            app: app.to_owned(),
            call: "GET /".to_owned(),
            protocol: "HTTP/1.1".to_owned(),
            client_cert: client_cert.map(str::to_owned),
            traceparent: Some(format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01")),
        }
    }
}
