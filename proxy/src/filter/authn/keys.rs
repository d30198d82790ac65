//! The keys of token issuers: kept as they were last read, read again by the control thread.
//!
//! Workers look at snapshots. Only a token that names a key nobody has heard of makes a request wait, for one reading at most, and not
//! often. When reading fails the last good keys stay; an issuer's keys are never used for another's tokens.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_certs::jwt::keyset::KeySet;
use weft_policy::jwt::{JwtRule, KeySource};

use self::read::{Read, ReadError, parse};
use crate::backoff::Backoff;
use crate::watch::Watch;

mod read;

/// The keys of one issuer.
#[derive(Debug)]
pub(crate) struct Keys {
    issuer: String,
    source: KeySource,
    current: ArcSwapOption<KeySet>,
    /// A reading is under way, or about to be.
    reading: AtomicBool,
    /// When a token last caused one.
    asked: Mutex<Option<Instant>>,
    wanted: Notify,
    /// Counts readings that have ended.
    readings: watch::Sender<u64>,
}

impl Keys {
    /// Has the keys at once where that takes no network.
    fn new(rule: &JwtRule) -> Self {
        let remote = matches!(rule.keys, KeySource::Url(_) | KeySource::Discovery);
        let keys = Self {
            issuer: rule.issuer.clone(),
            source: rule.keys.clone(),
            current: ArcSwapOption::empty(),
            reading: AtomicBool::new(remote),
            asked: Mutex::default(),
            wanted: Notify::new(),
            readings: watch::Sender::new(0),
        };
        if let Some(read) = read::local(&keys.source) {
            let parsed = read.and_then(|read| parse(&read));
            match parsed {
                Ok(set) => keys.current.store(Some(Arc::new(set))),
                Err(error) => keys.failed(&error),
            }
        }
        keys
    }

    /// Whether `set` is what they are now.
    pub(super) fn are(&self, set: &Arc<KeySet>) -> bool {
        let current = self.current.load();
        current.as_ref().is_some_and(|now| Arc::ptr_eq(now, set))
    }

    /// The keys to verify a token with that names `kid`. `None` if there were never any.
    pub(super) async fn for_token(&self, kid: Option<&str>) -> Option<Arc<KeySet>> {
        let known = self.current.load_full();
        if let Some(set) = known.filter(|set| set.named(kid).next().is_some()) {
            return Some(set);
        }
        if !matches!(self.source, KeySource::Inline(_) | KeySource::Secret(_)) {
            self.read_again().await;
        }
        self.current.load_full()
    }

    /// Waits for the reading that is under way, or asks for one if the last such request is long ago.
    async fn read_again(&self) {
        let mut readings = self.readings.subscribe();
        if !self.reading.load(Ordering::Acquire) && !self.ask() {
            return;
        }
        let _read_or_late = timeout(LONGEST_WAIT, readings.changed()).await;
    }

    fn ask(&self) -> bool {
        let mut asked = self.asked.lock();
        if asked.is_some_and(|at| at.elapsed() < MISS_INTERVAL) {
            return false;
        }
        *asked = Some(Instant::now());
        self.reading.store(true, Ordering::Release);
        self.wanted.notify_one();
        true
    }

    fn failed(&self, error: &ReadError) {
        let kept = self.current.load().is_some();
        let cause = std::error::Error::source(error).map(ToString::to_string);
        warn!(issuer = self.issuer, source = ?self.source, %error, cause, kept, "no keys of a token issuer");
    }

    /// Reads them now and then, when a file changes, and when a token asks for it, until no policy names them.
    async fn follow(self: Arc<Self>, roots: &Path, counts: &Counts) {
        let mut watch = read::file(&self.source).map(Watch::new);
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        // A file may have changed since the keys were made of it.
        let mut known = None;
        while Arc::strong_count(&self) > 1 {
            let delay = match self.read(&mut known, roots, counts).await {
                true => {
                    backoff.reset();
                    INTERVAL
                }
                false => backoff.next_delay(),
            };
            let changed = async {
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => sleep(delay).await,
                }
            };
            tokio::select! {
                biased;
                () = self.wanted.notified() => {}
                () = changed => {}
            }
        }
    }

    async fn read(&self, known: &mut Option<Read>, roots: &Path, counts: &Counts) -> bool {
        let read = read::read(&self.issuer, &self.source, roots).await;
        let result = match read {
            // The same keys stay the same set, so that verified tokens stay verified.
            Ok(read) if known.as_ref() == Some(&read) => Ok(()),
            Ok(read) => parse(&read).map(|set| {
                info!(
                    issuer = self.issuer,
                    keys = set.keys().len(),
                    "keys of a token issuer"
                );
                self.current.store(Some(Arc::new(set)));
                *known = Some(read);
            }),
            Err(error) => Err(error),
        };
        counts.count(&result);
        self.reading.store(false, Ordering::Release);
        self.readings.send_modify(|count| *count += 1);
        result.inspect_err(|error| self.failed(error)).is_ok()
    }
}

/// The keys of all issuers that some policy names; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyStore(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Vec<Weak<Keys>>>,
    /// Not followed yet.
    added: Mutex<Vec<Arc<Keys>>>,
    wake: Notify,
    counts: Counts,
}

/// Readings of keys.
#[derive(Debug, Default)]
struct Counts {
    good: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn count(&self, result: &Result<(), ReadError>) {
        let counter = if result.is_ok() {
            &self.good
        } else {
            &self.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl KeyStore {
    /// The keys of that issuer from that source, the same ones over changes of policy.
    pub(crate) fn keys(&self, rule: &JwtRule) -> Arc<Keys> {
        let mut known = self.0.known.lock();
        known.retain(|keys| keys.strong_count() > 0);
        let is_same = |keys: &Arc<Keys>| keys.issuer == rule.issuer && keys.source == rule.keys;
        if let Some(keys) = known.iter().filter_map(Weak::upgrade).find(is_same) {
            return keys;
        }
        let keys = Arc::new(Keys::new(rule));
        known.push(Arc::downgrade(&keys));
        if !matches!(rule.keys, KeySource::Inline(_) | KeySource::Secret(_)) {
            self.0.added.lock().push(Arc::clone(&keys));
            self.0.wake.notify_one();
        }
        keys
    }

    /// Readings that brought keys.
    pub(crate) fn good_readings(&self) -> u64 {
        self.0.counts.good.load(Ordering::Relaxed)
    }

    /// Readings that did not.
    pub(crate) fn failed_readings(&self) -> u64 {
        self.0.counts.failed.load(Ordering::Relaxed)
    }

    /// Reads keys until `stop`; belongs on the control thread. An `https` issuer must show a certificate under `roots`.
    pub(crate) async fn run(self, roots: PathBuf, stop: CancellationToken) {
        let supply = async {
            let mut followed = FuturesUnordered::new();
            loop {
                for keys in self.0.added.lock().drain(..) {
                    followed.push(keys.follow(&roots, &self.0.counts));
                }
                let ended = async {
                    match followed.next().await {
                        Some(()) => {}
                        None => pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = self.0.wake.notified() => {}
                    () = ended => {}
                }
            }
        };
        stop.run_until_cancelled(supply).await;
    }
}

/// Between two readings that tokens with unknown keys can cause.
const MISS_INTERVAL: Duration = Duration::from_secs(10);
/// Between two readings of a URL that works.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How long a request waits for keys.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
