//! The annotations of a pod as the kubelet writes them into a downward-API volume: `key="value"`, one a line.
//!
//! The kubelet writes `fmt.Sprintf("%v=%q")` of each (Kubernetes, `fieldpath.FormatMap`), so a value is one line, quoted as Go
//! quotes strings (Go specification, "String literals").

/// Reads the file. Annotations of others are passed over unread: they may hold what is no text.
///
/// # Errors
/// The first line that is none of the kubelet's.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, DownwardError> {
    let lines = text.split('\n').enumerate();
    let lines = lines.filter(|(_, line)| line.starts_with(crate::problem::PREFIX));
    let read = |(index, line): (usize, &str)| {
        let unread = || DownwardError { line: index + 1 };
        let (key, quoted) = line.split_once('=').ok_or_else(unread)?;
        let value = unquoted(quoted.strip_suffix('\r').unwrap_or(quoted)).ok_or_else(unread)?;
        Ok((key.to_owned(), value))
    };
    lines.map(read).collect()
}

/// A line of an annotations file that nobody can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not like weft.dev/key=\"value\", quoted as Go quotes strings")]
pub struct DownwardError {
    /// Counted from 1.
    pub line: usize,
}

fn unquoted(quoted: &str) -> Option<String> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, &mut bytes)?,
            // Go would have escaped it; a quote here means that the value ended before.
            '"' => return None,
            c => push(&mut bytes, c),
        }
    }
    String::from_utf8(bytes).ok()
}

/// What stands behind a backslash.
fn escape(chars: &mut std::str::Chars<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    let c = chars.next()?;
    match c {
        'a' => bytes.push(0x07),
        'b' => bytes.push(0x08),
        'f' => bytes.push(0x0c),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'v' => bytes.push(0x0b),
        '\\' | '"' => push(bytes, c),
        'x' => bytes.push(u8::try_from(hex(chars, 2)?).ok()?),
        'u' => push(bytes, char::from_u32(hex(chars, 4)?)?),
        'U' => push(bytes, char::from_u32(hex(chars, 8)?)?),
        _ => return None,
    }
    Some(())
}

fn hex(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    let mut value: u32 = 0;
    for _ in 0..digits {
        let digit = chars.next()?.to_digit(16)?;
        value = value.checked_mul(16)?.checked_add(digit)?;
    }
    Some(value)
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_go_wrote_it() {
        // Printed by Go 1.26's `%q`.
        let rows = [
            (r#""10s""#, Some("10s")),
            (r#""""#, Some("")),
            (
                r#""retry:\n  attempts: 3\n""#,
                Some("retry:\n  attempts: 3\n"),
            ),
            (r#""say \"订单\" \\ \t""#, Some("say \"订单\" \\ \t")),
            (
                r#""\a\b\f\r\v\x00\x7f""#,
                Some("\u{7}\u{8}\u{c}\r\u{b}\0\u{7f}"),
            ),
            (r#""\u200b\U000e0001""#, Some("\u{200b}\u{e0001}")),
            (r#""\xe8\xae\xa2""#, Some("订")),
            (r#""\xff""#, None),
            (r#""\ud800""#, None),
            (r#""\q""#, None),
            (r#""a"b""#, None),
            (r#""a"#, None),
            (r#""a\""#, None),
            ("10s", None),
            (r#""\x1""#, None),
        ];
        for (quoted, want) in rows {
            let line = format!("weft.dev/a={quoted}\n");
            let want = want.map(|value| vec![("weft.dev/a".to_owned(), value.to_owned())]);
            assert_eq!(parse(&line).ok(), want, "{quoted}");
        }
    }

    #[test]
    fn others_are_passed_over_and_a_bad_line_is_named() {
        let text = "kubectl.kubernetes.io/x=\"\\xff\"\nweft.dev/mtls=\"strict\"";
        assert_eq!(parse(text).unwrap().len(), 1);
        let text = "a=\"b\"\nweft.dev/mtls: strict\n";
        assert_eq!(parse(text), Err(DownwardError { line: 2 }));
    }
}
