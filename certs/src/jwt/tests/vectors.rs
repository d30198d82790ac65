//! The examples of RFC 7515 appendix A, RFC 7519 sections 3.1 and 6.1, RFC 8037 appendix A.

use super::*;

const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
/// RFC 7519 section 3.1 is the same token as RFC 7515 section A.1.
const A1: (&str, &str) = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
    "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
);
const A1_KEY: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const A2: (&str, &str) = (
    "eyJhbGciOiJSUzI1NiJ9",
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
);
const A2_KEY: &str = r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}]}"#;
const A3: (&str, &str) = (
    "eyJhbGciOiJFUzI1NiJ9",
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
);
const A3_KEY: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
const OKP_KEY: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const OKP: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

fn token((header, signature): (&str, &str)) -> String {
    format!("{header}.{CLAIMS}.{signature}")
}

fn verified(token: &str, keys: &KeySet) -> Result<Vec<u8>, JwtError> {
    let jws = Jws::parse(token)?;
    keys.verify(&jws)?;
    Ok(jws.payload().to_vec())
}

#[test]
fn the_examples_of_the_standards_verify() {
    let secret =
        ::base64::Engine::decode(&::base64::engine::general_purpose::URL_SAFE_NO_PAD, A1_KEY);
    let rows = [
        ("RFC 7515 A.1", A1, KeySet::of_secret(&secret.unwrap())),
        ("RFC 7515 A.2", A2, KeySet::parse(A2_KEY)),
        ("RFC 7515 A.3", A3, KeySet::parse(A3_KEY)),
    ];
    for (name, parts, keys) in rows {
        let payload = verified(&token(parts), &keys.unwrap()).expect(name);
        let claims = Claims::of(&payload).unwrap();
        assert_eq!(claims.issuer(), Some("joe"), "{name}");
        assert_eq!(claims.get("http://example.com/is_root").unwrap(), true);
        let expect = Expect {
            issuer: "joe",
            audiences: &[],
            skew: Duration::ZERO,
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(claims.check(&expect, at(1_300_819_379)).is_ok(), "{name}");
        let late = claims.check(&expect, at(1_300_819_380));
        assert_eq!(late, Err(JwtError::Expired), "{name}");
    }
    let payload = verified(OKP, &KeySet::parse(OKP_KEY).unwrap()).unwrap();
    assert_eq!(
        payload, b"Example of Ed25519 signing",
        "RFC 8037 A.4 and A.5"
    );
    assert_eq!(Claims::of(&payload), Err(JwtError::Malformed));
}

#[test]
fn the_examples_of_the_standards_with_one_bit_changed_do_not() {
    let keys = [A2_KEY, A3_KEY, OKP_KEY].map(|keys| KeySet::parse(keys).unwrap());
    let tokens = [token(A2), token(A3), OKP.to_owned()];
    for (keys, token) in keys.iter().zip(tokens) {
        let (rest, signature) = token.rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { "B" } else { "A" };
        let changed = format!("{rest}.{first}{}", &signature[1..]);
        assert_eq!(verified(&changed, keys), Err(JwtError::Signature));
    }
}

#[test]
fn the_examples_of_what_we_do_not_take_are_refused() {
    let none = format!("eyJhbGciOiJub25lIn0.{CLAIMS}.");
    let es512 = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    let json = format!(
        r#"{{"payload":"{CLAIMS}","signatures":[{{"protected":"{}","header":{{"kid":"2010-12-29"}},"signature":"{}"}},{{"protected":"{}","signature":"{}"}}]}}"#,
        A2.0, A2.1, A3.0, A3.1
    );
    let flattened = format!(
        r#"{{"payload":"{CLAIMS}","protected":"{}","signature":"{}"}}"#,
        A3.0, A3.1
    );
    let rows = [
        ("RFC 7515 A.4: ES512", es512, JwtError::Algorithm),
        (
            "RFC 7515 A.5, RFC 7519 6.1: none",
            none.as_str(),
            JwtError::Algorithm,
        ),
        (
            "RFC 7515 A.6: JSON with two signatures",
            json.as_str(),
            JwtError::Malformed,
        ),
        (
            "RFC 7515 A.7: flattened JSON",
            flattened.as_str(),
            JwtError::Malformed,
        ),
        (
            "RFC 7519 A.1: encrypted",
            "eyJhbGciOiJSU0ExXzUiLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0.QR1Owv2ug2WyPBnbQrRARTeEk9kDO2w8qDcjiHnSJflSdv1iNqhWXaKH4MqAkQtM.AxY8DCtDaGlsbGljb3RoZQ.MKOle7UQrG6nSxTLX6Mqwt0orbHvAKeWnDYvpIAeZ72deHxz3roJDXQyhxx0wKaMHDjUEOKIwrtkHthpqEanSBNYHZgmNOV7sln1Eu9g3J8.fiK51VwhsxJ-siBMR-YFiA",
            JwtError::Malformed,
        ),
        (
            "RFC 7515 E: crit",
            "eyJhbGciOiJub25lIiwNCiAiY3JpdCI6WyJodHRwOi8vZXhhbXBsZS5jb20vVU5ERUZJTkVEIl0sDQogImh0dHA6Ly9leGFtcGxlLmNvbS9VTkRFRklORUQiOnRydWUNCn0.RkFJTA.",
            JwtError::Critical,
        ),
    ];
    let keys = KeySet::parse(A3_KEY).unwrap();
    for (name, token, want) in rows {
        assert_eq!(verified(token, &keys), Err(want), "{name}");
    }
}
