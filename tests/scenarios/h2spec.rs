//! HTTP/2 by the letter: h2spec in strict mode on each side that speaks it.
//!
//! h2spec takes a connection that ends, or an answer of any kind, in place of most of the errors that it asks for, but the
//! request that each of its cases begins with must be served: so the app behind must be there and answer 200.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};

use weft_tests::ca::id;
use weft_tests::netns::{Host, User, scenario};
use weft_tests::pair::{Offer, Pair, services_of_app};
use weft_tests::{http2_app, mesh_client, tools};

use crate::PROXY;

const PORT: u16 = 8080;

/// Cases of strict mode that a proxy misses, each with the reason why that is right. All other 146 must pass.
const MISSED: [&str; 0] = [];

fn pair() -> Pair {
    let pair = Pair::new(
        PROXY.as_ref(),
        Offer {
            ports: &[(PORT, "-")],
            mtls: "permissive",
        },
    );
    http2_app::start(
        &pair.app,
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT),
    );
    pair
}

/// Runs all cases from `host` against `target`.
fn check(host: &Host, target: SocketAddr) {
    let Some([h2spec]) = tools::require(["h2spec"]) else {
        return;
    };
    let mut command = host.command(User::ROOT, h2spec);
    command.args([
        "-S",
        "-h",
        &target.ip().to_string(),
        "-p",
        &target.port().to_string(),
        "-P",
        "/",
        "-o",
        "2",
    ]);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let missed = MISSED.iter().map(|&case| case.to_owned()).collect();
    assert_eq!(failures(&told), missed, "{told}");
    let summary = format!(
        "146 tests, {} passed, 0 skipped, {} failed",
        146 - MISSED.len(),
        MISSED.len()
    );
    assert!(
        told.contains(&summary),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The failed cases, each as its section and name, from the list at the end.
fn failures(told: &str) -> BTreeSet<String> {
    let (_, list) = told.split_once("\nFailures:").unwrap_or(("", ""));
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in list.lines().map(str::trim) {
        match line.strip_prefix("× ") {
            Some(case) => _ = found.insert(format!("{section} / {case}")),
            None if line.starts_with(|first: char| first.is_ascii_digit()) => section = line,
            None => {}
        }
    }
    found
}

#[test]
fn outbound_port_passes_h2spec() {
    scenario(|| {
        let pair = pair();
        let [v4, _] = services_of_app();
        check(&pair.web, SocketAddr::new(v4, PORT));
    });
}

#[test]
fn inbound_port_passes_h2spec_in_plaintext() {
    scenario(|| {
        let pair = pair();
        check(&pair.outside, SocketAddr::new(pair.app.v4.into(), PORT));
    });
}

#[test]
fn inbound_port_passes_h2spec_over_mesh_tls() {
    scenario(|| {
        let pair = pair();
        let target = SocketAddr::new(pair.app.v4.into(), PORT);
        let port = mesh_client::carry(
            &pair.outside,
            target,
            &pair.ca.files("tester").identity(),
            &id("app"),
        );
        check(&pair.outside, SocketAddr::new([127, 0, 0, 1].into(), port));
    });
}
