//! A request that has ended, as a proxy tells of it: the fields of the access log.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One request or opaque connection.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub(crate) struct Passed(Map<String, Value>);

impl Passed {
    /// With whose proxy has told it.
    pub(crate) fn told_by(mut self, workload: String, namespace: String) -> Self {
        self.0.insert("workload".to_owned(), workload.into());
        self.0.insert("namespace".to_owned(), namespace.into());
        self
    }

    /// A field as text; nothing where it has none.
    pub(crate) fn text(&self, field: &str) -> String {
        match self.0.get(field) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// A field as a number.
    pub(crate) fn number(&self, field: &str) -> Option<f64> {
        self.0.get(field)?.as_f64()
    }

    pub(crate) fn time(&self) -> &str {
        self.0
            .get("time")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Whether it is one of `service`: told by its proxy, or called.
    pub(crate) fn concerns(&self, service: &str) -> bool {
        let called = self.text("service");
        let host = called
            .rsplit_once(':')
            .map_or(called.as_str(), |(host, _)| host);
        self.text("workload") == service
            || host == service
            || host.split('.').next() == Some(service)
    }

    /// Whether it failed, as the access log's `errors` has it.
    pub(crate) fn has_failed(&self) -> bool {
        let is_bad = |field: &str, bad: fn(f64) -> bool| self.number(field).is_some_and(bad);
        !self.text("reject").is_empty()
            || !self.text("error").is_empty()
            || self.text("end") == "answer_broke_off"
            || is_bad("status", |status| status >= 500.0)
            || is_bad("grpc_status", |code| {
                [2.0, 4.0, 12.0, 13.0, 14.0, 15.0].contains(&code)
            })
    }

    /// The last part of an identity, `orders` of `spiffe://.../sa/orders`, or `nobody known`.
    pub(crate) fn caller(&self) -> String {
        let caller = self.text("caller");
        match caller.rsplit('/').next().filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => "nobody known".to_owned(),
        }
    }
}
