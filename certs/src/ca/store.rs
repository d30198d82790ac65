//! Where an issuer is kept.
