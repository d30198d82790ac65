//! `weft token`: says what a JSON Web Token is, for whom, and whether a proxy would take it. Never prints the signature.
//!
//! Everything that a token says is its maker's word: texts are written with their control characters escaped, so that none reaches
//! the terminal.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use time::OffsetDateTime;
use weft_certs::fetch::fetch;
use weft_certs::jwt::claims::{Claims, Expect};
use weft_certs::jwt::error::JwtError;
use weft_certs::jwt::jws::{Header, Jws};
use weft_certs::jwt::keyset::KeySet;

/// What was asked.
#[derive(Args, Debug, PartialEq, Eq)]
pub(crate) struct TokenArgs {
    /// The token: a file, or - for standard input
    #[arg(value_name = "FILE|-")]
    pub(crate) token: Input,
    /// The issuer's key set, a file or a URL, to check the signature with
    #[arg(long, value_name = "KEYS")]
    pub(crate) jwks: Option<String>,
}

/// Where the token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Stdin,
    File(PathBuf),
}

impl From<OsString> for Input {
    fn from(word: OsString) -> Self {
        if word == "-" {
            Self::Stdin
        } else {
            Self::File(word.into())
        }
    }
}

/// What is said of a token, and whether a proxy would take it as far as can be said here.
pub(crate) struct Explained {
    pub(crate) text: String,
    pub(crate) refused: Option<JwtError>,
}

/// Reads the token and its keys, and explains it.
///
/// # Errors
/// If one of them cannot be read. A token that is no good is no error.
pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<Explained> {
    let token = read_token(&args.token)?;
    let keys = args.jwks.as_deref().map(read_keys).transpose()?;
    Ok(explain(
        without_scheme(&token),
        keys.as_ref(),
        SystemTime::now(),
    ))
}

fn read_token(input: &Input) -> anyhow::Result<String> {
    let mut text = String::new();
    match input {
        Input::Stdin => std::io::stdin()
            .take(MAX_INPUT_BYTES)
            .read_to_string(&mut text)
            .context("read the token from standard input")?,
        Input::File(path) => std::fs::File::open(path)
            .and_then(|file| file.take(MAX_INPUT_BYTES).read_to_string(&mut text))
            .with_context(|| format!("read the token from {}", path.display()))?,
    };
    Ok(text)
}

fn read_keys(place: &str) -> anyhow::Result<KeySet> {
    let text = if place.starts_with("http://") || place.starts_with("https://") {
        let url = place.parse().with_context(|| format!("parse {place}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("make a runtime")?;
        runtime
            .block_on(fetch(&url, Path::new(ROOTS)))
            .with_context(|| format!("fetch {place}"))?
    } else {
        std::fs::read_to_string(place).with_context(|| format!("read {place}"))?
    };
    KeySet::parse(&text).with_context(|| format!("use the keys of {place}"))
}

/// A token is often copied with what stands in front of it.
fn without_scheme(text: &str) -> &str {
    let text = text.trim();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => text,
    }
}

fn explain(token: &str, keys: Option<&KeySet>, now: SystemTime) -> Explained {
    let mut text = String::new();
    let refused = describe(token, keys, now, &mut text).err();
    match refused {
        None => line(
            &mut text,
            "verdict",
            "nothing to object; issuer and audience are the policy's to judge",
        ),
        Some(error) => line(
            &mut text,
            "verdict",
            &format!("refused, {}: {}", error.label(), error.message()),
        ),
    }
    Explained { text, refused }
}

/// Writes all that can be said, and returns the first thing that is wrong.
fn describe(
    token: &str,
    keys: Option<&KeySet>,
    now: SystemTime,
    out: &mut String,
) -> Result<(), JwtError> {
    let jws = Jws::parse(token)?;
    line(out, "algorithm", jws.header.algorithm.name());
    line(out, "key", &key(&jws.header, keys));
    let verified = keys.map_or(Ok(()), |keys| keys.verify(&jws));
    let signature = match (keys, verified) {
        (None, _) => "not checked; name the issuer's keys with --jwks",
        (Some(_), Ok(())) => "good",
        (Some(_), Err(JwtError::Signature)) => "wrong",
        (Some(_), Err(_)) => "cannot be checked",
    };
    line(out, "signature", signature);
    let claims = Claims::of(jws.payload())?;
    for (name, claim) in [("issuer", "iss"), ("subject", "sub"), ("audience", "aud")] {
        line(out, name, &said(claims.get(claim)));
    }
    for (name, claim) in [("expires", "exp"), ("not before", "nbf"), ("issued", "iat")] {
        line(out, name, &moment(claims.get(claim), now));
    }
    verified?;
    let expect = Expect {
        issuer: claims.issuer().ok_or(JwtError::Issuer)?,
        audiences: &[],
        skew: SKEW,
    };
    claims.check(&expect, now).map(|_expires| ())
}

fn key(header: &Header, keys: Option<&KeySet>) -> String {
    let named = match &header.kid {
        Some(kid) => escaped(kid),
        None => "not named".to_owned(),
    };
    let Some(keys) = keys else { return named };
    let found = keys.named(header.kid.as_deref()).count();
    match (found, &header.kid) {
        (0, _) => format!("{named}, not in the key set"),
        (_, Some(_)) => format!("{named}, in the key set"),
        (count, None) => format!("{named}, {count} in the key set"),
    }
}

fn line(out: &mut String, name: &str, value: &str) {
    // Writing to a String does not fail.
    let _written = writeln!(out, "{name:<11} {value}");
}

fn said(value: Option<&Value>) -> String {
    match value {
        None => "not said".to_owned(),
        Some(Value::String(text)) => escaped(text),
        Some(Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| said(Some(item))).collect();
            items.join(", ")
        }
        Some(other) => escaped(&other.to_string()),
    }
}

