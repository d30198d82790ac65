//! JSON Web Tokens: whatever comes, only what was signed is verified, and of what was signed only what is in time and of the issuer is
//! taken.
//!
//! The input is a token, or a key set, or, if it is an object of JSON, the claims of a token that we sign.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use weft_certs::jwt::claims::{Claims, Expect};
use weft_certs::jwt::jws::Jws;
use weft_certs::jwt::keyset::KeySet;
use weft_ca::token::mint::TokenIssuer;

static ISSUER: LazyLock<(TokenIssuer, KeySet)> = LazyLock::new(|| {
    let issuer = TokenIssuer::generate("weft").expect("there is randomness");
    let keys = issuer.key_set().expect("a key can be written");
    (issuer, KeySet::parse(&keys).expect("our own keys are good"))
});

/// A moment in 2027.
const NOW: Duration = Duration::from_secs(1_800_000_000);

fn check(token: &str) -> Option<Claims> {
    let jws = Jws::parse(token).ok()?;
    ISSUER.1.verify(&jws).ok()?;
    let claims = Claims::of(jws.payload()).ok()?;
    let expect = Expect {
        issuer: "weft",
        audiences: &["orders".to_owned()],
        skew: Duration::ZERO,
    };
    let until = claims.check(&expect, SystemTime::UNIX_EPOCH + NOW).ok()?;
    assert!(until > SystemTime::UNIX_EPOCH + NOW, "it has ended");
    Some(claims)
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _any_key_set = KeySet::parse(text);
    let Ok(claims @ Value::Object(_)) = serde_json::from_str::<Value>(text) else {
        assert_eq!(check(text), None, "not signed by anybody");
        return;
    };
    let Ok(token) = ISSUER.0.sign(&claims) else {
        return;
    };
    if check(&token).is_some() {
        assert_eq!(claims.get("iss").and_then(Value::as_str), Some("weft"));
        let expires = claims.get("exp").and_then(Value::as_f64);
        assert!(expires.is_some_and(|at| at > NOW.as_secs_f64()));
    }
});
