//! `jwt`: whose tokens are taken, and what becomes of their claims.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use crate::balance::is_token;
use crate::headers::header_name;
use crate::matcher::{self, PathPattern};
use crate::node::{Kind, Node};
use crate::own::url;
use crate::read::{At, Part, not_one_of};
use crate::units;

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

impl JwtRule {
    /// Reads `jwt`: an issuer or a list of them.
    pub(crate) fn read_list(at: &At<'_>) -> Vec<Self> {
        let rules: Vec<Self> = at
            .nodes(MAX_ISSUERS)
            .iter()
            .filter_map(Self::read)
            .collect();
        for (index, rule) in rules.iter().enumerate() {
            if rules
                .iter()
                .take(index)
                .any(|other| other.issuer == rule.issuer)
            {
                at.complain(format!("has the issuer {:?} twice", rule.issuer));
            }
        }
        rules
    }

    fn read(at: &At<'_>) -> Option<Self> {
        let fields = at.fields(&[
            "issuer",
            "audiences",
            "jwks",
            "required",
            "exempt",
            "paths",
            "algorithms",
            "claims-to-headers",
            "clock-skew",
            "from",
            "forward",
        ]);
        let issuer = fields.need("issuer").and_then(|at| at.text());
        let keys = fields
            .get("jwks")
            .map_or(Some(KeySource::Discovery), |at| KeySource::read(&at));
        let text = |text: &str| Ok::<_, String>(text.to_owned());
        let algorithms = fields.get("algorithms");
        let algorithms = algorithms
            .as_ref()
            .map(|at| (at, at.some(16, Algorithm::parse)));
        // Another layer may say where the keys are.
        let is_known = fields.has("jwks") || at.cx.part == Part::Whole;
        let rule = Self {
            issuer: issuer.unwrap_or_default().to_owned(),
            audiences: fields
                .get("audiences")
                .map(|at| at.some(MAX_NAMES, text))
                .unwrap_or_default(),
            required: fields
                .get("required")
                .and_then(|at| at.boolean())
                .unwrap_or(true),
            exempt: fields
                .get("exempt")
                .map(|at| matcher::paths(&at))
                .unwrap_or_default(),
            paths: fields
                .get("paths")
                .map(|at| matcher::paths(&at))
                .unwrap_or_default(),
            algorithms: Self::algorithms(algorithms, keys.as_ref().filter(|_| is_known)),
            claims_to_headers: fields
                .get("claims-to-headers")
                .map(|at| claims(&at))
                .unwrap_or_default(),
            clock_skew: fields
                .get("clock-skew")
                .and_then(|at| skew(&at))
                .unwrap_or(DEFAULT_SKEW),
            from: fields.get("from").map_or_else(
                || vec![TokenSource::Header(http::header::AUTHORIZATION)],
                |at| at.some(8, TokenSource::parse),
            ),
            forward: fields
                .get("forward")
                .and_then(|at| at.boolean())
                .unwrap_or(true),
            keys: keys?,
        };
        issuer.is_some().then_some(rule)
    }

