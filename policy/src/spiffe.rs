//! SPIFFE identities: the names that callers and endpoints prove in their certificates.
//!
//! Parsed once at the border and compared as values from there on, never as text or pattern. The rules are those of the SPIFFE-ID
//! standard section 2; which certificates may carry an identity is decided in `weft_certs`, not here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The part of a mesh that shares its roots, such as `cluster.local`; lower-case, 1 to 255 bytes.
///
/// A clone is one reference count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain name (without scheme); upper-case letters become lower-case.
    ///
    /// # Errors
    /// Names the first byte that SPIFFE-ID section 2.1 does not allow, or that the name is empty or too long.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() {
            return Err(SpiffeIdError::NoTrustDomain);
        }
        // "Trust domain names ... up to 255 bytes in length" (SPIFFE-ID section 2.3).
        if name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TooLong {
                bytes: name.len(),
                limit: MAX_TRUST_DOMAIN_BYTES,
            });
        }
        if let Some(character) = name.chars().find(|&c| !is_segment_character(c)) {
            return Err(SpiffeIdError::TrustDomainCharacter { character });
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// Returns the name, lower-case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

/// The identity of a workload, `spiffe://<trust domain>/<path>`; the path is never empty.
///
/// Equal identities have equal text: scheme and trust domain are held in lower case, the path as it was written.
/// A clone is one reference count.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    path: Arc<str>,
    /// The whole, kept because it is written into headers, logs and certificates.
    text: Arc<str>,
}

impl SpiffeId {
    /// Parses `spiffe://<trust domain>/<path>`.
    ///
    /// # Errors
    /// Says which rule of SPIFFE-ID section 2 is broken. An identity without a path names a trust domain, not a workload, and is refused too.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        // "Implementations MUST support SPIFFE URIs up to 2048 bytes in length and SHOULD NOT generate URIs of length greater" (section 2.3).
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong {
                bytes: text.len(),
                limit: MAX_ID_BYTES,
            });
        }
        let rest = match text.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(SpiffeIdError::Scheme),
        };
        let (domain, path) = rest.split_once('/').ok_or(SpiffeIdError::NoPath)?;
        Self::from_parts(TrustDomain::parse(domain)?, path)
    }

    /// Builds the identity of a service account: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// Refuses names that are no path segment, in particular any that would change the number of segments.
    pub fn workload(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        Self::from_parts(
            trust_domain.clone(),
            &format!("ns/{namespace}/sa/{service_account}"),
        )
    }

    fn from_parts(trust_domain: TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        if path.is_empty() {
            return Err(SpiffeIdError::NoPath);
        }
        path.split('/').try_for_each(check_segment)?;
        let text: Arc<str> = format!("{SCHEME}{trust_domain}/{path}").into();
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong {
                bytes: text.len(),
                limit: MAX_ID_BYTES,
            });
        }
        Ok(Self {
            trust_domain,
            path: format!("/{path}").into(),
            text,
        })
    }

    /// Returns the whole identity as URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the trust domain; whoever verifies this identity must do so with the roots of this one only.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.trust_domain.clone()
    }

    /// Returns the path with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the namespace, if the path has the form `/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.service_account_parts().map(|(namespace, _)| namespace)
    }

    /// Returns the service account, if the path has the form `/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        self.service_account_parts()
            .map(|(_, service_account)| service_account)
    }

    fn service_account_parts(&self) -> Option<(&str, &str)> {
        let (namespace, service_account) = self.path.strip_prefix("/ns/")?.split_once("/sa/")?;
        let whole = !namespace.contains('/') && !service_account.contains('/');
        whole.then_some((namespace, service_account))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| {
            serde::de::Error::custom(format_args!("{text:?} is no SPIFFE ID: {error}"))
        })
    }
}

/// The rule of SPIFFE-ID section 2 that a text breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Something else than `spiffe://` in front.
    #[error("does not begin with spiffe://")]
    Scheme,
    /// Nothing between `spiffe://` and the path.
    #[error("the trust domain is empty")]
    NoTrustDomain,
    /// A byte that a trust domain may not hold, such as `:` before a port or `@` after a user.
    #[error("{character:?} is not allowed in a trust domain (letters, digits, '.', '-', '_' are)")]
    TrustDomainCharacter {
        /// The first such character.
        character: char,
    },
    /// The name of a trust domain only.
    #[error("has no path, so it names a trust domain and no workload")]
    NoPath,
    /// `//` or a trailing `/`.
    #[error("a path segment is empty")]
    EmptySegment,
    /// `.` or `..`, which could be read as another path.
    #[error("{segment:?} is not allowed as a path segment")]
    DotSegment {
        /// The segment.
        segment: String,
    },
    /// A byte that a path may not hold: percent-encoding, queries and fragments included.
    #[error("{character:?} is not allowed in a path (letters, digits, '.', '-', '_' are)")]
    PathCharacter {
        /// The first such character.
        character: char,
    },
    /// Longer than every implementation must support.
    #[error("is {bytes} bytes long, more than {limit}")]
    TooLong {
        /// Length found.
        bytes: usize,
        /// Length allowed.
        limit: usize,
    },
}

/// "Path segments MUST NOT be empty ... MUST NOT be relative path modifiers (i.e. `.`, `..`)" (SPIFFE-ID section 2.2).
fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    if segment.is_empty() {
        return Err(SpiffeIdError::EmptySegment);
    }
    if segment == "." || segment == ".." {
        return Err(SpiffeIdError::DotSegment {
            segment: segment.to_owned(),
        });
    }
    match segment.chars().find(|&c| !is_segment_character(c)) {
        Some(character) => Err(SpiffeIdError::PathCharacter { character }),
        None => Ok(()),
    }
}

fn is_segment_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_')
}

const SCHEME: &str = "spiffe://";
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
const MAX_ID_BYTES: usize = 2048;

#[cfg(test)]
mod tests;
