//! What an app may take a path for.
//!
//! We forward a path in one spelling (`path`), but apps go on from there: they decode `%2F`, merge slashes, cut `;` parameters off,
//! some of them twice. A rule on paths therefore looks at every reading: what is forbidden must be none of them, what is allowed all
//! of them.

use std::borrow::Cow;

/// The readings of one normalised path.
#[derive(Debug)]
pub(crate) struct Readings<'a> {
    path: &'a str,
    others: Vec<String>,
    readable: bool,
}

impl<'a> Readings<'a> {
    /// `path` is without query. A path without odd characters has one reading, and costs one look.
    pub(crate) fn of(path: &'a str) -> Self {
        let bytes = path.as_bytes();
        let odd = bytes.iter().any(|byte| matches!(byte, b'%' | b';' | b'\\'))
            || bytes.windows(2).any(|pair| pair == b"//");
        let mut readings = Self {
            path,
            others: Vec::new(),
            readable: true,
        };
        if odd {
            readings.look();
        }
        readings
    }

    /// Whether one of them fits, or nobody can say.
    pub(crate) fn any(&self, fits: impl Fn(&str) -> bool) -> bool {
        !self.readable || fits(self.path) || self.others.iter().any(|path| fits(path))
    }

    /// Whether all of them fit.
    pub(crate) fn all(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.readable && fits(self.path) && self.others.iter().all(|path| fits(path))
    }

    /// Whether the path is text, and not encoded over and over.
    pub(crate) fn are_text(&self) -> bool {
        self.readable
    }

    fn look(&mut self) {
        let mut text = Cow::Borrowed(self.path);
        for _ in 0..MAX_ENCODINGS {
            self.read(&text);
            match decode(&text) {
                Decoded::Plain => return,
                Decoded::Text(decoded) => text = Cow::Owned(decoded),
                Decoded::NoText => break,
            }
        }
        self.readable = false;
    }

    /// Adds what `text` is for those who cut parameters off, before or after they have merged slashes.
    fn read(&mut self, text: &str) {
        let slashes = text.replace('\\', "/");
        let cut: Vec<&str> = slashes
            .split('/')
            .map(|segment| segment.split(';').next().unwrap_or_default())
            .collect();
        let merged: Vec<&str> = merge(&cut);
        for segments in [resolve(&cut), resolve(&merged), merge(&resolve(&cut))] {
            self.add(join(&segments));
        }
        self.add(join(&resolve(&slashes.split('/').collect::<Vec<_>>())));
    }

    fn add(&mut self, reading: String) {
        if reading != self.path && !self.others.contains(&reading) {
            self.others.push(reading);
        }
    }
}

/// Leaves out empty segments, but for the first and the last.
fn merge<'a>(segments: &[&'a str]) -> Vec<&'a str> {
    let last = segments.len().saturating_sub(1);
    let kept = segments.iter().enumerate();
    let kept = kept.filter(|(at, segment)| *at == 0 || *at == last || !segment.is_empty());
    kept.map(|(_, segment)| *segment).collect()
}

/// Removes dot segments (RFC 3986 section 5.2.4); the first segment is the empty one in front of the first slash.
fn resolve<'a>(segments: &[&'a str]) -> Vec<&'a str> {
    let mut kept: Vec<&str> = Vec::new();
    let last = segments.len().saturating_sub(1);
    for (at, segment) in segments.iter().enumerate() {
        match *segment {
            "." | ".." => {
                if *segment == ".." && kept.len() > 1 {
                    kept.pop();
                }
                if at == last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    kept
}

fn join(segments: &[&str]) -> String {
    let joined = segments.join("/");
    match joined.starts_with('/') {
        true => joined,
        false => format!("/{joined}"),
    }
}

enum Decoded {
    /// Nothing is encoded.
    Plain,
    Text(String),
    /// Not UTF-8.
    NoText,
}

fn decode(text: &str) -> Decoded {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    let mut plain = true;
    while let [byte, tail @ ..] = rest {
        let (value, behind) = match (byte, tail) {
            (b'%', [high, low, behind @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    plain = false;
                    (high << 4 | low, behind)
                }
                _ => (*byte, tail),
            },
            _ => (*byte, tail),
        };
        out.push(value);
        rest = behind;
    }
    match (plain, String::from_utf8(out)) {
        (true, _) => Decoded::Plain,
        (false, Ok(text)) if !text.contains('\0') => Decoded::Text(text),
        (false, _) => Decoded::NoText,
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Nobody has a reason to encode more than twice.
const MAX_ENCODINGS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_admin_is_seen() {
        for path in [
            "/admin",
            "//admin",
            "/a//../admin",
            "/;/admin",
            "/;x=1/admin;y=2",
            "/public/..;/admin",
            "/public/..;x=1/admin",
            "/public%2F..%2Fadmin",
            "/public/..%2Fadmin",
            "/%2Fadmin",
            "/x%2F%2F..%2F..%2Fadmin",
            "/admin%3Bx",
            "/admin%3bx=1",
            "/%2561dmin",
            "/public%252F..%252Fadmin",
            "/public%5C..%5Cadmin",
            "/public/%252e%252e/admin",
        ] {
            assert!(
                Readings::of(path).any(|path| path == "/admin"),
                "{path}: {:?}",
                Readings::of(path)
            );
        }
    }

    #[test]
    fn what_only_looks_public_is_not_public_in_every_reading() {
        let public = |path: &str| path == "/public" || path.starts_with("/public/");
        let rows = [
            ("/public/a", true),
            ("/public//a", true),
            ("/public/a;v=1", true),
            ("/public/caf%C3%A9", true),
            ("/public/a%2Fb", true),
            ("/public/..%2Fadmin", false),
            ("/public/..;/admin", false),
            ("/public%2F..%2Fadmin", false),
            ("/public/%252e%252e/admin", false),
            ("/public/%FF", false),
            ("/public/%25252525252525", false),
            ("//public/a", false),
        ];
        for (path, want) in rows {
            assert_eq!(
                Readings::of(path).all(public),
                want,
                "{path}: {:?}",
                Readings::of(path)
            );
        }
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in ["/", "/a", "/a/b/", "/a.b/c-d_e~f", "*"] {
            assert!(Readings::of(path).others.is_empty(), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_read_in_bounded_readings(path in "/[a-z%/;.0-9A-F\\\\]{0,60}") {
            let readings = Readings::of(&path);
            proptest::prop_assert!(readings.others.len() <= 4 * MAX_ENCODINGS);
            proptest::prop_assert!(readings.any(|one| one == path));
        }
    }
}
