//! Path patterns: exact `/a`, prefix `/a/*`, template `/users/{id}`, `regex:...`.

use super::value::Regex;

/// One path pattern, parsed.
///
/// `*` or `{name}` alone between two slashes is one segment, never an empty one. `/*` at the end is the path before it and all
/// below: `/a/*` is `/a`, `/a/` and `/a/b/c`, never `/ab`.
#[derive(Clone, Debug)]
pub struct PathPattern {
    text: Box<str>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Exact(Box<str>),
    Segments { parts: Box<[Part]>, rest: bool },
    Regex(Regex),
}

#[derive(Clone, Debug)]
enum Part {
    Is(Box<str>),
    Any(Option<Box<str>>),
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
        let kind = match text.strip_prefix("regex:") {
            Some(pattern) => Regex::parse(pattern).map(Kind::Regex),
            None => plain(text),
        };
        let kind = kind.map_err(|reason| PatternError { reason })?;
        let text = text.into();
        Ok(Self { text, kind })
    }

    /// The pattern as it was written: a label of bounded variety.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `path`, normalised and without query, fits.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact(exact) => **exact == *path,
            Kind::Segments { parts, rest } => walk(parts, *rest, path, |_, _| {}),
            Kind::Regex(regex) => regex.matches(path),
        }
    }

    /// What the wildcards took, if `path` fits.
    #[must_use]
    pub fn captures<'a>(&'a self, path: &'a str) -> Option<Captures<'a>> {
        let mut taken = Vec::new();
        match &self.kind {
            Kind::Exact(exact) => return (**exact == *path).then(Captures::default),
            Kind::Regex(regex) => taken = regex.captures(path)?,
            Kind::Segments { parts, rest } => {
                if !walk(parts, *rest, path, |name, part| taken.push((name, part))) {
                    return None;
                }
            }
        }
        Some(Captures { parts: taken })
    }

    /// Whether every path that fits gives a value to `placeholder`, `$1` or `{name}`.
    pub(crate) fn makes(&self, placeholder: &str) -> bool {
        let names = self.wildcards();
        if let Some(number) = placeholder.strip_prefix('$') {
            return number
                .parse()
                .is_ok_and(|number: usize| (1..=names.len()).contains(&number));
        }
        let name = placeholder.trim_matches(['{', '}']);
        names.contains(&Some(name))
    }

    fn wildcards(&self) -> Vec<Option<&str>> {
        match &self.kind {
            Kind::Exact(_) => Vec::new(),
            Kind::Regex(regex) => regex.groups().collect(),
            Kind::Segments { parts, rest } => {
                let names = parts.iter().filter_map(|part| match part {
                    Part::Is(_) => None,
                    Part::Any(name) => Some(name.as_deref()),
                });
                names.chain(rest.then_some(None)).collect()
            }
        }
    }
}

impl<'a> Captures<'a> {
    /// What `{name}` stands for.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&'a str> {
        let found = self.parts.iter().find(|(known, _)| *known == Some(name));
        found.map(|(_, part)| *part)
    }

    /// What `$<number>` stands for, counted from 1.
    #[must_use]
    pub fn numbered(&self, number: usize) -> Option<&'a str> {
        let part = self.parts.get(number.checked_sub(1)?);
        part.map(|(_, part)| *part)
    }
}

/// The placeholders in a path that is sent: `$1`, `{name}`.
pub(crate) fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let (_, from) = rest.split_at_checked(rest.find(['$', '{'])?)?;
            let end = match from.strip_prefix('$') {
                Some(after) => {
                    1 + after
                        .find(|c: char| !c.is_ascii_digit())
                        .unwrap_or(after.len())
                }
                None => from.find('}').map_or(1, |end| end + 1),
            };
            let (placeholder, after) = from.split_at_checked(end)?;
            rest = after;
            if placeholder.len() > 1 {
                return Some(placeholder);
            }
        }
    })
}

