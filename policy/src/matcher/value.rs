//! What the value of a header, a claim or a query parameter must be.

use crate::read::At;

/// A condition on one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Is there, whatever it says: `"*"`.
    Present,
    /// Is not there: `{absent: true}`.
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

impl ValueMatch {
    /// Parses a condition: `a`, `a*`, `*a`, `*`, `regex:a+`.
    ///
    /// # Errors
    /// Says what cannot be one.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(pattern) = text.strip_prefix("regex:") {
            return Regex::parse(pattern).map(Self::Regex);
        }
        let (front, back) = (text.strip_prefix('*'), text.strip_suffix('*'));
        let star = |text: &str| text.contains('*');
        match (front, back) {
            (Some(""), Some("")) => Ok(Self::Present),
            (Some(suffix), None) if !star(suffix) => Ok(Self::Suffix(suffix.to_owned())),
            (None, Some(prefix)) if !star(prefix) => Ok(Self::Prefix(prefix.to_owned())),
            (None, None) if !star(text) => Ok(Self::OneOf(vec![text.to_owned()])),
            _ => Err("has a * that is not alone at one end; write regex:...".to_owned()),
        }
    }

    /// Reads a condition, a list of values of which one must be it, or `{absent: true}`.
    pub(crate) fn read(at: &At<'_>) -> Option<Self> {
        use crate::node::Kind;
        match &at.node.kind {
            Kind::Text(_) => at.parse(Self::parse),
            Kind::Map(_) => {
                let fields = at.fields(&["absent"]);
                let absent = fields.must("absent")?.boolean()?;
                Some(if absent { Self::Absent } else { Self::Present })
            }
            Kind::List(_) | Kind::Null => {
                let exact = |text: &str| match Self::parse(text)? {
                    Self::OneOf(_) => Ok(text.to_owned()),
                    _ => Err("is a pattern, which cannot stand in a list".to_owned()),
                };
                Some(Self::OneOf(at.texts(MAX_VALUES, exact)))
            }
        }
    }

    /// Whether `value` is what it must be; `None` is a value that is not there.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Absent, value) => value.is_none(),
            (_, None) => false,
            (Self::Present, Some(_)) => true,
            (Self::OneOf(values), Some(value)) => values.iter().any(|one| one == value),
            (Self::Prefix(prefix), Some(value)) => value.starts_with(prefix.as_str()),
            (Self::Suffix(suffix), Some(value)) => value.ends_with(suffix.as_str()),
            (Self::Regex(regex), Some(value)) => regex.matches(value),
        }
    }

    /// Whether it only asks if a value is there, so that the value need not be readable.
    #[must_use]
    pub fn is_about_presence(&self) -> bool {
        matches!(self, Self::Present | Self::Absent)
    }
}

/// A regular expression without back-tracking, anchored at both ends; bounded in size.
///
/// It sees bytes, as RE2 does where it is told so: `\d`, `\w` and classes are ASCII, and `.` is one byte.
#[derive(Clone, Debug)]
pub struct Regex {
    text: Box<str>,
    program: regex::bytes::Regex,
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Regex {}

impl Regex {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Says what is wrong with it, or that it is too large.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("is longer than {MAX_TEXT} bytes"));
        }
        // Alone first: what is no expression by itself (`a)|(b`) must not become one between the anchors.
        compile(text)?;
        let program = compile(&format!(r"\A(?:{text})\z"))?;
        let text = text.into();
        Ok(Self { text, program })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `value` fits as a whole.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        self.program.is_match(value.as_bytes())
    }

    /// What the groups took, `$1` first, each with its name if it has one; `None` if `value` does not fit.
    pub(crate) fn captures<'a>(
        &'a self,
        value: &'a str,
    ) -> Option<Vec<(Option<&'a str>, &'a str)>> {
        let captures = self.program.captures(value.as_bytes())?;
        let groups = self.program.capture_names().zip(captures.iter()).skip(1);
        let text = |range: std::ops::Range<usize>| value.get(range).unwrap_or_default();
        let part =
            |group: Option<regex::bytes::Match<'_>>| group.map_or("", |group| text(group.range()));
        Some(groups.map(|(name, group)| (name, part(group))).collect())
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = Option<&str>> {
        self.program.capture_names().skip(1)
    }
}

fn compile(text: &str) -> Result<regex::bytes::Regex, String> {
    let mut builder = regex::bytes::RegexBuilder::new(text);
    builder
        .unicode(false)
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_CACHE)
        .nest_limit(32);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "is a regular expression that is too large".to_owned(),
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            format!(
                "is no regular expression: {}",
                last.trim_start_matches("error: ")
            )
        }
    })
}

const MAX_TEXT: usize = 1024;
/// Bytes of a compiled expression; `[a-z]{1,100}` has some 10 KiB.
const MAX_PROGRAM: usize = 128 << 10;
/// Bytes of the states that a thread keeps while it matches.
const MAX_CACHE: usize = 256 << 10;
const MAX_VALUES: usize = 256;