/// Keeps letters of all scripts, and nothing that moves a cursor or turns the text around.
fn escaped(text: &str) -> String {
    text.escape_debug()
        .to_string()
        .replace("\\'", "'")
        .replace("\\\"", "\"")
}

fn moment(value: Option<&Value>, now: SystemTime) -> String {
    let Some(value) = value else {
        return "not said".to_owned();
    };
    let seconds = value
        .as_f64()
        .filter(|seconds| (0.0..LAST_SECOND).contains(seconds));
    let Some(seconds) = seconds else {
        return format!("{}, which is no time", escaped(&value.to_string()));
    };
    let at = UNIX_EPOCH + Duration::from_secs_f64(seconds);
    let away = match at.duration_since(now) {
        Ok(ahead) => format!("in {}", words(ahead)),
        Err(past) => format!("{} ago", words(past.duration())),
    };
    let date = OffsetDateTime::from(at);
    format!(
        "{away} ({:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC)",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    )
}

/// The two largest units: "2 days 3 hours".
fn words(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut parts = Vec::new();
    for (unit, seconds) in [
        ("day", 86_400),
        ("hour", 3600),
        ("minute", 60),
        ("second", 1),
    ] {
        let count = rest / seconds;
        rest %= seconds;
        if count > 0 {
            parts.push(format!(
                "{count} {unit}{}",
                if count == 1 { "" } else { "s" }
            ));
        }
    }
    parts.truncate(2);
    match parts.is_empty() {
        true => "less than a second".to_owned(),
        false => parts.join(" "),
    }
}

/// What `clock-skew` is where nothing is written.
const SKEW: Duration = Duration::from_secs(60);
const MAX_INPUT_BYTES: u64 = 64 * 1024;
/// The end of the year 9999.
const LAST_SECOND: f64 = 253_402_300_800.0;
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_ca::token::mint::TokenIssuer;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn explained(token: &str, keys: Option<&str>) -> Explained {
        let keys = keys.map(|keys| KeySet::parse(keys).unwrap());
        explain(token, keys.as_ref(), UNIX_EPOCH + Duration::from_secs(NOW))
    }

    #[test]
    fn a_token_is_explained_in_words() {
        let issuer = TokenIssuer::generate("weft").unwrap();
        let claims = json!({
            "iss": "https://issuer.test", "sub": "ann\u{1b}[2J", "aud": ["orders", "users"],
            "exp": NOW + 3725, "iat": NOW - 60,
        });
        let token = issuer.sign(&claims).unwrap();
        let keys = issuer.key_set().unwrap();
        let told = explained(without_scheme(&format!("Bearer {token}\n")), Some(&keys));
        assert_eq!(told.refused, None, "{}", told.text);
        let lines: Vec<&str> = told
            .text
            .lines()
            .filter(|line| !line.starts_with("key "))
            .collect();
        assert_eq!(
            lines,
            [
                "algorithm   ES256",
                "signature   good",
                "issuer      https://issuer.test",
                "subject     ann\\u{1b}[2J",
                "audience    orders, users",
                "expires     in 1 hour 2 minutes (2027-01-15 09:02:05 UTC)",
                "not before  not said",
                "issued      1 minute ago (2027-01-15 07:59:00 UTC)",
                "verdict     nothing to object; issuer and audience are the policy's to judge",
            ]
        );
        let signature = token.rsplit_once('.').unwrap().1;
        assert!(!told.text.contains(signature));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (issuer, stranger) = (
            TokenIssuer::generate("weft").unwrap(),
            TokenIssuer::generate("weft").unwrap(),
        );
        let sign = |claims: Value| issuer.sign(&claims).unwrap();
        let good = || json!({"iss": "i", "exp": NOW + 300});
        let keys = issuer.key_set().unwrap();
        let rows = [
            (sign(good()), None, None, "not checked"),
            (
                sign(good()),
                Some(stranger.key_set().unwrap()),
                Some(JwtError::Key),
                "not in the key set",
            ),
            (
                sign(json!({"iss": "i", "exp": NOW - 100})),
                Some(keys),
                Some(JwtError::Expired),
                "1 minute 40 seconds ago",
            ),
            (
                sign(json!({"iss": "i"})),
                None,
                Some(JwtError::Claims),
                "expires     not said",
            ),
            (
                sign(json!({"iss": "i", "exp": "soon"})),
                None,
                Some(JwtError::Claims),
                "\"soon\", which is no time",
            ),
            (
                "a.b".to_owned(),
                None,
                Some(JwtError::Malformed),
                "jwt_malformed",
            ),
        ];
        for (token, keys, want, says) in rows {
            let told = explained(&token, keys.as_deref());
            assert_eq!(told.refused, want, "{}", told.text);
            assert!(told.text.contains(says), "{says}: {}", told.text);
        }
    }
}