    /// A key set is public, so whoever has it could sign with an algorithm for secrets; and the other way round there is no key.
    fn algorithms(
        written: Option<(&At<'_>, Vec<Algorithm>)>,
        keys: Option<&KeySource>,
    ) -> Vec<Algorithm> {
        let secret = matches!(keys, Some(KeySource::Secret(_) | KeySource::SecretFile(_)));
        let fits = |algorithm: &Algorithm| algorithm.is_symmetric() == secret;
        let Some((at, algorithms)) = written else {
            return Algorithm::ALL.into_iter().filter(fits).collect();
        };
        if keys.is_some() && !algorithms.iter().all(fits) {
            at.complain(match secret {
                true => "has an algorithm for key pairs, but jwks is a secret; write HS256, HS384 or HS512",
                false => "has an algorithm for a secret (HS256, HS384, HS512), but jwks is no secret",
            });
        }
        algorithms
    }
}

fn claims(at: &At<'_>) -> Vec<(String, HeaderName)> {
    let entries = at.entries(MAX_NAMES).into_iter();
    let read = |(claim, at): (&str, At<'_>)| Some((claim.to_owned(), at.parse(header_name)?));
    entries.filter_map(read).collect()
}

fn skew(at: &At<'_>) -> Option<Duration> {
    let skew = at.parse(units::parse_duration)?;
    if skew > MAX_SKEW {
        at.refuse("is longer than 10m");
    }
    Some(skew)
}

impl KeySource {
    fn read(at: &At<'_>) -> Option<Self> {
        let Kind::Map(entries) = &at.node.kind else {
            return at.parse(Self::parse);
        };
        if entries.iter().any(|(key, _)| key == "keys") {
            return Some(Self::Inline(json(at.node)));
        }
        let fields = at.fields(&["secret", "secret-file", "keys"]);
        match (fields.get("secret"), fields.get("secret-file")) {
            (Some(at), None) => secret(&at),
            (None, Some(at)) => at.parse(|path| path_of(path).map(Self::SecretFile)),
            _ => {
                at.complain("needs one of the keys keys, secret, secret-file");
                None
            }
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text
            .strip_prefix("file:")
            .or(text.starts_with('/').then_some(text))
        {
            Some(path) => path_of(path).map(Self::File),
            None => url(text).map(Self::Url),
        }
    }
}

fn path_of(text: &str) -> Result<PathBuf, String> {
    match text.starts_with('/') {
        true => Ok(text.into()),
        false => Err("is no absolute path".to_owned()),
    }
}

fn secret(at: &At<'_>) -> Option<KeySource> {
    let secret = at.text()?;
    // "A key of the same size as the hash output or larger MUST be used" (RFC 7518 section 3.2).
    if secret.len() < MIN_SECRET_BYTES {
        at.complain(format!("is shorter than {MIN_SECRET_BYTES} bytes"));
    }
    Some(KeySource::Secret(secret.as_bytes().to_owned()))
}

/// As JSON; what YAML and JSON both call true, false and null is that.
fn json(node: &Node) -> String {
    match &node.kind {
        Kind::Null => "null".to_owned(),
        Kind::Text(text) if matches!(text.as_str(), "true" | "false") => text.clone(),
        Kind::Text(text) => quoted(text),
        Kind::List(items) => {
            let items: Vec<String> = items.iter().map(json).collect();
            format!("[{}]", items.join(","))
        }
        Kind::Map(entries) => {
            let entry = |(key, node): &(String, Node)| format!("{}:{}", quoted(key), json(node));
            let entries: Vec<String> = entries.iter().map(entry).collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}

/// Text as a JSON string (RFC 8259 section 7).
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // Control characters do not come through a document.
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

impl Algorithm {
    fn parse(text: &str) -> Result<Self, String> {
        let names = Self::ALL.into_iter().map(Self::name);
        Self::of_name(text).ok_or_else(|| not_one_of(text, names))
    }
}

impl TokenSource {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "header" {
            return Ok(Self::Header(http::header::AUTHORIZATION));
        }
        if let Some(name) = text.strip_prefix("header:") {
            return header_name(name).map(Self::Header);
        }
        if let Some(name) = text.strip_prefix("query:").filter(|name| !name.is_empty()) {
            return Ok(Self::Query(name.to_owned()));
        }
        if let Some(name) = text.strip_prefix("cookie:").filter(|name| is_token(name)) {
            return Ok(Self::Cookie(name.to_owned()));
        }
        Err(not_one_of(
            text,
            ["header", "header:<name>", "query:<name>", "cookie:<name>"].into_iter(),
        ))
    }
}

/// How far the issuer's clock may be off unless written.
pub const DEFAULT_SKEW: Duration = Duration::from_secs(60);
const MAX_SKEW: Duration = Duration::from_secs(600);
const MIN_SECRET_BYTES: usize = 32;
const MAX_ISSUERS: usize = 16;
const MAX_NAMES: usize = 64;
