//! Traces as callers send them.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use weft_policy::units::parse_share;

use super::*;

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn sampler(parent: Decision, roots: Roots) -> Sampler {
    speaking(parent, roots, Propagators::DEFAULT)
}

fn speaking(parent: Decision, roots: Roots, propagators: Propagators) -> Sampler {
    Sampler::new(Sampling {
        parent,
        roots,
        propagators,
    })
}

fn never() -> Sampler {
    sampler(Decision::Followed, Roots::Never)
}

fn headers(rows: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in rows {
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    headers
}

fn hex_of(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    hex::write(&mut text, bytes);
    String::from_utf8(text).unwrap()
}

fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn a_valid_traceparent_is_continued() {
    let rows = [
        ("sampled", format!("00-{ID}-{SPAN}-01"), true),
        ("not sampled", format!("00-{ID}-{SPAN}-00"), false),
        ("random flag", format!("00-{ID}-{SPAN}-03"), true),
        ("unknown flags", format!("00-{ID}-{SPAN}-fe"), false),
        ("higher version", format!("01-{ID}-{SPAN}-01"), true),
        (
            "higher version with more",
            format!("01-{ID}-{SPAN}-01-what-comes"),
            true,
        ),
        (
            "higher version with a dash",
            format!("cc-{ID}-{SPAN}-01-"),
            true,
        ),
    ];
    for (name, value, sampled) in rows {
        let mut headers = headers(&[("traceparent", &value), ("tracestate", "a=b")]);
        let trace = continue_or_begin(&mut headers, &never());
        assert_eq!(hex_of(&trace.trace_id), ID, "{name}");
        assert_eq!(
            trace.parent_id.map(|id| hex_of(&id)).as_deref(),
            Some(SPAN),
            "{name}"
        );
        assert_eq!(trace.sampled, sampled, "{name}");
        let next = format!("00-{ID}-{}-0{}", hex_of(&trace.span_id), u8::from(sampled));
        assert_eq!(get(&headers, "traceparent"), Some(next.as_str()), "{name}");
        assert_eq!(get(&headers, "tracestate"), Some("a=b"), "{name}");
    }
}

#[test]
fn a_broken_traceparent_begins_a_trace() {
    let zero = "0".repeat(32);
    let rows = [
        ("empty", String::new()),
        ("version ff", format!("ff-{ID}-{SPAN}-01")),
        ("version 00 with more", format!("00-{ID}-{SPAN}-01-x")),
        ("version 00 with a dash", format!("00-{ID}-{SPAN}-01-")),
        (
            "higher version without a dash",
            format!("01-{ID}-{SPAN}-01x"),
        ),
        ("version of one digit", format!("0-{ID}-{SPAN}-01")),
        ("version is no number", format!("zz-{ID}-{SPAN}-01")),
        ("upper case", format!("00-{}-{SPAN}-01", ID.to_uppercase())),
        (
            "upper-case span",
            format!("00-{ID}-{}-01", SPAN.to_uppercase()),
        ),
        ("zero trace", format!("00-{zero}-{SPAN}-01")),
        ("zero span", format!("00-{ID}-{}-01", &zero[..16])),
        ("short trace", format!("00-{}-{SPAN}-01", &ID[1..])),
        ("long trace", format!("00-{ID}0-{SPAN}-01")),
        ("short span", format!("00-{ID}-{}-01", &SPAN[1..])),
        ("no flags", format!("00-{ID}-{SPAN}")),
        ("flags of one digit", format!("00-{ID}-{SPAN}-1")),
        ("flags are no number", format!("00-{ID}-{SPAN}-0x")),
        ("other separator", format!("00_{ID}_{SPAN}_01")),
        ("separators moved", format!("00-{ID}{SPAN}--01")),
        ("space", format!("00-{ID} {SPAN}-01")),
        ("tab before", format!("\t00-{ID}-{SPAN}-01")),
    ];
    for (name, value) in rows {
        let mut headers = headers(&[("traceparent", &value), ("tracestate", "a=b")]);
        let trace = continue_or_begin(&mut headers, &never());
        assert_eq!(trace.parent_id, None, "{name}");
        assert_ne!(hex_of(&trace.trace_id), ID, "{name}");
        assert_eq!(get(&headers, "tracestate"), None, "{name}");
        assert_eq!(
            traceparent::read(&headers).unwrap().trace_id,
            trace.trace_id,
            "{name}"
        );
    }
}

#[test]
fn two_traceparents_are_as_good_as_none() {
    let value = format!("00-{ID}-{SPAN}-01");
    let mut headers = headers(&[
        ("traceparent", &value),
        ("traceparent", &value),
        ("tracestate", "a=b"),
    ]);
    let trace = continue_or_begin(&mut headers, &never());
    assert_eq!(trace.parent_id, None);
    assert_eq!(headers.get_all("traceparent").iter().count(), 1);
    assert_eq!(get(&headers, "tracestate"), None);
}

#[test]
fn b3_in_one_header_is_continued_and_rewritten() {
    let short = &ID[16..];
    let rows = [
        ("sampled", format!("{ID}-{SPAN}-1"), ID.to_owned(), true),
        ("debug", format!("{ID}-{SPAN}-d"), ID.to_owned(), true),
        ("denied", format!("{ID}-{SPAN}-0"), ID.to_owned(), false),
        ("left to us", format!("{ID}-{SPAN}"), ID.to_owned(), false),
        (
            "with a parent",
            format!("{ID}-{SPAN}-1-{SPAN}"),
            ID.to_owned(),
            true,
        ),
        (
            "64 bits",
            format!("{short}-{SPAN}-1"),
            format!("{}{short}", "0".repeat(16)),
            true,
        ),
    ];
    for (name, value, id, sampled) in rows {
        let mut headers = headers(&[("b3", &value)]);
        let trace = continue_or_begin(&mut headers, &never());
        assert_eq!(
            (hex_of(&trace.trace_id), trace.sampled),
            (id.clone(), sampled),
            "{name}"
        );
        let span = hex_of(&trace.span_id);
        let flag = u8::from(sampled);
        assert_eq!(
            get(&headers, "b3"),
            Some(format!("{id}-{span}-{flag}-{SPAN}").as_str()),
            "{name}"
        );
        assert_eq!(
            get(&headers, "traceparent"),
            Some(format!("00-{id}-{span}-0{flag}").as_str()),
            "{name}"
        );
    }
}

#[test]
fn b3_in_several_headers_is_continued_and_rewritten() {
    let mut headers = headers(&[
        ("x-b3-traceid", ID),
        ("x-b3-spanid", SPAN),
        ("x-b3-sampled", "1"),
    ]);
    let trace = continue_or_begin(&mut headers, &never());
    assert!(trace.sampled);
    assert_eq!(
        get(&headers, "x-b3-spanid"),
        Some(hex_of(&trace.span_id).as_str())
    );
    assert_eq!(get(&headers, "x-b3-parentspanid"), Some(SPAN));
    assert_eq!(get(&headers, "x-b3-sampled"), Some("1"));
}

#[test]
fn a_decision_without_a_trace_is_kept() {
    let always = sampler(Decision::Followed, Roots::Always);
    for (name, value) in [("b3", "0"), ("x-b3-sampled", "0")] {
        let mut headers = headers(&[(name, value)]);
        let trace = continue_or_begin(&mut headers, &always);
        assert_eq!((trace.sampled, trace.parent_id), (false, None), "{name}");
        assert_eq!(get(&headers, name), Some("0"), "{name}");
    }
    let mut debug = headers(&[("x-b3-flags", "1")]);
    assert!(continue_or_begin(&mut debug, &never()).sampled);
}

#[test]
fn broken_b3_begins_a_trace_and_is_removed() {
    let rows = [
        "",
        "x",
        "1-2",
        "-",
        &format!("{ID}-{SPAN}-2"),
        &format!("{ID}-{SPAN}-1-{SPAN}-1"),
        &format!("{ID}-{}", "0".repeat(16)),
    ];
    for value in rows {
        let mut headers = headers(&[("b3", value)]);
        let trace = continue_or_begin(&mut headers, &never());
        assert_eq!(trace.parent_id, None, "{value}");
        assert_eq!(get(&headers, "b3"), None, "{value}");
    }
    let mut several = headers(&[("x-b3-traceid", ID), ("x-b3-sampled", "1")]);
    assert_eq!(
        continue_or_begin(&mut several, &never()).parent_id,
        None,
        "no span"
    );
    assert_eq!(get(&several, "x-b3-traceid"), None);
}

#[test]
fn w3c_comes_before_b3_which_stays_if_it_is_another_trace() {
    let w3c = format!("00-{ID}-{SPAN}-01");
    let same = format!("{ID}-aaaaaaaaaaaaaaaa-1");
    let other = format!("{}-aaaaaaaaaaaaaaaa-1", "b".repeat(32));
    let mut of_one = headers(&[("traceparent", &w3c), ("b3", &same)]);
    let trace = continue_or_begin(&mut of_one, &never());
    assert_eq!(
        get(&of_one, "b3"),
        Some(format!("{ID}-{}-1-{SPAN}", hex_of(&trace.span_id)).as_str())
    );
    let mut of_two = headers(&[("traceparent", &w3c), ("b3", &other)]);
    continue_or_begin(&mut of_two, &never());
    assert_eq!(get(&of_two, "b3"), Some(other.as_str()));
    let mut broken = headers(&[("traceparent", "00-x"), ("b3", &same)]);
    assert_eq!(
        hex_of(&continue_or_begin(&mut broken, &never()).trace_id),
        ID
    );
}

/// Its name, what is spoken, the headers that came, and whether they are continued.
type Spoken<'a> = (&'a str, Propagators, &'a [(&'a str, &'a str)], bool);

#[test]
fn only_what_is_named_is_read_and_that_is_always_written() {
    let w3c = format!("00-{ID}-{SPAN}-01");
    let b3 = format!("{ID}-{SPAN}-1");
    let several = [
        ("x-b3-traceid", ID),
        ("x-b3-spanid", SPAN),
        ("x-b3-sampled", "1"),
    ];
    let propagators = |w3c, b3, b3_multi| Propagators { w3c, b3, b3_multi };
    let (no, yes) = (Use::Ignored, Use::Written);
    let rows: &[Spoken<'_>] = &[
        (
            "w3c",
            propagators(yes, no, no),
            &[("traceparent", &w3c)],
            true,
        ),
        (
            "w3c, but b3 came",
            propagators(yes, no, no),
            &[("b3", &b3)],
            false,
        ),
        ("b3", propagators(no, yes, no), &[("b3", &b3)], true),
        (
            "b3, but w3c came",
            propagators(no, yes, no),
            &[("traceparent", &w3c)],
            false,
        ),
        (
            "b3, but several came",
            propagators(no, yes, no),
            &several,
            false,
        ),
        ("several", propagators(no, no, yes), &several, true),
        ("w3c and several", propagators(yes, no, yes), &several, true),
        (
            "w3c and b3, nothing came",
            propagators(yes, yes, no),
            &[],
            false,
        ),
        (
            "nothing",
            propagators(no, no, no),
            &[("traceparent", &w3c)],
            false,
        ),
    ];
    for (name, forms, came, continued) in rows {
        let sampler = speaking(Decision::Followed, Roots::Always, *forms);
        let mut headers = headers(came);
        let trace = continue_or_begin(&mut headers, &sampler);
        assert_eq!(hex_of(&trace.trace_id) == ID, *continued, "{name}");
        let (id, span) = (hex_of(&trace.trace_id), hex_of(&trace.span_id));
        let written = |form: Use, header: &str, want: String| {
            let found = get(&headers, header);
            match form {
                Use::Written => assert_eq!(found, Some(want.as_str()), "{name}"),
                Use::Ignored | Use::Read => {
                    let before = came.iter().find(|(one, _)| *one == header);
                    assert_eq!(found, before.map(|(_, value)| *value), "{name}");
                }
            }
        };
        written(forms.w3c, "traceparent", format!("00-{id}-{span}-01"));
        written(forms.b3_multi, "x-b3-traceid", id.clone());
        written(forms.b3_multi, "x-b3-spanid", span.clone());
        let parent = if *continued {
            format!("-{SPAN}")
        } else {
            String::new()
        };
        written(forms.b3, "b3", format!("{id}-{span}-1{parent}"));
    }
}

#[test]
fn a_parents_decision_is_followed_unless_it_is_to_be_ignored() {
    let yes = format!("00-{ID}-{SPAN}-01");
    let no = format!("00-{ID}-{SPAN}-00");
    let rows = [
        (Decision::Followed, Roots::Never, &yes, true),
        (Decision::Followed, Roots::Always, &no, false),
        (Decision::Ignored, Roots::Never, &yes, false),
        (Decision::Ignored, Roots::Always, &no, true),
    ];
    for (parent, roots, value, want) in rows {
        let trace = continue_or_begin(
            &mut headers(&[("traceparent", value)]),
            &sampler(parent, roots),
        );
        assert_eq!(trace.sampled, want, "{parent:?} {roots:?} {value}");
    }
}

#[test]
fn a_share_is_told_from_the_trace_id() {
    let id = |random: u64| u128::from(random).to_be_bytes();
    let half = parse_share("50%").unwrap();
    assert!(sampler::within(half, &id((1 << 55) - 1)));
    assert!(!sampler::within(half, &id(1 << 55)));
    assert!(sampler::within(parse_share("100%").unwrap(), &[0xff; 16]));
    assert!(!sampler::within(parse_share("0%").unwrap(), &id(0)));
    let sampler = sampler(
        Decision::Followed,
        Roots::Share(parse_share("25%").unwrap()),
    );
    let sampled = (0..10_000).filter(|_| sampler.begin().sampled).count();
    assert!((2200..2800).contains(&sampled), "{sampled} of 10000");
}

#[test]
fn new_traces_keep_to_the_rate() {
    let rate = Rate::new(NonZeroU32::new(10).unwrap(), Duration::from_secs(1));
    let take = |millis: u64| {
        (0..100)
            .filter(|_| rate.take(Duration::from_millis(millis)))
            .count()
    };
    assert_eq!(take(0), 10, "all at once");
    assert_eq!(take(99), 0, "none has come back");
    assert_eq!(take(100), 1);
    assert_eq!(take(550), 4);
    assert_eq!(take(60_000), 10, "they do not add up");
}

proptest! {
    #[test]
    fn whatever_arrives_the_next_hop_gets_one_valid_traceparent(
        value in "\\PC{0,80}", version in "[0-9a-f]{2}", rest in "[0-9a-fA-F-]{0,60}", b3 in "[0-9a-fd-]{0,70}",
    ) {
        for traceparent in [value, format!("{version}-{rest}")] {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_str(&traceparent) {
                headers.append(TRACEPARENT, value);
            }
            headers.append("b3", HeaderValue::from_str(&b3).unwrap());
            let trace = continue_or_begin(&mut headers, &never());
            let next = traceparent::read(&headers).unwrap();
            prop_assert_eq!((next.trace_id, next.span_id), (trace.trace_id, trace.span_id));
        }
    }

    #[test]
    fn what_is_written_is_read(trace_id in 1u128.., span_id in 1u64.., sampled: bool) {
        let trace = TraceContext {
            trace_id: trace_id.to_be_bytes(), span_id: span_id.to_be_bytes(), parent_id: None, sampled,
        };
        let parent = Parent { trace_id: trace.trace_id, span_id: trace.span_id, sampled: Some(sampled) };
        prop_assert_eq!(traceparent::parse(traceparent::write(&trace).as_bytes()), Some(parent));
    }

    #[test]
    fn a_rate_is_never_exceeded(count in 1u32..200, seconds in 1u64..120, steps in prop::collection::vec(0u64..400, 1..300)) {
        let per = Duration::from_secs(seconds);
        let rate = Rate::new(NonZeroU32::new(count).unwrap(), per);
        let (mut now, mut taken) = (Duration::ZERO, 0u32);
        for step in steps {
            now += Duration::from_millis(step);
            taken += u32::from(rate.take(now));
            let allowed = f64::from(count) * (1.0 + now.as_secs_f64() / per.as_secs_f64());
            prop_assert!(f64::from(taken) <= allowed + 1e-6, "{} of {}", taken, allowed);
        }
    }
}
