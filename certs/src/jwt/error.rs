//! Why a token is refused, and why keys cannot be used.

/// Why a token is refused. Each has a label that operators and clients may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.message())]
pub enum JwtError {
    /// Longer than [`super::jws::MAX_TOKEN_BYTES`].
    TooLarge,
    /// Not three parts of base64url, or not JSON objects with each member once.
    Malformed,
    /// "If any of the listed extension Header Parameters are not understood ... the JWS is invalid" (RFC 7515 section 4.1.11).
    Critical,
    /// A token for another purpose than access (RFC 8725 section 3.11).
    Type,
    /// `none`, one that is not known or not taken, or not one of the key's.
    Algorithm,
    /// Of nobody whose tokens are taken.
    Issuer,
    /// No key of that name.
    Key,
    /// Not made by the key.
    Signature,
    /// A claim that is needed is not there, or one is of another type than RFC 7519 section 4.1 says.
    Claims,
    /// Meant for somebody else.
    Audience,
    /// `exp` has passed.
    Expired,
    /// `nbf` or `iat` is still to come.
    NotYet,
}

impl JwtError {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::TooLarge,
        Self::Malformed,
        Self::Critical,
        Self::Type,
        Self::Algorithm,
        Self::Issuer,
        Self::Key,
        Self::Signature,
        Self::Claims,
        Self::Audience,
        Self::Expired,
        Self::NotYet,
    ];

    /// Metric label and value of `x-weft-reject`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "jwt_too_large",
            Self::Malformed => "jwt_malformed",
            Self::Critical => "jwt_critical",
            Self::Type => "jwt_type",
            Self::Algorithm => "jwt_algorithm",
            Self::Issuer => "jwt_issuer",
            Self::Key => "jwt_key",
            Self::Signature => "jwt_signature",
            Self::Claims => "jwt_claims",
            Self::Audience => "jwt_audience",
            Self::Expired => "jwt_expired",
            Self::NotYet => "jwt_not_yet",
        }
    }

    /// What is wrong, as a sentence without its full stop.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::TooLarge => "the token is too large",
            Self::Malformed => "the token is malformed",
            Self::Critical => "the token has critical header parameters",
            Self::Type => "the token is of a type that is not for access",
            Self::Algorithm => "the token's algorithm is not taken",
            Self::Issuer => "the token's issuer is not known here",
            Self::Key => "the token's key is not known",
            Self::Signature => "the token's signature is wrong",
            Self::Claims => "the token's claims cannot be read",
            Self::Audience => "the token is for another audience",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
        }
    }
}

/// Why a text is no key set that can be used.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Not a JSON object with `keys`, or with a member twice.
    #[error("the key set is broken")]
    Format(#[from] serde_json::Error),
    /// No public signature key of a kind we know among them.
    #[error("the key set has no key that signs tokens")]
    NoneUsable,
    /// A secret without a byte.
    #[error("the secret is empty")]
    NoSecret,
}
