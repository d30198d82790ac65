//! Doors for `fuzz/`: a function for each parser of outside bytes, which checks the laws that hold for any input.
//!
//! Built for tests and fuzzing only. The laws are of two kinds: bytes that come in pieces are read as if they had come at once,
//! and what we write is read again as what we meant.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use tokio::time::Instant;

use crate::config::propagators::Propagators;
use crate::config::sampling::{Parent, Roots, Sampling};
use crate::detect::{self, Sniff};
use crate::discovery;
use crate::filter::trace::{self, Sampler};
use crate::http::h2::meter::Meter;
use crate::http::path as paths;
use crate::tls::accept;

pub mod http1;

/// First bytes: no prefix is taken for something that the whole is not.
pub fn sniff(bytes: &[u8]) {
    let whole = detect::sniff(bytes);
    for end in 0..bytes.len().min(MANY) {
        let part = detect::sniff(start(bytes, end));
        assert!(
            part == Sniff::More || part == whole,
            "{end} bytes gave {part:?}, all gave {whole:?}"
        );
    }
}

/// Paths: normalising once is enough, and leaves nothing that climbs.
pub fn path(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else {
        return;
    };
    let query = uri.query().map(str::to_owned);
    let Ok(once) = paths::normalise(uri) else {
        return;
    };
    assert_eq!(once.query(), query.as_deref(), "the query is not ours");
    let segments = once.path().split('/');
    assert!(
        segments
            .skip(1)
            .all(|segment| !matches!(segment, "." | "..")),
        "dot segments are left in {once}"
    );
    let again = paths::normalise(once.clone());
    assert_eq!(again.as_ref(), Ok(&once));
}

/// Trace headers: what we write is what we read at the next hop, as a child of this one.
pub fn trace_context(bytes: &[u8]) {
    let sampler = Sampler::new(Sampling {
        propagators: Propagators::DEFAULT,
        parent: Parent::Followed,
        roots: Roots::Never,
    });
    let mut headers: HeaderMap = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(header)
        .collect();
    let here = trace::continue_or_begin(&mut headers, &sampler);
    assert!(here.trace_id != [0; 16] && here.span_id != [0; 8]);
    assert_eq!(headers.get_all("traceparent").iter().count(), 1);
    let next = trace::continue_or_begin(&mut headers, &sampler);
    assert_eq!(
        (next.trace_id, next.parent_id, next.sampled),
        (here.trace_id, Some(here.span_id), here.sampled)
    );
}

/// Services files: whatever they hold, the answer is services or mistakes.
pub fn services_file(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        discovery::file::parses(text);
    }
}

/// ClientHellos: a prefix of a good one is never refused, and says nothing else.
pub fn client_hello(bytes: &[u8]) {
    let Ok(Some(whole)) = accept::parse(bytes) else {
        return;
    };
    if let Some(name) = &whole.server_name {
        accept::port_of(name);
    }
    for end in 0..bytes.len().min(MANY) {
        match accept::parse(start(bytes, end)) {
            Ok(None) => {}
            Ok(Some(part)) => assert_eq!(part, whole, "{end} bytes"),
            Err(error) => panicked(&format!("{end} bytes of a ClientHello: {error}")),
        }
    }
}

/// HTTP/2 frames: the flood meter counts the same however they are cut.
pub fn frames(bytes: &[u8]) {
    let (first, rest) = bytes.split_first().unwrap_or((&1, &[]));
    let size = usize::from(*first).max(1);
    let now = Instant::now();
    let (mut whole, mut pieces) = (Meter::of_client(now), Meter::of_client(now));
    let at_once = whole.see(rest, || now).is_ok();
    let in_pieces = rest
        .chunks(size)
        .all(|piece| pieces.see(piece, || now).is_ok());
    assert_eq!(at_once, in_pieces, "pieces of {size}");
    if at_once {
        assert_eq!(whole, pieces, "pieces of {size}");
    }
}

/// `name: value`, if it is a header at all.
fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii();
    Some((
        HeaderName::from_bytes(name.trim_ascii()).ok()?,
        HeaderValue::from_bytes(value).ok()?,
    ))
}

fn start(bytes: &[u8], end: usize) -> &[u8] {
    bytes.get(..end).unwrap_or(bytes)
}

#[expect(
    clippy::panic,
    reason = "a fuzz target tells of a broken law by panicking"
)]
fn panicked(law: &str) {
    panic!("{law}");
}

/// Cuts that are tried; a fuzzer tries the others with other inputs.
const MANY: usize = 512;

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::path::Path;

    use super::*;

    type Target = fn(&[u8]);

    /// What a fuzzer has found is put among the seeds, and so stays found.
    #[test]
    fn every_seed_keeps_the_laws() {
        let targets: [(_, Target); 9] = [
            ("answer", http1::answer),
            ("chunks", http1::chunks),
            ("client_hello", client_hello),
            ("frames", frames),
            ("head", http1::head),
            ("path", path),
            ("services_file", services_file),
            ("sniff", sniff),
            ("trace_context", trace_context),
        ];
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
        for (name, target) in targets {
            let mut found = 0;
            for seed in std::fs::read_dir(seeds.join(name)).unwrap() {
                let path = seed.unwrap().path();
                let bytes = std::fs::read(&path).unwrap();
                let kept = catch_unwind(|| {
                    (0..=bytes.len()).for_each(|end| target(&bytes[..end]));
                });
                assert!(kept.is_ok(), "{}", path.display());
                found += 1;
            }
            assert!(found > 0, "{name} has no seed");
        }
    }
}
