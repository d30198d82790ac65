//! Tokens of the standards, and tokens that somebody would like to be taken for one.

use std::time::{Duration, SystemTime};

use weft_policy::jwt::Algorithm;

use self::signer::{Signer, base64};
use super::claims::{Claims, Expect};
use super::error::JwtError;
use super::jws::Jws;
use super::keyset::KeySet;

mod hostile;
mod signer;
mod vectors;

const ISSUER: &str = "https://issuer.test";
const SKEW: Duration = Duration::from_secs(60);
/// What the clock says in these tests, in Unix seconds.
const NOW: u64 = 1_800_000_000;

/// What the proxy does with a token of one issuer: form, algorithm, signature, contents.
fn judge(
    token: &str,
    keys: &KeySet,
    taken: &[Algorithm],
    audiences: &[String],
) -> Result<Claims, JwtError> {
    let jws = Jws::parse(token)?;
    if !taken.contains(&jws.header.algorithm) {
        return Err(JwtError::Algorithm);
    }
    keys.verify(&jws)?;
    let claims = Claims::of(jws.payload())?;
    let expect = Expect {
        issuer: ISSUER,
        audiences,
        skew: SKEW,
    };
    claims.check(&expect, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))?;
    Ok(claims)
}

fn asymmetric() -> Vec<Algorithm> {
    let all = Algorithm::ALL.into_iter();
    all.filter(|one| !one.is_symmetric()).collect()
}

fn payload() -> String {
    format!(
        r#"{{"iss":"{ISSUER}","aud":"orders","sub":"ann","exp":{}}}"#,
        NOW + 300
    )
}

