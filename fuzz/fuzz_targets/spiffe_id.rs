//! SPIFFE IDs: what is accepted has one spelling, and reading that changes nothing.
#![no_main]

use weft_policy::spiffe::SpiffeId;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(id) = SpiffeId::parse(text) else {
        return;
    };
    assert_eq!(SpiffeId::parse(id.as_str()).as_ref(), Ok(&id));
    assert!(id.as_str().eq_ignore_ascii_case(text), "{text} became {id}");
    let domain = id.trust_domain();
    assert_eq!(format!("spiffe://{domain}{}", id.path()), id.as_str());
    if let (Some(namespace), Some(account)) = (id.namespace(), id.service_account()) {
        assert_eq!(
            SpiffeId::workload(&domain, namespace, account).as_ref(),
            Ok(&id)
        );
    }
});
