//! `headers`: what is set, added and removed.

use http::{HeaderName, HeaderValue};

use crate::read::{At, Item};

/// Edits of both heads.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HeaderEdits {
    /// On the way to the app.
    pub request: Edits,
    /// On the way back.
    pub response: Edits,
}

impl HeaderEdits {
    /// Whether nothing is edited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

/// Edits of one head, made in the order remove, set, add.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Edits {
    /// Replaces all values.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Joins the values that are there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Goes.
    pub remove: Vec<HeaderName>,
}

impl Edits {
    /// Whether nothing is edited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

impl HeaderEdits {
    pub(crate) fn read(at: &At<'_>) -> Self {
        let fields = at.fields(&["request", "response"]);
        Self {
            request: fields
                .get("request")
                .map(|at| Edits::read(&at))
                .unwrap_or_default(),
            response: fields
                .get("response")
                .map(|at| Edits::read(&at))
                .unwrap_or_default(),
        }
    }
}

impl Edits {
    fn read(at: &At<'_>) -> Self {
        let fields = at.fields(&["set", "add", "remove"]);
        Self {
            set: fields.get("set").map(|at| pairs(&at)).unwrap_or_default(),
            add: fields.get("add").map(|at| pairs(&at)).unwrap_or_default(),
            remove: fields
                .get("remove")
                .map(|at| at.list(MAX_EDITS, editable))
                .unwrap_or_default(),
        }
    }
}

/// Names with a value each, or with a list of values.
fn pairs(at: &At<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut pairs = Vec::new();
    for (name, at) in at.entries(MAX_EDITS) {
        let Some(name) = at.checked(editable(name)) else {
            continue;
        };
        let values = at.nodes(MAX_EDITS).into_iter().map(Item::Node);
        let values = values.filter_map(|item| item.parse(header_value));
        pairs.extend(values.map(|value| (name.clone(), value)));
    }
    pairs
}

/// A header that an operator may touch.
fn editable(name: &str) -> Result<HeaderName, String> {
    let name = header_name(name)?;
    if CONNECTION.contains(&name.as_str()) {
        return Err(
            "belongs to the connection or to the message's framing; it cannot be edited".to_owned(),
        );
    }
    if name.as_str().starts_with("x-weft-") || name.as_str() == "x-forwarded-client-cert" {
        return Err("is what the mesh itself says; it cannot be edited".to_owned());
    }
    Ok(name)
}

/// A header's name (RFC 9110 section 5.1).
pub(crate) fn header_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes());
    name.ok().ok_or_else(|| "is no header name".to_owned())
}

pub(crate) fn header_value(text: &str) -> Result<HeaderValue, String> {
    // Printable and UTF-8: what is read as text is sent as text.
    let value = HeaderValue::from_bytes(text.as_bytes());
    value
        .ok()
        .ok_or_else(|| "cannot be the value of a header".to_owned())
}

/// RFC 9110 sections 7.6.1 and 10.1.1, RFC 7540 section 3.2.1, and what says where a message ends and whom it is for.
const CONNECTION: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
const MAX_EDITS: usize = 64;
