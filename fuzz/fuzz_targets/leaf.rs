//! Certificates of peers: whatever a handshake shows, the answer is an identity or a reason.
#![no_main]

use rustls_pki_types::CertificateDer;
use weft_certs::svid::Svid;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _svid = Svid::read(&CertificateDer::from(bytes));
});
