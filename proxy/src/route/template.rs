//! A text with places for what a path's wildcards took: `/v2/$1`, `/users/{id}/orders`.
//!
//! Taken apart once, when a policy is taken in.

use weft_policy::matcher::Captures;

/// A text, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `$1`, counted from 1.
    Number(usize),
    /// `{name}`.
    Name(String),
}

impl Template {
    /// Reads a text; what is no place stays as it is.
    pub(crate) fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            match place(rest) {
                Some((piece, behind)) => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(piece);
                    rest = behind;
                }
                None => {
                    plain.push(first);
                    rest = rest.get(first.len_utf8()..).unwrap_or_default();
                }
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Self(pieces)
    }

    /// The text with all places filled; what was not captured is empty.
    pub(crate) fn fill(&self, captures: Option<&Captures<'_>>) -> String {
        self.fill_with(captures, str::to_owned)
    }

    /// The same, with what was captured written as `write` says.
    pub(crate) fn fill_with(
        &self,
        captures: Option<&Captures<'_>>,
        write: impl Fn(&str) -> String,
    ) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Number(number) => write(taken(captures, |all| all.numbered(*number))),
            Piece::Name(name) => write(taken(captures, |all| all.named(name))),
        };
        self.0.iter().map(piece).collect()
    }
}

fn taken<'a>(
    captures: Option<&Captures<'a>>,
    part: impl FnOnce(&Captures<'a>) -> Option<&'a str>,
) -> &'a str {
    captures.and_then(part).unwrap_or_default()
}

/// The place that `text` begins with, and what follows it.
fn place(text: &str) -> Option<(Piece, &str)> {
    if let Some(rest) = text.strip_prefix('{') {
        let (name, rest) = rest.split_once('}')?;
        let is_name = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        return is_name.then(|| (Piece::Name(name.to_owned()), rest));
    }
    let rest = text.strip_prefix('$')?;
    let digits = rest
        .bytes()
        .take(MAX_DIGITS)
        .take_while(u8::is_ascii_digit)
        .count();
    let (number, rest) = rest.split_at(digits);
    let number = number.parse().ok().filter(|number| *number > 0)?;
    Some((Piece::Number(number), rest))
}

/// Digits of a number: nobody has a hundred wildcards.
const MAX_DIGITS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_the_rest_stays() {
        let captures = Captures {
            parts: vec![(None, "a/b"), (Some("id"), "7")],
        };
        let rows = [
            ("/$1", "/a/b"),
            ("/v2/$1/x$2", "/v2/a/b/x7"),
            ("/users/{id}", "/users/7"),
            ("/{other}/", "//"),
            ("/$3", "/"),
            ("/$0/$/{}/{a b}/{", "/$0/$/{}/{a b}/{"),
            ("/ü{id}ü", "/ü7ü"),
            ("", ""),
        ];
        for (text, want) in rows {
            assert_eq!(Template::new(text).fill(Some(&captures)), want, "{text}");
        }
        assert_eq!(Template::new("/a/$1").fill(None), "/a/");
    }
}
