//! See `head` in `proxy/src/fuzz/http1.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_proxy::fuzz::http1::head(bytes));
