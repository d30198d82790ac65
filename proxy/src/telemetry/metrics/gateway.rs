//! Metrics of an API gateway, where `WEFT_GATEWAY_METRICS` asks for them: what our app's calls took, by route template.
//!
//! A raw path is never a label: a call that no route with a path matched is counted as `unmatched`.

use std::hash::RandomState;
use std::sync::Arc;

use super::cell::{Cell, Histogram, HistogramTotal, Key, Sum, hash_of};
use crate::telemetry::record::RequestRecord;

/// Names and help of the two.
pub(super) const REQUESTS: (&str, &str) =
    ("api_gateway_requests_total", "Calls, by route template.");
pub(super) const DURATION: (&str, &str) = (
    "api_gateway_request_duration_seconds",
    "Time from the head of a call to the last byte of its answer, by route template.",
);

/// A label set, borrowed from a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct GatewayKey<'a> {
    method: &'static str,
    route: Option<&'a Arc<str>>,
    status: u16,
}

/// A label set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GatewaySeries {
    pub(super) method: &'static str,
    pub(super) route: Arc<str>,
    /// 0 without an answer.
    pub(super) status: u16,
}

impl<'a> GatewayKey<'a> {
    pub(super) fn of(record: &'a RequestRecord) -> Self {
        let route = record.route.as_ref();
        Self {
            method: known(record.method.as_str()),
            route: route.and_then(|route| route.template.as_ref()),
            status: record.status.map_or(0, |status| status.as_u16()),
        }
    }

    fn route(&self) -> &str {
        self.route.map_or(UNMATCHED, |route| route)
    }
}

impl Key for GatewayKey<'_> {
    type Owned = GatewaySeries;

    fn quick_hash(&self, state: &RandomState) -> u64 {
        hash_of(state, (self.method, self.route(), self.status))
    }

    fn is(&self, series: &GatewaySeries) -> bool {
        self.status == series.status
            && self.method == series.method
            && *self.route() == *series.route
    }

    fn to_owned_key(&self) -> GatewaySeries {
        GatewaySeries {
            method: self.method,
            route: self.route.cloned().unwrap_or_else(|| UNMATCHED.into()),
            status: self.status,
        }
    }

    fn overflow(&self) -> GatewaySeries {
        GatewaySeries {
            method: "_OTHER",
            route: "overflow".into(),
            status: 0,
        }
    }
}

/// A client may invent methods.
fn known(method: &str) -> &'static str {
    const KNOWN: [&str; 8] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "PATCH",
    ];
    let known = KNOWN.into_iter().find(|known| *known == method);
    known.unwrap_or("_OTHER")
}

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct GatewayCells {
    count: Cell,
    duration: Histogram,
}

impl GatewayCells {
    pub(super) fn count(&self, record: &RequestRecord) {
        self.count.add(1);
        let elapsed = record.start.elapsed().as_micros();
        self.duration
            .observe(u64::try_from(elapsed).unwrap_or(u64::MAX));
    }
}

/// [`GatewayCells`] summed over workers.
#[derive(Debug, Default)]
pub(super) struct GatewayTotals {
    pub(super) count: u64,
    pub(super) duration: HistogramTotal,
}

impl Sum for GatewayCells {
    type Total = GatewayTotals;

    fn add_to(&self, total: &mut GatewayTotals) {
        self.count.add_to(&mut total.count);
        self.duration.add_to(&mut total.duration);
    }
}

const UNMATCHED: &str = "unmatched";
