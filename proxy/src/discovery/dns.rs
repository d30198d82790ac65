//! Services from DNS.
