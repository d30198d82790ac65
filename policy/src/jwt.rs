//! `jwt`: whose tokens are taken, and what becomes of their claims.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use crate::matcher::PathPattern;

/// Tokens of one issuer.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// The `iss` that a token must name; its keys verify no other issuer's tokens.
    pub issuer: String,
    /// One of these must be in `aud`; empty asks for none.
    pub audiences: Vec<String>,
    /// Where the keys are.
    pub keys: KeySource,
    /// Whether a request without a token is refused.
    pub required: bool,
    /// Paths on which no token is asked for; one that is sent is verified all the same.
    pub exempt: Vec<PathPattern>,
    /// Paths on which a token is asked for; empty is all.
    pub paths: Vec<PathPattern>,
    /// Signature algorithms that are taken.
    pub algorithms: Vec<Algorithm>,
    /// Claim (dotted path) to request header, for the app.
    pub claims_to_headers: Vec<(String, HeaderName)>,
    /// How far the issuer's clock may be off.
    pub clock_skew: Duration,
    /// Where the token is looked for, in this order.
    pub from: Vec<TokenSource>,
    /// Whether the app sees the token.
    pub forward: bool,
}

/// Where an issuer's keys come from.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `jwks: https://...`: a JWK set (RFC 7517) behind a URL.
    Url(String),
    /// `jwks: {keys: [...]}`: the JWK set itself, as JSON.
    Inline(String),
    /// `jwks: /path` or `file:/path`: the JWK set in a file, watched.
    File(PathBuf),
    /// Not written: `jwks_uri` of the issuer's `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0 section 4).
    Discovery,
    /// `jwks: {secret: ...}`: a shared secret for HS256, HS384, HS512.
    Secret(Vec<u8>),
    /// `jwks: {secret-file: /path}`: the same in a file, watched.
    SecretFile(PathBuf),
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
            Self::Inline(_) => f.write_str("Inline"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Discovery => f.write_str("Discovery"),
            Self::Secret(_) => f.write_str("Secret"),
            Self::SecretFile(path) => f.debug_tuple("SecretFile").field(path).finish(),
        }
    }
}

/// Signature algorithms (RFC 7518 section 3.1, RFC 8037 section 3.1). `none` is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// ECDSA with P-384 and SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
}

impl Algorithm {
    /// All of them, in the order of RFC 7518.
    pub const ALL: [Self; 12] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::EdDsa,
    ];

    /// The value of `alg` that names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm that `alg` names; names are case-sensitive (RFC 7515 section 4.1.1).
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Whether it needs a secret that both sides know.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

/// Where a token may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// `header` is `authorization` with `Bearer ` (RFC 6750 section 2.1), `header:<name>` another one, with or without it.
    Header(HeaderName),
    /// `query:<name>`.
    Query(String),
    /// `cookie:<name>`.
    Cookie(String),
}