/// Walks a path along its pattern's parts; `take` sees what each wildcard took.
fn walk<'a>(
    parts: &'a [Part],
    rest: bool,
    path: &'a str,
    mut take: impl FnMut(Option<&'a str>, &'a str),
) -> bool {
    let mut path = path;
    for part in parts {
        let Some(after) = path.strip_prefix('/') else {
            return false;
        };
        let (segment, below) = after.split_at(after.find('/').unwrap_or(after.len()));
        match part {
            Part::Is(text) if **text != *segment => return false,
            Part::Is(_) => {}
            Part::Any(_) if segment.is_empty() => return false,
            Part::Any(name) => take(name.as_deref(), segment),
        }
        path = below;
    }
    if !rest {
        return path.is_empty();
    }
    let below = path.strip_prefix('/');
    // `/*` alone is all paths, and a path begins with a slash.
    if below.is_none() && (!path.is_empty() || parts.is_empty()) {
        return false;
    }
    take(None, below.unwrap_or_default());
    true
}

fn plain(text: &str) -> Result<Kind, String> {
    check(text)?;
    let (front, rest) = match text.strip_suffix("/*") {
        Some(front) => (front, true),
        None => (text, false),
    };
    if !rest && !front.contains(['*', '{', '}']) {
        return Ok(Kind::Exact(normal(text).into()));
    }
    let segments = front.split('/').skip(1);
    let parts = segments.map(part).collect::<Result<Box<[Part]>, _>>()?;
    let mut names: Vec<&str> = parts.iter().filter_map(name_of).collect();
    names.sort_unstable();
    if let Some([name, _]) = names.windows(2).find(|two| matches!(two, [a, b] if a == b)) {
        return Err(format!("has {{{name}}} twice"));
    }
    Ok(Kind::Segments { parts, rest })
}

fn name_of(part: &Part) -> Option<&str> {
    match part {
        Part::Any(name) => name.as_deref(),
        Part::Is(_) => None,
    }
}

/// What no path that the proxy has normalised can be.
fn check(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(match text {
            "*" => "is no path pattern; all paths are \"/*\"".to_owned(),
            _ => "does not begin with a slash".to_owned(),
        });
    }
    if text.len() > MAX_TEXT {
        return Err(format!("is longer than {MAX_TEXT} bytes"));
    }
    if text.contains(['?', '#']) {
        return Err(
            "has a ? or #; a path is matched without its query, which has a key of its own"
                .to_owned(),
        );
    }
    if text.contains('\\') || text.chars().any(char::is_whitespace) {
        return Err("has a backslash or a space".to_owned());
    }
    if text
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        return Err("has a dot segment, which no path that gets here has".to_owned());
    }
    Ok(())
}

fn part(segment: &str) -> Result<Part, String> {
    if segment == "*" {
        return Ok(Part::Any(None));
    }
    let name = segment
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'));
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    match name {
        Some(name) if !name.is_empty() && name.bytes().all(word) => {
            Ok(Part::Any(Some(name.into())))
        }
        _ if segment.contains(['*', '{', '}']) => Err(format!(
            "has {segment:?}, where * and {{name}} can only be a whole segment; write regex:..."
        )),
        _ => Ok(Part::Is(normal(segment).into())),
    }
}

/// Writes text as a normalised path has it (RFC 3986 section 6.2.2): what must be encoded is, what need not be is not.
fn normal(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        index += 1;
        let hex = bytes.get(index..index + 2).filter(|_| byte == b'%');
        let escaped = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match escaped {
            Some(value) => {
                index += 2;
                match unreserved(value) {
                    true => normal.push(char::from(value)),
                    false => normal.push_str(&format!("%{value:02X}")),
                }
            }
            None if byte.is_ascii() => normal.push(char::from(byte)),
            None => normal.push_str(&format!("%{byte:02X}")),
        }
    }
    normal
}

/// Why a pattern was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PatternError {
    /// What is wrong and what to write.
    pub reason: String,
}

const MAX_TEXT: usize = 2048;

#[cfg(test)]
mod tests;
