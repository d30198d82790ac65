//! One key that tokens are signed with (RFC 7517, RFC 7518 section 6, RFC 8037 section 2).
//!
//! The kind of the key decides which algorithms it is for; what a token says only chooses among these. So a public key is never
//! taken for a secret, whatever `alg` says.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use weft_policy::jwt::Algorithm;

/// A key and what it may be used with.
pub struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    material: Material,
}

enum Material {
    Rsa(PublicKeyComponents<Vec<u8>>),
    Public(ParsedPublicKey),
    Secret(Vec<u8>),
}

impl Key {
    /// Makes a key of a secret, for HMAC alone.
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self {
            kid: None,
            algorithms: vec![Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512],
            material: Material::Secret(secret.to_owned()),
        }
    }

    /// Makes a key of a public JWK; `None` where it is of a kind that signs no tokens here, a secret among them.
    pub(super) fn of_jwk(jwk: &Map<String, Value>) -> Option<Self> {
        if !is_for_signatures(jwk) {
            return None;
        }
        let (material, mut algorithms) = match text(jwk, "kty")? {
            "RSA" => (rsa(jwk)?, RSA.to_vec()),
            "EC" => elliptic(jwk)?,
            "OKP" => (edwards(jwk)?, vec![Algorithm::EdDsa]),
            _ => return None,
        };
        match jwk.get("alg") {
            None => {}
            Some(only) => algorithms.retain(|one| only.as_str() == Some(one.name())),
        }
        let kid = match jwk.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return None,
        };
        (!algorithms.is_empty()).then_some(Self {
            kid,
            algorithms,
            material,
        })
    }

    /// Its name, if it has one.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What it may be used with.
    #[must_use]
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    pub(super) fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        if !self.algorithms.contains(&algorithm) {
            return false;
        }
        match &self.material {
            Material::Rsa(key) => rsa_parameters(algorithm)
                .is_some_and(|how| key.verify(how, signed, signature).is_ok()),
            Material::Public(key) => key.verify_sig(signed, signature).is_ok(),
            Material::Secret(secret) => hmac_algorithm(algorithm).is_some_and(|how| {
                hmac::verify(&hmac::Key::new(how, secret), signed, signature).is_ok()
            }),
        }
    }
}

/// Never prints what a key is made of.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

/// RFC 7517 sections 4.2 and 4.3.
fn is_for_signatures(jwk: &Map<String, Value>) -> bool {
    let usage = jwk
        .get("use")
        .is_none_or(|usage| usage.as_str() == Some("sig"));
    let operations = jwk.get("key_ops").is_none_or(|operations| {
        operations
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one.as_str() == Some("verify")))
    });
    usage && operations
}

/// RFC 7518 section 6.3.1. "A key of size 2048 bits or larger MUST be used with these algorithms" (sections 3.3 and 3.5).
fn rsa(jwk: &Map<String, Value>) -> Option<Material> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    let significant = n.iter().position(|byte| *byte != 0)?;
    let n = n.get(significant..)?.to_vec();
    if !RSA_BYTES.contains(&n.len()) {
        return None;
    }
    let key = PublicKeyComponents { n, e };
    // Refuses what is no RSA key, such as an even exponent.
    key.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
        .ok()
        .map(|_usable| Material::Rsa(key))
}

/// RFC 7518 section 6.2.1: coordinates have the full size of the field.
fn elliptic(jwk: &Map<String, Value>) -> Option<(Material, Vec<Algorithm>)> {
    let (algorithm, how, size): (_, &'static dyn VerificationAlgorithm, _) = match text(jwk, "crv")?
    {
        "P-256" => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48),
        _ => return None,
    };
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != size || y.len() != size {
        return None;
    }
    let point = [&[UNCOMPRESSED], x.as_slice(), y.as_slice()].concat();
    let key = ParsedPublicKey::new(how, point).ok()?;
    Some((Material::Public(key), vec![algorithm]))
}

/// RFC 8037 section 2.
fn edwards(jwk: &Map<String, Value>) -> Option<Material> {
    if text(jwk, "crv")? != "Ed25519" {
        return None;
    }
    let x = bytes(jwk, "x").filter(|x| x.len() == 32)?;
    ParsedPublicKey::new(&ED25519, x).ok().map(Material::Public)
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    jwk.get(name)?.as_str()
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text(jwk, name)?).ok()
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256
        | Algorithm::Es384
        | Algorithm::EdDsa
        | Algorithm::Hs256
        | Algorithm::Hs384
        | Algorithm::Hs512 => return None,
    })
}

fn hmac_algorithm(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::Hs256 => Some(hmac::HMAC_SHA256),
        Algorithm::Hs384 => Some(hmac::HMAC_SHA384),
        Algorithm::Hs512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

const RSA: [Algorithm; 6] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
];
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// SEC 1 section 2.3.3.
const UNCOMPRESSED: u8 = 4;
