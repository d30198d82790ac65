//! What a mistake looks like: key, value, reason, and the nearest right thing.

use std::fmt::{self, Write as _};

use crate::node::NodeError;

/// One thing that is wrong with what an operator wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted path of the key, `retry.attempts`, without `weft.dev/`; empty for the document as a whole.
    pub path: String,
    /// The value as it was written, shortened; `None` where the key itself is wrong.
    pub value: Option<String>,
    /// What is wrong, and what to write.
    pub reason: String,
    /// The line it stands on, counted from 1; 0 if it stands on none.
    pub line: u32,
}

/// `weft.dev/timeout: "10" has no unit; write "10s" or "10ms"`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() {
            "policy"
        } else {
            &self.path
        };
        let mut line = OneLine(f);
        write!(line, "{PREFIX}{path}: ")?;
        match &self.value {
            Some(value) => write!(line, "{value:?} {}", self.reason),
            None => line.write_str(&self.reason),
        }
    }
}

impl std::error::Error for Problem {}

/// Writes control characters as escapes: keys and reasons may quote anything, and a log line stays one.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c.is_control() {
                true => write!(self.0, "{}", c.escape_debug())?,
                false => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

impl Problem {
    /// The text is no document at all.
    pub(crate) fn of_text(error: &NodeError) -> Self {
        Self {
            path: String::new(),
            value: None,
            reason: error.reason.clone(),
            line: error.line,
        }
    }
}

/// Shortens a value, so that a line of a log stays one.
#[must_use]
pub(crate) fn shown(value: &str) -> String {
    match value.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}

/// The one of `known` that is nearest to `text`, if it is near enough to be meant.
#[must_use]
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text: Vec<char> = text.chars().take(MAX_SHOWN_CHARS).collect();
    let far = text.len() / 3 + 1;
    let ranked = known.into_iter().map(|word| (distance(&text, word), word));
    let near = ranked.filter(|(distance, _)| *distance <= far);
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour (optimal string alignment).
fn distance(from: &[char], to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, &letter) in from.iter().enumerate() {
        let mut this = vec![row + 1];
        for (column, &wanted) in to.iter().enumerate() {
            let at =
                |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
            let same = usize::from(!letter.eq_ignore_ascii_case(&wanted));
            let mut best = (at(&last, column) + same)
                .min(at(&last, column + 1) + 1)
                .min(at(&this, column) + 1);
            let swapped = row > 0
                && column > 0
                && from.get(row - 1) == Some(&wanted)
                && to.get(column - 1) == Some(&letter);
            if swapped {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            this.push(best);
        }
        before_last = std::mem::replace(&mut last, this);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

/// Stands in front of each key in an annotation's name.
pub const PREFIX: &str = "weft.dev/";

const MAX_SHOWN_CHARS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_if_it_is_near() {
        let known = [
            "attempts",
            "on",
            "methods",
            "backoff",
            "try-timeout",
            "budget",
        ];
        let rows = [
            ("attemps", Some("attempts")),
            ("atempts", Some("attempts")),
            ("attmepts", Some("attempts")),
            ("Backoff", Some("backoff")),
            ("try_timeout", Some("try-timeout")),
            ("jitter", None),
            ("", None),
        ];
        for (text, want) in rows {
            assert_eq!(nearest(text, known), want, "{text:?}");
        }
    }

    #[test]
    fn a_problem_is_one_line() {
        let problem = Problem {
            path: "timeout".to_owned(),
            value: Some(shown(&"1\n".repeat(500))),
            reason: "has no unit".to_owned(),
            line: 3,
        };
        let line = problem.to_string();
        assert!(line.starts_with("weft.dev/timeout: \"1\\n1\\n"), "{line}");
        assert!(
            line.ends_with("...\" has no unit") && !line.contains('\n'),
            "{line}"
        );
    }
}
