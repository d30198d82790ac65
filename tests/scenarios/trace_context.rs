//! The rules of W3C Trace Context, case by case, through two real proxies: what the app gets of what a caller sends.
//!
//! The cases are those that the standard's sections 3.2 to 4.3 name; each is sent over HTTP/1 and HTTP/2.

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use weft_tests::app::echo;
use weft_tests::client::{Answer, Http1, Http2};
use weft_tests::mesh::Pair;

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What becomes of the caller's trace.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trace {
    /// Goes on, sampled or not.
    Sampled,
    Unsampled,
    /// A new one begins.
    New,
}

/// A name, the headers that are sent, the trace, and the `tracestate` that the app gets.
type Row = (
    &'static str,
    &'static [(&'static str, &'static str)],
    Trace,
    &'static [&'static str],
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Section 3.2: traceparent.
    ("as it should be", &[("traceparent", GOOD)], Trace::Sampled, &[]),
    ("not sampled", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")], Trace::Unsampled, &[]),
    ("a flag that nobody knows yet", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff")], Trace::Sampled, &[]),
    ("a name in capitals", &[("TraceParent", GOOD)], Trace::Sampled, &[]),
    ("spaces around", &[("traceparent", " \t00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\t ")], Trace::Sampled, &[]),
    ("another name", &[("trace-parent", GOOD)], Trace::New, &[]),
    ("twice", &[("traceparent", GOOD), ("traceparent", "00-00000000000000000000000000000001-0000000000000001-01")], Trace::New, &[]),
    ("twice the same", &[("traceparent", GOOD), ("traceparent", GOOD)], Trace::New, &[]),
    ("in capitals", &[("traceparent", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01")], Trace::New, &[]),
    ("version 00 with more behind", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what")], Trace::New, &[]),
    ("version cc", &[("traceparent", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")], Trace::Sampled, &[]),
    ("version cc with more behind", &[("traceparent", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes")], Trace::Sampled, &[]),
    ("version cc with something stuck to it", &[("traceparent", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what")], Trace::New, &[]),
    ("version ff", &[("traceparent", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")], Trace::New, &[]),
    ("a version that is no number", &[("traceparent", ".0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")], Trace::New, &[]),
    ("a version too short", &[("traceparent", "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")], Trace::New, &[]),
    ("a version too long", &[("traceparent", "000-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")], Trace::New, &[]),
    ("a trace of zeros", &[("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01")], Trace::New, &[]),
    ("a trace that is no number", &[("traceparent", "00-.bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")], Trace::New, &[]),
    ("a trace too short", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01")], Trace::New, &[]),
    ("a trace too long", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e47360-00f067aa0ba902b7-01")], Trace::New, &[]),
    ("a parent of zeros", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01")], Trace::New, &[]),
    ("a parent that is no number", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-.0f067aa0ba902b7-01")], Trace::New, &[]),
    ("a parent too short", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-01")], Trace::New, &[]),
    ("a parent too long", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b70-01")], Trace::New, &[]),
    ("flags that are no number", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-.0")], Trace::New, &[]),
    ("flags too short", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")], Trace::New, &[]),
    ("flags too long", &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-001")], Trace::New, &[]),
    ("nothing in it", &[("traceparent", "")], Trace::New, &[]),
    ("nothing at all", &[], Trace::New, &[]),
    // Section 3.3 and 4.3: tracestate.
    ("a tracestate", &[("traceparent", GOOD), ("tracestate", "foo=1,bar=2")], Trace::Sampled, &["foo=1,bar=2"]),
    ("a tracestate in two lines", &[("traceparent", GOOD), ("tracestate", "foo=1"), ("tracestate", "bar=2")], Trace::Sampled, &["foo=1", "bar=2"]),
    ("a tracestate with an empty line", &[("traceparent", GOOD), ("tracestate", "foo=1"), ("tracestate", "")], Trace::Sampled, &["foo=1", ""]),
    ("a tracestate with spaces", &[("traceparent", GOOD), ("tracestate", "foo=1 \t , \t bar=2, \t baz=3")], Trace::Sampled, &["foo=1 \t , \t bar=2, \t baz=3"]),
    ("a key twice", &[("traceparent", GOOD), ("tracestate", "foo=1,foo=1")], Trace::Sampled, &["foo=1,foo=1"]),
    ("all characters", &[("traceparent", GOOD), ("tracestate", "0123456789_-*/abc@v=!\"#$%&'()*+-./:;<>?@[]^_`{|}~")], Trace::Sampled, &["0123456789_-*/abc@v=!\"#$%&'()*+-./:;<>?@[]^_`{|}~"]),
    ("a tracestate without traceparent", &[("tracestate", "foo=1")], Trace::New, &[]),
    ("a tracestate with a broken traceparent", &[("traceparent", "00-x"), ("tracestate", "foo=1")], Trace::New, &[]),
    ("a tracestate with two traceparents", &[("traceparent", GOOD), ("traceparent", GOOD), ("tracestate", "foo=1")], Trace::New, &[]),
    ("an empty tracestate", &[("traceparent", GOOD), ("tracestate", "")], Trace::Sampled, &[]),
    ("a key in capitals", &[("traceparent", GOOD), ("tracestate", "Foo=1")], Trace::Sampled, &[]),
    ("a key with a space behind", &[("traceparent", GOOD), ("tracestate", "foo =1")], Trace::Sampled, &[]),
    ("a key with a dot", &[("traceparent", GOOD), ("tracestate", "foo.bar=1")], Trace::Sampled, &[]),
    ("a member without a value", &[("traceparent", GOOD), ("tracestate", "foo=1,bar")], Trace::Sampled, &[]),
    ("a value with an equals sign", &[("traceparent", GOOD), ("tracestate", "foo=1=2")], Trace::Sampled, &[]),
    ("33 members", &[("traceparent", GOOD), ("tracestate", "a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1,j=1,k=1,l=1,m=1,n=1,o=1,p=1,q=1,r=1,s=1,t=1,u=1,v=1,w=1,x=1,y=1,z=1,aa=1,ab=1,ac=1,ad=1,ae=1,af=1,ag=1")], Trace::Sampled, &[]),
];

fn check((name, _, trace, state): &Row, version: &str, answer: &Answer) {
    let values = |header: &str| -> Vec<String> {
        let values = answer.headers.get_all(format!("seen-{header}")).iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    };
    let [got] = <[String; 1]>::try_from(values("traceparent")).unwrap();
    let fields: Vec<&str> = got.split('-').collect();
    assert_eq!(fields.len(), 4, "{version}, {name}: {got}");
    let (written, id, span, flags) = (fields[0], fields[1], fields[2], fields[3]);
    assert_eq!(
        (written, id.len(), span.len()),
        ("00", 32, 16),
        "{version}, {name}"
    );
    assert_ne!(
        span, SPAN,
        "{version}, {name}: our span is the parent of the next hop's"
    );
    let found = match (id == ID, flags) {
        (true, "01") => Trace::Sampled,
        (true, _) => Trace::Unsampled,
        (false, _) => Trace::New,
    };
    assert_eq!(found, *trace, "{version}, {name}: {got}");
    assert_eq!(values("tracestate"), *state, "{version}, {name}");
    assert_eq!(
        answer.header("seen-baggage"),
        "user=ann;p=1",
        "{version}, {name}"
    );
}

#[tokio::test]
async fn every_rule_of_the_standard_holds() {
    let pair = Pair::new(echo());
    let mut one = Http1::connect(pair.web.outbound).await;
    let two = Http2::connect(pair.web.outbound).await;
    for row in ROWS {
        let sent = row
            .1
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"));
        let sent: String = sent.collect();
        one.send(format!(
            "GET / HTTP/1.1\r\nhost: orders\r\nbaggage: user=ann;p=1\r\n{sent}\r\n"
        ))
        .await;
        check(row, "HTTP/1", &one.answer().await);
        let mut request = Request::get("http://orders/").header("baggage", "user=ann;p=1");
        for (name, value) in row.1 {
            // Only HTTP/1 has spaces around a value, and capitals in a name.
            let name: HeaderName = name.parse().unwrap();
            request = request.header(name, HeaderValue::from_str(value.trim()).unwrap());
        }
        let answer = two
            .send(request.body(()).unwrap(), "", HeaderMap::new())
            .await;
        check(row, "HTTP/2", &answer.unwrap());
    }
}
