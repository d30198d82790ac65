//! `headers`: what is set, added and removed.

use http::{HeaderName, HeaderValue};

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
