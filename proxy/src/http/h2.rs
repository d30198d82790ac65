//! HTTP/2 (RFC 9113), both roles, over the h2 crate.

pub(crate) mod batch;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod meter;
pub(crate) mod server;
