//! See `policy` in `policy/src/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_policy::fuzz::policy(bytes));
