//! Signs whatever header and payload, so that tokens can be wrong in every way.

use std::sync::LazyLock;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::URL_SAFE_NO_PAD;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use weft_policy::jwt::Algorithm;

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A private key.
pub(super) enum Signer {
    Rsa(&'static RsaKeyPair),
    P256(&'static EcdsaKeyPair),
    P384(&'static EcdsaKeyPair),
    Ed25519(&'static Ed25519KeyPair),
    Secret(Vec<u8>),
}

static RSA: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
static P256: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
static P384: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap());
static ED25519: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::generate().unwrap());
static STRANGER: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());

impl Signer {
    pub(super) fn rsa() -> Self {
        Self::Rsa(&RSA)
    }

    pub(super) fn p256() -> Self {
        Self::P256(&P256)
    }

    pub(super) fn p384() -> Self {
        Self::P384(&P384)
    }

    pub(super) fn ed25519() -> Self {
        Self::Ed25519(&ED25519)
    }

    /// A P-256 key that is in no key set.
    pub(super) fn stranger() -> Self {
        Self::P256(&STRANGER)
    }

    pub(super) fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Es256 => Self::p256(),
            Algorithm::Es384 => Self::p384(),
            Algorithm::EdDsa => Self::ed25519(),
            _ => Self::rsa(),
        }
    }

    /// The public half, named `kid`.
    pub(super) fn jwk(&self, kid: &str) -> String {
        let named = format!(r#""kid":"{kid}""#);
        let point = |key: &EcdsaKeyPair, crv| {
            let point = key.public_key().as_ref();
            let (x, y) = point[1..].split_at(point.len() / 2);
            let (x, y) = (base64(x), base64(y));
            format!(r#"{{"kty":"EC","crv":"{crv}","x":"{x}","y":"{y}",{named}}}"#)
        };
        match self {
            Self::Rsa(key) => {
                let public = key.public_key();
                let n = base64(public.modulus().big_endian_without_leading_zero());
                let e = base64(public.exponent().big_endian_without_leading_zero());
                format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}",{named}}}"#)
            }
            Self::P256(key) => point(key, "P-256"),
            Self::P384(key) => point(key, "P-384"),
            Self::Ed25519(key) => {
                let x = base64(key.public_key());
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}",{named}}}"#)
            }
            Self::Secret(secret) => format!(r#"{{"kty":"oct","k":"{}",{named}}}"#, base64(secret)),
        }
    }

    /// A key set of the public halves, named `0`, `1`, ...
    pub(super) fn jwks(signers: &[Self]) -> String {
        let keys = signers.iter().enumerate();
        let keys: Vec<String> = keys.map(|(at, key)| key.jwk(&at.to_string())).collect();
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    /// A token with only `alg` in its header.
    pub(super) fn token(&self, algorithm: &str, payload: &str) -> String {
        self.raw(
            &base64(format!(r#"{{"alg":"{algorithm}"}}"#)),
            &base64(payload),
            algorithm,
        )
    }

    /// A token with these words for header and payload, whatever they are.
    pub(super) fn raw(&self, header: &str, payload: &str, algorithm: &str) -> String {
        let signed = format!("{header}.{payload}");
        let signature = self.sign(signed.as_bytes(), algorithm);
        format!("{signed}.{}", base64(signature))
    }

    fn sign(&self, message: &[u8], algorithm: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let how: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(how, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) | Self::P384(key) => {
                key.sign(&random, message).unwrap().as_ref().to_vec()
            }
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Self::Secret(secret) => {
                let how = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(how, secret), message)
                    .as_ref()
                    .to_vec()
            }
        }
    }
}
