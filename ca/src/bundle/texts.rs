//! The roots as others read them: PEM, and SPIFFE's trust bundle, a JWK set (SPIFFE Trust Domain and Bundle, section 4).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use weft_certs::bundle::Bundle;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Both forms of the same roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) pem: String,
    pub(crate) json: String,
}

impl Texts {
    /// Writes `bundle`; `sequence` counts its changes, if they are counted.
    pub(crate) fn of(bundle: &Bundle, sequence: Option<u64>) -> Self {
        let keys: Vec<Value> = bundle.roots().iter().filter_map(key).collect();
        let mut document = json!({"keys": keys, "spiffe_refresh_hint": REFRESH_SECONDS});
        if let (Some(sequence), Some(document)) = (sequence, document.as_object_mut()) {
            document.insert("spiffe_sequence".to_owned(), sequence.into());
        }
        Self {
            pem: bundle.to_pem(),
            json: document.to_string(),
        }
    }

    /// Whether these say the same; how it is written does not matter, so that replicas of two versions do not fight.
    pub(crate) fn are(&self, pem: &str, json: &str) -> bool {
        let roots = |pem: &str| Bundle::from_pem(pem).ok();
        let value = |json: &str| serde_json::from_str::<Value>(json).ok();
        let same_pem = self.pem == pem || roots(&self.pem) == roots(pem);
        same_pem && (self.json == json || value(&self.json) == value(json))
    }
}

/// A root as JWK: "use" MUST be `x509-svid`, `kid` MUST NOT be there, `x5c` has the one certificate (X509-SVID section 6.2).
fn key(root: &CertificateDer<'static>) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(root).ok()?;
    let mut key = public_part(&certificate)?;
    key.insert("use".to_owned(), "x509-svid".into());
    key.insert("x5c".to_owned(), json!([STANDARD.encode(root)]));
    Some(Value::Object(key))
}

/// RFC 7518 section 6, RFC 8037 section 2.
fn public_part(certificate: &X509Certificate<'_>) -> Option<Map<String, Value>> {
    let info = certificate.public_key();
    let part = match info.parsed().ok()? {
        PublicKey::EC(point) => {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let curve = match curve.to_id_string().as_str() {
                "1.2.840.10045.3.1.7" => "P-256",
                "1.3.132.0.34" => "P-384",
                "1.3.132.0.35" => "P-521",
                _ => return None,
            };
            // SEC 1 section 2.3.3: 4 for "not compressed", then both coordinates.
            let both = point.data().strip_prefix(&[4])?;
            let (x, y) = both.split_at_checked(both.len() / 2)?;
            json!({"kty": "EC", "crv": curve, "x": url(x), "y": url(y)})
        }
        PublicKey::RSA(key) => {
            let plain = |number: &[u8]| url(number.strip_prefix(&[0]).unwrap_or(number));
            json!({"kty": "RSA", "n": plain(key.modulus), "e": plain(key.exponent)})
        }
        PublicKey::Unknown(bytes) if info.algorithm.algorithm.to_id_string() == ED25519 => {
            json!({"kty": "OKP", "crv": "Ed25519", "x": url(bytes)})
        }
        _ => return None,
    };
    match part {
        Value::Object(part) => Some(part),
        _ => None,
    }
}

fn url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

const ED25519: &str = "1.3.101.112";
const REFRESH_SECONDS: u32 = 300;

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use weft_policy::spiffe::TrustDomain;

    use super::*;
    use crate::issuer::Issuer;

    fn document(bundle: &Bundle, sequence: Option<u64>) -> Value {
        serde_json::from_str(&Texts::of(bundle, sequence).json).unwrap()
    }

    #[test]
    fn the_bundle_has_the_form_of_spiffe() {
        let issuer = Issuer::generate(&TrustDomain::parse("cluster.local").unwrap()).unwrap();
        let document = document(issuer.bundle(), Some(7));
        assert_eq!(document["spiffe_sequence"], 7);
        let key = &document["keys"][0];
        assert_eq!(
            (&key["use"], &key["kty"], &key["crv"]),
            (&json!("x509-svid"), &json!("EC"), &json!("P-256"))
        );
        assert!(key.get("kid").is_none());
        let root = STANDARD.decode(key["x5c"][0].as_str().unwrap()).unwrap();
        assert_eq!(root, issuer.bundle().roots()[0].as_ref());
        let point: Vec<u8> = ["x", "y"]
            .iter()
            .flat_map(|name| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap())
            .collect();
        let key = issuer.signer().key();
        assert_eq!(&rcgen::PublicKeyData::der_bytes(key)[1..], point);
    }

    #[test]
    fn every_kind_of_key_that_a_root_may_have_is_written() {
        let kinds = [
            (&rcgen::PKCS_ECDSA_P384_SHA384, "EC", "P-384"),
            (&rcgen::PKCS_ED25519, "OKP", "Ed25519"),
        ];
        for (kind, kty, curve) in kinds {
            let key = KeyPair::generate_for(kind).unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = params.self_signed(&key).unwrap().der().clone();
            let document = document(&Bundle::new(vec![root]).unwrap(), None);
            let key = &document["keys"][0];
            assert_eq!((&key["kty"], &key["crv"]), (&json!(kty), &json!(curve)));
            assert!(document.get("spiffe_sequence").is_none());
        }
    }

    #[test]
    fn how_it_is_written_makes_no_difference() {
        let issuer = Issuer::generate(&TrustDomain::parse("cluster.local").unwrap()).unwrap();
        let texts = Texts::of(issuer.bundle(), Some(1));
        let value: Value = serde_json::from_str(&texts.json).unwrap();
        let json = serde_json::to_string_pretty(&value).unwrap();
        assert!(texts.are(&format!("\n{}", texts.pem), &json));
        assert!(!texts.are("", &json));
        assert!(!texts.are(&texts.pem, "{}"));
        let other = Texts::of(issuer.bundle(), Some(2));
        assert!(!texts.are(&other.pem, &other.json));
    }
}
