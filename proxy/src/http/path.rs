//! Path normalisation (RFC 3986 section 6.2.2): done once, before anything looks at the path; what is forwarded is what
//! was looked at.
//!
//! Dot segments are removed, unreserved characters decoded, hex digits upper-cased. What two readers may see differently
//! (backslash, encoded NUL, broken encodings) is refused. Slashes are not merged: `//` can mean something to an app.

use http::Uri;
use http::uri::PathAndQuery;

use super::malformed::Malformed;

/// Returns `uri` with its path normalised; the query is left as it is.
///
/// # Errors
/// [`Malformed::Path`] for a path that cannot be read in only one way.
pub(crate) fn normalise(uri: Uri) -> Result<Uri, Malformed> {
    let Some(whole) = uri.path_and_query() else {
        return Ok(uri);
    };
    if !needs_work(whole.path()) {
        return Ok(uri);
    }
    let mut path = remove_dot_segments(&decode(whole.path())?);
    if let Some(query) = whole.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(|_invalid| Malformed::Path)?);
    Uri::from_parts(parts).map_err(|_invalid| Malformed::Path)
}

fn needs_work(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes
        .iter()
        .any(|byte| matches!(byte, b'%' | b'\\') || !byte.is_ascii() || byte.is_ascii_control())
        || bytes.windows(2).any(|pair| pair == b"/.")
}

/// RFC 3986 sections 6.2.2.1 and 6.2.2.2.
fn decode(path: &str) -> Result<String, Malformed> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => return Err(Malformed::Path),
            b'%' => {
                let value = hex(rest.next())? << 4 | hex(rest.next())?;
                match value {
                    0 => return Err(Malformed::Path),
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        out.push(char::from(value));
                    }
                    _ => out.push_str(&format!("%{value:02X}")),
                }
            }
            _ if byte.is_ascii_graphic() => out.push(char::from(byte)),
            // A byte that a URI may not hold travels encoded (RFC 3986 section 2.1).
            _ if !byte.is_ascii() => out.push_str(&format!("%{byte:02X}")),
            _ => return Err(Malformed::Path),
        }
    }
    Ok(out)
}

fn hex(digit: Option<u8>) -> Result<u8, Malformed> {
    let value = digit
        .and_then(|digit| char::from(digit).to_digit(16))
        .ok_or(Malformed::Path)?;
    u8::try_from(value).map_err(|_above_15| Malformed::Path)
}

/// RFC 3986 section 5.2.4, on whole segments.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        let rows = [
            ("/", "/"),
            ("/a/b?c=%41", "/a/b?c=%41"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/%61dmin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a//b", "/a//b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/a;x=1/../b", "/b"),
            ("/%7euser", "/~user"),
        ];
        for (path, want) in rows {
            assert_eq!(normalise(path.parse().unwrap()).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn a_path_with_two_readings_is_refused() {
        for path in ["/a\\b", "/%00", "/%", "/%a", "/%zz", "/a%0"] {
            assert!(
                path.parse::<Uri>().is_err() || normalise(path.parse().unwrap()).is_err(),
                "{path}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "/[a-zA-Z0-9./%;~_-]{0,40}") {
            if let Ok(uri) = path.parse::<Uri>()
                && let Ok(once) = normalise(uri)
            {
                proptest::prop_assert_eq!(normalise(once.clone()).unwrap(), once);
            }
        }
    }
}
