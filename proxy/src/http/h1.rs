//! HTTP/1.0 and HTTP/1.1 (RFC 9112), both roles, on buffers that reader and writer share.

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod conn;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod parse;
pub(crate) mod server;
