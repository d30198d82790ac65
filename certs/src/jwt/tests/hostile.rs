//! Tokens that must be refused, each with the label it is refused with.

use super::*;

/// What is wrong, and the label.
type Row = (&'static str, String, &'static str);

fn keys() -> String {
    Signer::jwks(&[
        Signer::p256(),
        Signer::rsa(),
        Signer::ed25519(),
        Signer::p384(),
    ])
}

fn claims(rest: &str) -> String {
    format!(r#"{{"iss":"{ISSUER}","aud":"orders"{rest}}}"#)
}

/// Signed as it should be, with this header and payload.
fn signed(header: &str, payload: &str) -> String {
    Signer::p256().raw(&base64(header), &base64(payload), "ES256")
}

/// A good header, and this payload.
fn says(payload: &str) -> String {
    signed(r#"{"alg":"ES256","kid":"0"}"#, payload)
}

/// This header, and a good payload.
fn header(header: &str) -> String {
    signed(header, &payload())
}

#[rustfmt::skip]
fn forms() -> Vec<Row> {
    let good = says(&payload());
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    // 64 bytes leave four bits of the last letter unused.
    let loose = |text: &str| {
        let last = text.chars().next_back().unwrap();
        let next = char::from(u8::try_from(last).unwrap() + 1);
        format!("{}{next}", &text[..text.len() - 1])
    };
    vec![
        ("nothing", String::new(), "jwt_malformed"),
        ("a word", "token".to_owned(), "jwt_malformed"),
        ("dots", "..".to_owned(), "jwt_malformed"),
        ("two parts", format!("{head}.{body}"), "jwt_malformed"),
        ("four parts", format!("{good}.{signature}"), "jwt_malformed"),
        ("a dot in front", format!(".{good}"), "jwt_malformed"),
        ("a dot behind", format!("{good}."), "jwt_malformed"),
        ("a space in front", format!(" {good}"), "jwt_malformed"),
        ("a line break behind", format!("{good}\n"), "jwt_malformed"),
        ("a line break inside", format!("{head}.\r\n{body}.{signature}"), "jwt_malformed"),
        ("padded header", format!("{head}=.{body}.{signature}"), "jwt_malformed"),
        ("padded signature", format!("{good}=="), "jwt_malformed"),
        ("loose last bits", format!("{head}.{body}.{}", loose(signature)), "jwt_malformed"),
        ("the other base64", format!("{head}.{body}.{}", "+/".repeat(43)), "jwt_malformed"),
        ("percent-encoded dots", good.replace('.', "%2E"), "jwt_malformed"),
        ("a NUL", format!("{good}\0"), "jwt_malformed"),
        ("letters of another script", format!("{head}.{body}.аbc"), "jwt_malformed"),
        ("too large", format!("{good}{}", "A".repeat(16 * 1024)), "jwt_too_large"),
        ("no signature", format!("{head}.{body}."), "jwt_signature"),
        ("no header", format!(".{body}.{signature}"), "jwt_malformed"),
        ("no payload", format!("{head}..{signature}"), "jwt_signature"),
        ("half a signature", format!("{head}.{body}.{}", &signature[..44]), "jwt_signature"),
        ("a signature of zeros", format!("{head}.{body}.{}", base64([0; 64])), "jwt_signature"),
        ("a signature in DER", format!("{head}.{body}.{}", base64([0x30, 6, 2, 1, 0, 2, 1, 0])), "jwt_signature"),
        ("another token's signature", format!("{head}.{body}.{}", says("{}").rsplit_once('.').unwrap().1), "jwt_signature"),
        ("another payload", format!("{head}.{}.{signature}", base64(claims(r#","exp":9999999999,"admin":true"#))), "jwt_signature"),
        ("JSON serialisation", format!(r#"{{"payload":"{body}","protected":"{head}","signature":"{signature}"}}"#), "jwt_malformed"),
    ]
}

#[rustfmt::skip]
fn headers() -> Vec<Row> {
    let public = keys();
    let hmac = |secret: &[u8]| Signer::Secret(secret.to_vec()).raw(&base64(r#"{"alg":"HS256","kid":"1"}"#), &base64(payload()), "HS256");
    let stranger = |header: &str| Signer::stranger().raw(&base64(header), &base64(payload()), "ES256");
    let own_key = format!(r#"{{"alg":"ES256","jwk":{}}}"#, Signer::stranger().jwk("0"));
    vec![
        ("none", header(r#"{"alg":"none"}"#), "jwt_algorithm"),
        ("None", header(r#"{"alg":"None"}"#), "jwt_algorithm"),
        ("nOnE without signature", format!("{}.{}.", base64(r#"{"alg":"nOnE"}"#), base64(payload())), "jwt_algorithm"),
        ("lower case", header(r#"{"alg":"es256"}"#), "jwt_algorithm"),
        ("a space in the algorithm", header(r#"{"alg":"ES256 "}"#), "jwt_algorithm"),
        ("no algorithm", header(r#"{"kid":"0"}"#), "jwt_malformed"),
        ("null algorithm", header(r#"{"alg":null}"#), "jwt_malformed"),
        ("a list of algorithms", header(r#"{"alg":["ES256"]}"#), "jwt_malformed"),
        ("two algorithms", header(r#"{"alg":"ES256","alg":"ES256"}"#), "jwt_malformed"),
        ("two algorithms, one escaped", header(r#"{"alg":"ES256","\u0061lg":"none"}"#), "jwt_malformed"),
        ("two kids", header(r#"{"alg":"ES256","kid":"0","kid":"1"}"#), "jwt_malformed"),
        ("a kid that is a number", header(r#"{"alg":"ES256","kid":0}"#), "jwt_malformed"),
        ("an unknown kid", header(r#"{"alg":"ES256","kid":"9"}"#), "jwt_key"),
        ("a kid that is a path", header(r#"{"alg":"ES256","kid":"../../dev/null"}"#), "jwt_key"),
        ("a kid that is a question", header(r#"{"alg":"ES256","kid":"0' or '1'='1"}"#), "jwt_key"),
        ("an empty kid", header(r#"{"alg":"ES256","kid":""}"#), "jwt_key"),
        ("the kid of another kind of key", header(r#"{"alg":"ES256","kid":"1"}"#), "jwt_algorithm"),
        ("the public keys as secret", hmac(public.as_bytes()), "jwt_algorithm"),
        ("nothing as secret", hmac(b""), "jwt_algorithm"),
        ("another key of that name", stranger(r#"{"alg":"ES256","kid":"0"}"#), "jwt_signature"),
        ("another key without name", stranger(r#"{"alg":"ES256"}"#), "jwt_signature"),
        ("a key of its own", stranger(&own_key), "jwt_signature"),
        ("keys from a URL of its own", stranger(r#"{"alg":"ES256","jku":"https://evil.test/keys"}"#), "jwt_signature"),
        ("a certificate of its own", stranger(r#"{"alg":"ES256","x5c":["AAAA"],"x5u":"https://evil.test"}"#), "jwt_signature"),
        ("crit", header(r#"{"alg":"ES256","crit":["exp"],"exp":1}"#), "jwt_critical"),
        ("crit is empty", header(r#"{"alg":"ES256","crit":[]}"#), "jwt_critical"),
        ("unencoded payload", header(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#), "jwt_critical"),
        ("compressed", header(r#"{"alg":"ES256","zip":"DEF"}"#), "jwt_malformed"),
        ("encrypted", header(r#"{"alg":"ES256","enc":"A128GCM"}"#), "jwt_malformed"),
        ("a logout token", header(r#"{"alg":"ES256","typ":"logout+jwt"}"#), "jwt_type"),
        ("a proof of possession", header(r#"{"alg":"ES256","typ":"application/DPoP+JWT"}"#), "jwt_type"),
        ("a type that is no text", header(r#"{"alg":"ES256","typ":1}"#), "jwt_malformed"),
        ("a header that is a list", header(r#"["ES256"]"#), "jwt_malformed"),
        ("a header with something behind", header(r#"{"alg":"ES256"}{}"#), "jwt_malformed"),
        ("a header that is not UTF-8", Signer::p256().raw(&base64(b"{\"alg\":\"ES256\",\"x\":\"\xff\"}"), &base64(payload()), "ES256"), "jwt_malformed"),
        ("a header with a byte order mark", header("\u{feff}{\"alg\":\"ES256\"}"), "jwt_malformed"),
        ("a deep header", header(&format!(r#"{{"alg":"ES256","x":{}}}"#, "[".repeat(5000))), "jwt_malformed"),
    ]
}

#[rustfmt::skip]
fn contents() -> Vec<Row> {
    let exp = format!(r#","exp":{}"#, NOW + 300);
    let with = |rest: &str| says(&claims(&format!("{exp}{rest}")));
    let aud = |aud: &str| says(&format!(r#"{{"iss":"{ISSUER}"{aud}{exp}}}"#));
    let iss = |iss: &str| says(&format!(r#"{{"aud":"orders"{iss}{exp}}}"#));
    vec![
        ("no end", says(&claims("")), "jwt_claims"),
        ("null end", says(&claims(r#","exp":null"#)), "jwt_claims"),
        ("an end in words", says(&claims(&format!(r#","exp":"{}""#, NOW + 300))), "jwt_claims"),
        ("an end that is a list", says(&claims(r#","exp":[9999999999]"#)), "jwt_claims"),
        ("an end beyond numbers", says(&claims(r#","exp":1e999"#)), "jwt_malformed"),
        ("ended", says(&claims(&format!(r#","exp":{}"#, NOW - 61))), "jwt_expired"),
        ("ended this very moment", says(&claims(&format!(r#","exp":{}"#, NOW - 60))), "jwt_expired"),
        ("ended before time began", says(&claims(r#","exp":-1"#)), "jwt_expired"),
        ("ended at zero", says(&claims(r#","exp":0"#)), "jwt_expired"),
        ("two ends", with(r#","exp":9999999999"#), "jwt_malformed"),
        ("begins tomorrow", with(&format!(r#","nbf":{}"#, NOW + 86_400)), "jwt_not_yet"),
        ("begins in 61 s", with(&format!(r#","nbf":{}"#, NOW + 61)), "jwt_not_yet"),
        ("begins in a word", with(r#","nbf":"now""#), "jwt_claims"),
        ("issued tomorrow", with(&format!(r#","iat":{}"#, NOW + 86_400)), "jwt_not_yet"),
        ("issued in a word", with(r#","iat":true"#), "jwt_claims"),
        ("a subject that is a number", with(r#","sub":1"#), "jwt_claims"),
        ("no audience", aud(""), "jwt_audience"),
        ("another audience", aud(r#","aud":"users""#), "jwt_audience"),
        ("an audience in capitals", aud(r#","aud":"Orders""#), "jwt_audience"),
        ("an audience that begins so", aud(r#","aud":"orders-admin""#), "jwt_audience"),
        ("no audience in the list", aud(r#","aud":[]"#), "jwt_audience"),
        ("other audiences", aud(r#","aud":["users","web"]"#), "jwt_audience"),
        ("an audience in a list in a list", aud(r#","aud":[["orders"]]"#), "jwt_claims"),
        ("an audience that is a map", aud(r#","aud":{"orders":1}"#), "jwt_claims"),
        ("no issuer", iss(""), "jwt_issuer"),
        ("another issuer", iss(r#","iss":"https://evil.test""#), "jwt_issuer"),
        ("an issuer with a slash behind", iss(&format!(r#","iss":"{ISSUER}/""#)), "jwt_issuer"),
        ("an issuer in capitals", iss(r#","iss":"https://ISSUER.test""#), "jwt_issuer"),
        ("an issuer in a list", iss(&format!(r#","iss":["{ISSUER}"]"#)), "jwt_issuer"),
        ("two issuers", iss(&format!(r#","iss":"https://evil.test","iss":"{ISSUER}""#)), "jwt_malformed"),
        ("a member twice far inside", with(r#","a":[{"b":1,"b":2}]"#), "jwt_malformed"),
        ("a payload that is a list", says("[1]"), "jwt_malformed"),
        ("a payload that is text", says("hello"), "jwt_malformed"),
        ("an empty payload", says(""), "jwt_malformed"),
        ("half a character", with(r#","x":"\ud800""#), "jwt_malformed"),
    ]
}

#[test]
fn hostile_tokens_are_refused_each_for_its_reason() {
    let keys = KeySet::parse(&keys()).unwrap();
    let audience = ["orders".to_owned()];
    let rows: Vec<Row> = [forms(), headers(), contents()].concat();
    assert!(rows.len() >= 60, "{}", rows.len());
    for (name, token, want) in rows {
        let judged = judge(&token, &keys, &asymmetric(), &audience).map_err(JwtError::label);
        assert_eq!(judged.map(|_| ()), Err(want), "{name}");
    }
}

#[test]
fn odd_tokens_that_are_good_are_taken() {
    let keys = KeySet::parse(&keys()).unwrap();
    let audience = ["orders".to_owned()];
    let exp = format!(r#","exp":{}"#, NOW + 300);
    let rows = [
        ("as it should be", says(&payload())),
        ("without kid", header(r#"{"alg":"ES256"}"#)),
        ("typ JWT", header(r#"{"alg":"ES256","typ":"JWT"}"#)),
        ("typ at+jwt", header(r#"{"alg":"ES256","typ":"at+jwt"}"#)),
        ("spaces", header(" {\r\n \"alg\" : \"ES256\" } ")),
        (
            "ended within the skew",
            says(&claims(&format!(r#","exp":{}"#, NOW - 59))),
        ),
        (
            "begins within the skew",
            says(&claims(&format!(r#"{exp},"nbf":{}"#, NOW + 60))),
        ),
        (
            "a broken second",
            says(&claims(&format!(r#","exp":{}.5"#, NOW))),
        ),
        ("no end for long", says(&claims(r#","exp":1e18"#))),
        (
            "one audience of several",
            says(&format!(
                r#"{{"iss":"{ISSUER}","aud":["users","orders"]{exp}}}"#
            )),
        ),
    ];
    for (name, token) in rows {
        let judged = judge(&token, &keys, &asymmetric(), &audience);
        assert!(judged.is_ok(), "{name}: {judged:?}");
    }
}