#[test]
fn every_algorithm_verifies_its_own_signatures_and_no_others() {
    let keys = KeySet::parse(&Signer::jwks(&[
        Signer::rsa(),
        Signer::p256(),
        Signer::p384(),
        Signer::ed25519(),
    ]))
    .unwrap();
    for algorithm in asymmetric() {
        let token = Signer::of(algorithm).token(algorithm.name(), &payload());
        let judged = judge(&token, &keys, &[algorithm], &["orders".to_owned()]);
        assert!(judged.is_ok(), "{algorithm:?}: {judged:?}");
        let others: Vec<Algorithm> = asymmetric()
            .into_iter()
            .filter(|other| *other != algorithm)
            .collect();
        let judged = judge(&token, &keys, &others, &[]);
        assert_eq!(judged, Err(JwtError::Algorithm), "{algorithm:?}");
        // The same signature under the name of another algorithm.
        for other in others {
            let header = base64(format!(r#"{{"alg":"{}"}}"#, other.name()));
            let (_, rest) = token.split_once('.').unwrap();
            let judged = judge(&format!("{header}.{rest}"), &keys, &asymmetric(), &[]);
            assert_eq!(
                judged,
                Err(JwtError::Signature),
                "{algorithm:?} as {other:?}"
            );
        }
    }
}

#[test]
fn a_secret_verifies_hmac_and_nothing_else() {
    let secret = b"a secret of thirty-two bytes ....";
    let keys = KeySet::of_secret(secret).unwrap();
    for name in ["HS256", "HS384", "HS512"] {
        let token = Signer::Secret(secret.to_vec()).token(name, &payload());
        assert!(judge(&token, &keys, &Algorithm::ALL, &[]).is_ok(), "{name}");
        let other = KeySet::of_secret(b"another").unwrap();
        let judged = judge(&token, &other, &Algorithm::ALL, &[]);
        assert_eq!(judged, Err(JwtError::Signature), "{name}");
    }
    let signed = Signer::p256().token("ES256", &payload());
    let judged = judge(&signed, &keys, &Algorithm::ALL, &[]);
    assert_eq!(judged, Err(JwtError::Algorithm));
    assert!(KeySet::of_secret(b"").is_err());
}

#[test]
fn keys_that_sign_no_tokens_are_left_out() {
    let jwk = Signer::p256().jwk("1");
    let with = |change: &str| jwk.replacen('{', &format!("{{{change},"), 1);
    let small = r#"{"kty":"RSA","e":"AQAB","n":"sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1WlUzewbgBHod5pcM9H95GQRV3JDXboIRROSBigeC5yjU1hGzHHyXss8UDprecbAYxknTcQkhslANGRUZmdTOQ5qTRsLAt6BTYuyvVRdhS8exSZEy_c4"}"#.to_owned();
    let rows = [
        ("for encryption", with(r#""use":"enc""#)),
        ("use is no text", with(r#""use":["sig"]"#)),
        ("does not verify", with(r#""key_ops":["sign"]"#)),
        ("of another algorithm", with(r#""alg":"ES384""#)),
        ("of an unknown algorithm", with(r#""alg":"none""#)),
        ("alg is no text", with(r#""alg":1"#)),
        ("a secret", r#"{"kty":"oct","k":"AAAA"}"#.to_owned()),
        (
            "a secret said to be for HS256",
            r#"{"kty":"oct","k":"AAAA","alg":"HS256"}"#.to_owned(),
        ),
        ("another curve", jwk.replace("P-256", "P-521")),
        ("secp256k1", jwk.replace("P-256", "secp256k1")),
        (
            "not on the curve",
            r#"{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}"#.to_owned(),
        ),
        (
            "a short coordinate",
            r#"{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}"#.to_owned(),
        ),
        ("a short RSA key", small),
        ("an RSA key without e", r#"{"kty":"RSA","n":"AAAA"}"#.to_owned()),
        ("X25519", r#"{"kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#.to_owned()),
        ("no kind", r#"{"kid":"1"}"#.to_owned()),
    ];
    for (name, jwk) in rows {
        let parsed = KeySet::parse(&format!(r#"{{"keys":[{jwk}]}}"#));
        assert!(parsed.is_err(), "{name}: {parsed:?}");
    }
    let used = with(r#""use":"sig","key_ops":["verify"],"alg":"ES256","x5c":[]"#);
    assert!(KeySet::parse(&format!(r#"{{"keys":[{{"kty":"x"}},{used}]}}"#)).is_ok());
}

#[test]
fn a_key_set_with_two_readings_is_refused() {
    let jwk = Signer::p256().jwk("1");
    for broken in [
        String::new(),
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"keys":{}}"#.to_owned(),
        format!(r#"{{"keys":[{jwk}],"keys":[]}}"#),
        format!(r#"{{"keys":[{jwk}]}} x"#),
        format!(
            r#"{{"keys":[{}]}}"#,
            jwk.replacen('{', r#"{"kty":"RSA","#, 1)
        ),
    ] {
        assert!(KeySet::parse(&broken).is_err(), "{broken}");
    }
}

#[test]
fn a_claim_is_found_by_its_name_or_its_path() {
    let text = r#"{"a":{"b":{"c":1}},"a.b":"whole","https://x.test/role":"r","n":null}"#;
    let claims = Claims::of(text.as_bytes()).unwrap();
    assert_eq!(claims.get("a.b").unwrap(), "whole");
    assert_eq!(claims.get("a.b.c").unwrap(), 1);
    assert_eq!(claims.get("https://x.test/role").unwrap(), "r");
    for absent in ["a.x", "a.b.c.d", "", "."] {
        assert_eq!(claims.get(absent), None, "{absent}");
    }
}

#[test]
fn labels_are_told_apart() {
    let labels: std::collections::HashSet<_> =
        JwtError::ALL.into_iter().map(JwtError::label).collect();
    assert_eq!(labels.len(), JwtError::ALL.len());
}

proptest::proptest! {
    #[test]
    fn no_text_is_taken_for_a_token(text in "\\PC{0,80}") {
        let keys = KeySet::parse(&Signer::jwks(&[Signer::ed25519()])).unwrap();
        proptest::prop_assert!(judge(&text, &keys, &Algorithm::ALL, &[]).is_err());
    }

    #[test]
    fn a_changed_byte_breaks_a_token(place in 0_usize..400, byte in 0x21_u8..0x7f) {
        let keys = KeySet::parse(&Signer::jwks(&[Signer::ed25519()])).unwrap();
        let token = Signer::ed25519().token("EdDSA", &payload());
        let mut changed = token.clone().into_bytes();
        let place = place % changed.len();
        changed[place] = byte;
        let changed = String::from_utf8(changed).unwrap();
        proptest::prop_assume!(changed != token);
        proptest::prop_assert!(judge(&changed, &keys, &Algorithm::ALL, &[]).is_err());
    }
}
