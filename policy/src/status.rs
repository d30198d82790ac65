//! Status sets and gRPC codes, as they are written: `503`, `5xx`, `500-504`, `gateway-error`, `unavailable`.

use std::ops::RangeInclusive;

use http::StatusCode;

use crate::read::not_one_of;

/// Some HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(pub RangeInclusive<u16>);

impl StatusSet {
    /// Whether `status` is one of them.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.contains(&status)
    }
}

/// gRPC status codes (gRPC, Status codes and their use in gRPC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcCode(pub u8);

impl GrpcCode {
    /// Names in the order of their numbers, `ok` is 0.
    pub const NAMES: [&'static str; 17] = [
        "ok",
        "cancelled",
        "unknown",
        "invalid-argument",
        "deadline-exceeded",
        "not-found",
        "already-exists",
        "permission-denied",
        "resource-exhausted",
        "failed-precondition",
        "aborted",
        "out-of-range",
        "unimplemented",
        "internal",
        "unavailable",
        "data-loss",
        "unauthenticated",
    ];
}

impl StatusSet {
    /// Parses `503`, `5xx`, `500-504`, `gateway-error` (502 to 504).
    ///
    /// # Errors
    /// Says how a set of statuses is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = |text| parse_status(text, 100..=599).map(|status| status.as_u16());
        if text == "gateway-error" {
            return Ok(Self(502..=504));
        }
        if let Some(class) = text.strip_suffix("xx") {
            let first = number(&format!("{class}00"))?;
            return Ok(Self(first..=first.saturating_add(99)));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("ends before it begins; write {last}-{first}"));
        }
        Ok(Self(first..=last))
    }
}

impl GrpcCode {
    /// Parses a code by its name: `unavailable`.
    ///
    /// # Errors
    /// Names the nearest one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let found = (0..).zip(Self::NAMES).find(|(_, name)| *name == text);
        let code = found.map(|(code, _)| Self(code));
        code.ok_or_else(|| not_one_of(text, Self::NAMES.into_iter()))
    }
}

/// An HTTP status among `allowed`.
pub(crate) fn parse_status(text: &str, allowed: RangeInclusive<u16>) -> Result<StatusCode, String> {
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text
        .parse()
        .ok()
        .filter(|number| digits && allowed.contains(number));
    let status = number.and_then(|number| StatusCode::from_u16(number).ok());
    status.ok_or_else(|| format!("is no status from {} to {}", allowed.start(), allowed.end()))
}
