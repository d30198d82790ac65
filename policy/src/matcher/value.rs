//! What the value of a header, a claim or a query parameter must be.

/// A condition on one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Is there, whatever it says: `"*"`.
    Present,
    /// Is not there: `absent`, written `{absent: true}`.
    Absent,
    /// Is one of these.
    OneOf(Vec<String>),
    /// Begins so: `prefix*`.
    Prefix(String),
    /// Ends so: `*suffix`.
    Suffix(String),
    /// Fits a regular expression as a whole: `regex:...`.
    Regex(Regex),
}

/// A regular expression without back-tracking, anchored at both ends; bounded in size.
#[derive(Clone, Debug)]
pub struct Regex {
    text: Box<str>,
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Regex {}
