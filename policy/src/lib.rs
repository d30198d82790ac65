//! What an operator can ask of Weft: pure types and their parsing.
//!
//! No I/O, no runtime, no TLS. The proxy, the certificate authority and the admission webhook share these types, so a value means the
//! same everywhere and a mistake in it is refused with the same words.

pub mod spiffe;
pub mod units;
