//! HTTP/2 (RFC 9113), both roles, over the h2 crate.

pub(crate) mod batch;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod meter;
pub(crate) mod server;

/// Bytes one stream may be ahead of its reader.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes one connection may be ahead of its readers.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What the frames that wait for a reader may lack of 256 bytes each, in all: a stream's window full of messages of four
/// bytes. With less, one slow reader of small messages would end the connection for all its streams.
const SMALL_FRAMES: usize = 64 * STREAM_WINDOW as usize;
