//! Certificate requests: nobody gets a key signed that the caller has not shown to hold.
//!
//! The input is the request in DER, or, if it begins like one, in PEM.
#![no_main]

use weft_ca::csr::checked_key;
use weft_policy::spiffe::SpiffeId;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/orders").expect("it is one");
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with("-----BEGIN") => text.to_owned(),
        _ => pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", bytes)),
    };
    let _key = checked_key(&text, &id);
});
