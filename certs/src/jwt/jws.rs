//! The form of a token: JWS compact serialisation (RFC 7515 section 7.1), nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use weft_policy::jwt::Algorithm;

use super::error::JwtError;
use super::json;
use super::key::Key;

/// A token in its parts; nothing of it is to be believed before a key has verified it.
#[derive(Debug)]
pub struct Jws<'a> {
    /// What it says of itself.
    pub header: Header,
    payload: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

/// The parts of a JOSE header that choose a key (RFC 7515 section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`.
    pub kid: Option<String>,
}

impl<'a> Jws<'a> {
    /// Takes a token apart. The JSON serialisations (RFC 7515 section 7.2), with their several signatures, and encrypted tokens are none.
    ///
    /// # Errors
    /// [`JwtError::TooLarge`], [`JwtError::Malformed`], [`JwtError::Critical`], [`JwtError::Type`], [`JwtError::Algorithm`].
    pub fn parse(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        let header = header_of(&json::object(&decode(header)?).or(Err(JwtError::Malformed))?)?;
        Ok(Self {
            header,
            payload: decode(payload)?,
            signed,
            signature: decode(signature)?,
        })
    }

    /// Whether `key`, which must be one for the token's algorithm, has made the signature.
    #[must_use]
    pub fn is_signed_by(&self, key: &Key) -> bool {
        key.verifies(
            self.header.algorithm,
            self.signed.as_bytes(),
            &self.signature,
        )
    }

    /// The signed bytes. Before the signature is verified they are good for one thing: to see whose keys to ask.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// RFC 7515 section 2: "Base64 encoding using the URL- and filename-safe character set ... with all trailing '=' characters omitted
/// ... and without the inclusion of any line breaks, whitespace, or other additional characters". The last bits must be zero, so that
/// one token has one spelling.
fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(part).or(Err(JwtError::Malformed))
}

fn header_of(header: &Map<String, Value>) -> Result<Header, JwtError> {
    if header.contains_key("crit") {
        return Err(JwtError::Critical);
    }
    // What is encrypted or compressed is no JWS.
    if header.contains_key("enc") || header.contains_key("zip") {
        return Err(JwtError::Malformed);
    }
    let Some(Value::String(algorithm)) = header.get("alg") else {
        return Err(JwtError::Malformed);
    };
    let algorithm = Algorithm::of_name(algorithm).ok_or(JwtError::Algorithm)?;
    match text(header, "typ")? {
        Some(kind) if !is_for_access(kind) => return Err(JwtError::Type),
        Some(_) | None => {}
    }
    Ok(Header {
        algorithm,
        kid: text(header, "kid")?.map(str::to_owned),
    })
}

fn text<'a>(header: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, JwtError> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(JwtError::Malformed),
    }
}

/// Explicit typing (RFC 8725 section 3.11): of the `+jwt` types only `at+jwt` (RFC 9068) is for access; a logout token or a security
/// event of the same issuer is not.
fn is_for_access(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    let kind = kind.strip_prefix("application/").unwrap_or(&kind);
    kind == "at+jwt" || !kind.ends_with("+jwt")
}

/// Larger tokens do not fit into the headers that most servers take.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
