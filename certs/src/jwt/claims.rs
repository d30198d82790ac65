//! The contents of a token (RFC 7519 section 4).

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::error::JwtError;
use super::json;

/// What a token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

/// What it must say.
#[derive(Clone, Copy, Debug)]
pub struct Expect<'a> {
    /// Exactly this in `iss`.
    pub issuer: &'a str,
    /// One of these in `aud`; empty asks for none.
    pub audiences: &'a [String],
    /// How far the issuer's clock may be off.
    pub skew: Duration,
}

impl Claims {
    /// Reads the payload of a token.
    ///
    /// # Errors
    /// [`JwtError::Malformed`]: not an object of JSON with each member once.
    pub fn of(payload: &[u8]) -> Result<Self, JwtError> {
        json::object(payload).map(Self).or(Err(JwtError::Malformed))
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &Map<String, Value> {
        &self.0
    }

    /// All of them, to keep.
    #[must_use]
    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// The claim at a dotted path. A claim whose name itself has dots, such as a URL, comes first.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.0.get(path).or_else(|| {
            let (first, rest) = path.split_once('.')?;
            let first = self.0.get(first)?;
            rest.split('.')
                .try_fold(first, |value, name| value.as_object()?.get(name))
        })
    }

    /// `iss`, if it is a text.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.0.get("iss")?.as_str()
    }

    /// Whether the token is of that issuer, for us, and valid at `now`; returns until when, skew included.
    ///
    /// # Errors
    /// [`JwtError::Issuer`], [`JwtError::Audience`], [`JwtError::Expired`], [`JwtError::NotYet`], or [`JwtError::Claims`]: `exp` is not there,
    /// or one of these is of another type.
    pub fn check(&self, expect: &Expect<'_>, now: SystemTime) -> Result<SystemTime, JwtError> {
        if self.issuer() != Some(expect.issuer) {
            return Err(JwtError::Issuer);
        }
        self.check_use(expect.audiences, expect.skew, now)
    }

    /// As [`check`](Self::check), whoever the issuer is.
    ///
    /// # Errors
    /// As there, without [`JwtError::Issuer`].
    pub fn check_use(
        &self,
        audiences: &[String],
        skew: Duration,
        now: SystemTime,
    ) -> Result<SystemTime, JwtError> {
        if self.0.get("sub").is_some_and(|sub| !sub.is_string()) {
            return Err(JwtError::Claims);
        }
        self.check_audience(audiences)?;
        // "The "exp" (expiration time) claim identifies the expiration time on or after which the JWT MUST NOT be accepted".
        let expires = self.time("exp")?.ok_or(JwtError::Claims)? + skew;
        if now >= expires {
            return Err(JwtError::Expired);
        }
        // "The "nbf" (not before) claim identifies the time before which the JWT MUST NOT be accepted". Nor was one issued tomorrow.
        for begins in [self.time("nbf")?, self.time("iat")?].into_iter().flatten() {
            if now + skew < begins {
                return Err(JwtError::NotYet);
            }
        }
        Ok(expires)
    }

    /// "In the general case, the "aud" value is an array of case-sensitive strings ... In the special case when the JWT has one audience,
    /// the "aud" value MAY be a single case-sensitive string" (section 4.1.3).
    fn check_audience(&self, wanted: &[String]) -> Result<(), JwtError> {
        let is_wanted = |audience: &str| wanted.iter().any(|one| one == audience);
        let found = match self.0.get("aud") {
            None => false,
            Some(Value::String(one)) => is_wanted(one),
            Some(Value::Array(all)) => {
                let texts: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
                texts.ok_or(JwtError::Claims)?.into_iter().any(is_wanted)
            }
            Some(_) => return Err(JwtError::Claims),
        };
        match found || wanted.is_empty() {
            true => Ok(()),
            false => Err(JwtError::Audience),
        }
    }

    /// A NumericDate: "the number of seconds from 1970-01-01T00:00:00Z UTC ... non-integer values can be represented" (section 2).
    fn time(&self, name: &str) -> Result<Option<SystemTime>, JwtError> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let seconds = value.as_f64().ok_or(JwtError::Claims)?;
        let since = Duration::try_from_secs_f64(seconds.clamp(0.0, LAST_SECOND));
        since
            .map(|since| Some(SystemTime::UNIX_EPOCH + since))
            .or(Err(JwtError::Claims))
    }
}

/// The year 9999: far enough for every token, and adding to it never overflows.
const LAST_SECOND: f64 = 253_402_300_799.0;
