//! The header `tracestate` (W3C Trace Context, section 3.3): other vendors' words, kept as they came where they can be read.
//!
//! Nothing of ours is written there. What breaks the rules is removed as a whole, so that no hop after us has to guess.

use http::HeaderMap;
use http::header::{Entry, HeaderValue};

use super::TRACESTATE;

/// Removes a `tracestate` that breaks the rules, or says nothing.
pub(super) fn keep_if_valid(headers: &mut HeaderMap) {
    let Entry::Occupied(entry) = headers.entry(TRACESTATE) else {
        return;
    };
    let mut members = 0;
    let valid = entry.iter().all(|line| is_list(line, &mut members));
    // "There can be a maximum of 32 list-members in a list."
    if !valid || members == 0 || members > MAX_MEMBERS {
        entry.remove_entry_mult();
    }
}

/// `list = list-member 0*31( OWS "," OWS list-member )`, where a member may be empty; several lines are one list.
fn is_list(line: &HeaderValue, members: &mut usize) -> bool {
    let parts = line.as_bytes().split(|byte| *byte == b',');
    let trimmed = parts.map(trim).filter(|part| !part.is_empty());
    trimmed.inspect(|_member| *members += 1).all(is_member)
}

/// `list-member = key "=" value`.
fn is_member(member: &[u8]) -> bool {
    let Some(at) = member.iter().position(|byte| *byte == b'=') else {
        return false;
    };
    let (key, value) = member.split_at(at);
    is_key(key) && is_value(value.get(1..).unwrap_or_default())
}

/// `key = ( lcalpha / DIGIT ) 0*255 ( keychar )`, of Level 2, which takes all keys of Level 1.
fn is_key(key: &[u8]) -> bool {
    let begins = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let goes_on = |byte: &u8| begins(byte) || b"_-*/@".contains(byte);
    key.len() <= MAX_LENGTH && key.first().is_some_and(begins) && key.iter().all(goes_on)
}

/// `value = 0*255(chr) nblk-chr`: printable ASCII but for `,` and `=`; spaces around it are not part of it.
fn is_value(value: &[u8]) -> bool {
    let printable = |byte: &u8| matches!(byte, b' '..=b'~') && !b",=".contains(byte);
    !value.is_empty() && value.len() <= MAX_LENGTH && value.iter().all(printable)
}

fn trim(part: &[u8]) -> &[u8] {
    part.trim_ascii()
}

const MAX_MEMBERS: usize = 32;
const MAX_LENGTH: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(lines: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACESTATE, line.parse().unwrap());
        }
        keep_if_valid(&mut headers);
        let left = headers.get_all(TRACESTATE).iter();
        left.map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn what_can_be_read_is_kept_as_it_came() {
        let long = format!("{}={}", "k".repeat(256), "v".repeat(256));
        let most: Vec<String> = (0..32).map(|number| format!("k{number}=1")).collect();
        let most = most.join(",");
        let rows: &[(&str, &[&str])] = &[
            ("one", &["a=1"]),
            ("several", &["a=1,b=2"]),
            ("spaces around", &[" a=1 , \tb=2 "]),
            ("an empty member", &["a=1,,b=2,"]),
            ("a vendor's tenant", &["tenant@vendor=1"]),
            ("a key that begins with a digit", &["0a_-*/=1"]),
            (
                "all that a value may have",
                &["a= !\"#$%&'()*+-./:;<>?@[]^_`{|}~"],
            ),
            ("the same key twice", &["a=1,a=2"]),
            ("two lines", &["a=1", "b=2"]),
            ("a line that is empty", &["a=1", ""]),
            ("the longest", &[&long]),
            ("as many as there may be", &[&most]),
        ];
        for (name, lines) in rows {
            assert_eq!(kept(lines), *lines, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_goes_as_a_whole() {
        let (key, value) = (
            format!("{}=1", "k".repeat(257)),
            format!("a={}", "v".repeat(257)),
        );
        let many: Vec<String> = (0..33).map(|number| format!("k{number}=1")).collect();
        let many = many.join(",");
        let rows: &[(&str, &[&str])] = &[
            ("nothing", &[""]),
            ("commas", &[" , ,"]),
            ("no value", &["a"]),
            ("an empty value", &["a="]),
            ("no key", &["=1"]),
            ("a key in capitals", &["A=1"]),
            ("a key with a space", &["a b=1"]),
            ("a key that ends in a space", &["a =1"]),
            ("a key with a dot", &["a.b=1"]),
            ("a key that begins with a sign", &["_a=1"]),
            ("two signs of equality", &["a=1=2"]),
            ("a semicolon for a comma", &["a=1;b=2=3"]),
            ("one bad among good ones", &["a=1,B=2,c=3"]),
            ("bad in the second line", &["a=1", "b"]),
            ("a key too long", &[&key]),
            ("a value too long", &[&value]),
            ("too many", &[&many]),
            ("a tab in a value", &["a=1\t2"]),
        ];
        for (name, lines) in rows {
            assert!(kept(lines).is_empty(), "{name}");
        }
    }
}
