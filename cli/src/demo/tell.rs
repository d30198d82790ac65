//! What the demo prints, all of it.

use std::io::Write as _;

use super::Outcome;
use super::network::Place;
use super::paint::Paint;
use super::plan::{IMPOSTOR, Plan};
use super::script::Check;
use super::trace::Trace;
use super::waterfall;

/// Prints for a person, on standard output. That nobody reads it is no error.
#[derive(Debug)]
pub(crate) struct Teller {
    paint: Paint,
}

impl Teller {
    pub(crate) fn new(paint: Paint) -> Self {
        Self { paint }
    }

    pub(crate) fn starting(&self) {
        say("Starting a certificate authority, three apps and a proxy for each app ...");
    }

    pub(crate) fn again(&self) {
        say("Somebody took one of our ports; once more with others ...");
    }

    /// Draws the shop with its addresses.
    pub(crate) fn places(&self, plan: &Plan) {
        say("");
        say(
            "  you --HTTP/1.1--> [proxy] web --> [proxy] ==mTLS, HTTP/1.1==> [proxy] orders --> [proxy] ==mTLS, gRPC==> [proxy] users",
        );
        say("");
        for place in plan.places() {
            let name = self.paint.bold(&format!("{:<6}", place.name.as_str()));
            let (entry, outbound, metrics) = (place.entry, place.outbound, place.metrics);
            let of = place
                .namespace
                .as_deref()
                .map(|name| format!("  netns {name}"));
            let of = of.unwrap_or_default();
            say(&format!(
                "  {name}  inbound {entry}  outbound {outbound}  metrics http://{metrics}/metrics{of}"
            ));
        }
        say("");
    }

    /// Says where the page is.
    pub(crate) fn dashboard(&self, address: std::net::SocketAddr) {
        let address = self.paint.bold(&format!("http://{address}"));
        say(&format!("See it live: {address}"));
        say("");
    }

    /// Says what to try.
    pub(crate) fn hints(&self, plan: &Plan) {
        let (web, orders) = (&plan.web, &plan.orders);
        let mut rows = vec![
            (format!("curl http://{}/", web.entry), "visit the shop"),
            (
                format!("curl http://{}/joseph", web.entry),
                "as another customer",
            ),
            (
                format!("curl http://{}/orders", orders.entry),
                "plaintext to a strict proxy: refused",
            ),
            (
                format!("curl http://{}/metrics", orders.metrics),
                "what orders' proxy counted",
            ),
        ];
        rows.extend(match &web.namespace {
            None => explicit(web),
            Some(namespace) => redirected(plan, namespace),
        });
        say("Try:");
        for (command, meaning) in rows {
            say(&format!(
                "  {command:<68} {}",
                self.paint.dim(&format!("# {meaning}"))
            ));
        }
        say("");
        say("Every call is shown here as it happens; Ctrl-C ends the shop.");
        say("");
    }

    pub(crate) fn trace(&self, trace: &Trace) {
        say(&waterfall::draw(trace, self.paint));
    }

    pub(crate) fn not_forwarded(&self, reason: &str) {
        say(&self
            .paint
            .bad(&format!("spans did not reach your collector: {reason}")));
    }

    /// Prints the checks and what they come to.
    pub(crate) fn verdict(&self, checks: &[Check]) -> Outcome {
        for check in checks {
            say(&self.row(check));
        }
        let failed = checks.iter().filter(|check| check.finding.is_err()).count();
        say("");
        if failed == 0 {
            say(&self
                .paint
                .good(&format!("All {} checks hold.", checks.len())));
            return Outcome::Good;
        }
        say(&self
            .paint
            .bad(&format!("{failed} of {} checks failed.", checks.len())));
        Outcome::Different
    }

    /// Ends a demo that was watched; what did not end well is told.
    pub(crate) fn farewell(&self, ended: &[Check]) -> Outcome {
        say("");
        if ended.iter().any(|check| check.finding.is_err()) {
            return self.verdict(ended);
        }
        say("The shop is closed.");
        Outcome::Good
    }

    fn row(&self, check: &Check) -> String {
        let (mark, finding) = match &check.finding {
            Ok(finding) => (self.paint.good("ok  "), self.paint.dim(finding)),
            Err(difference) => (self.paint.bad("FAIL"), difference.clone()),
        };
        format!("  {mark}  {:<54} {finding}", check.name)
    }
}

/// How to enter the mesh as web where nothing redirects.
fn explicit(web: &Place) -> Vec<(String, &'static str)> {
    let mesh = web.outbound;
    vec![
        (
            format!("curl -H 'Host: orders' http://{mesh}/orders"),
            "call orders as web does",
        ),
        (
            format!("http_proxy=http://{mesh} curl http://orders/orders"),
            "the same, by a proxy setting",
        ),
        (
            format!("curl -i -H 'Host: {IMPOSTOR}' http://{mesh}/"),
            "an endpoint that is not who it should be: refused",
        ),
    ]
}

/// How to enter the mesh as web where the kernel redirects.
fn redirected(plan: &Plan, namespace: &str) -> Vec<(String, &'static str)> {
    let called = [
        ("orders", "/orders", "call orders as web does"),
        (
            IMPOSTOR,
            "/",
            "an endpoint that is not who it should be: refused",
        ),
    ];
    let row = |(service, path, meaning)| {
        let address = plan.address_of(service)?.ip();
        Some((
            format!("ip netns exec {namespace} curl -i http://{address}{path}"),
            meaning,
        ))
    };
    called.into_iter().filter_map(row).collect()
}

fn say(text: &str) {
    let _nobody_reads = writeln!(std::io::stdout(), "{text}");
}
