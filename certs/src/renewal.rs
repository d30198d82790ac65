//! Gets a leaf and, for ever, the next one: at half of its life, or sooner when the roots of the mesh change.
//!
//! One loop for everybody who has an identity: proxies, discovery, the injector. A change of the roots file is taken in at once, and brings the
//! next leaf forward, spread over a while, so that a mesh does not ask all at once. While roots are being exchanged leafs are renewed at
//! growing intervals: so the exchange takes minutes and not a leaf's life, and whoever was answered by a replica that did not know yet asks again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use crate::authority::{Authority, Material, RequestError};
use crate::bundle::{Bundle, TrustBundles};
use crate::error::CertError;
use crate::identity::Identity;
use crate::leaf::{Leaf, renewal_delay};
use crate::roots::{Agreement, trusted};
use weft_policy::spiffe::SpiffeId;

/// Renews the leaf of one identity.
pub struct Renewal {
    authority: Authority,
    id: SpiffeId,
    spread: Duration,
    /// The roots file as it was seen last.
    file: String,
    held: Option<Held>,
    due: Instant,
    failures: u32,
    /// Renewals since the roots began to change.
    changing: u32,
}

/// The present leaf, and what was said with it.
struct Held {
    leaf: Arc<Leaf>,
    answer: Bundle,
    trust: Bundle,
    /// Whether it was valid when it came: if not, its end says nothing new.
    valid: bool,
}

/// What is new.
pub enum Renewed {
    /// A leaf.
    Leaf {
        /// With whom it trusts.
        identity: Identity,
        /// What it was made from.
        material: Material,
    },
    /// Roots, with the leaf that was there.
    Roots(Identity),
}

impl Renewed {
    /// Returns the identity from now on.
    #[must_use]
    pub fn into_identity(self) -> Identity {
        match self {
            Self::Leaf { identity, .. } | Self::Roots(identity) => identity,
        }
    }
}

/// A renewal that failed; the next call waits first.
#[derive(Debug, thiserror::Error)]
#[error("no new identity, tried again in {retry:?}")]
pub struct Failed {
    /// How long until it is tried again.
    pub retry: Duration,
    /// Why.
    pub source: RequestError,
}

impl Renewal {
    /// Asks `authority` for leafs of `id`, at first at once. A change of its roots file is acted on within `spread`.
    #[must_use]
    pub fn new(authority: Authority, id: SpiffeId, spread: Duration) -> Self {
        Self {
            file: read(&authority),
            authority,
            id,
            spread,
            held: None,
            due: Instant::now(),
            failures: 0,
            changing: 0,
        }
    }

    /// Begins with an identity that is there already, until there is a new one.
    #[must_use]
    pub fn holding(mut self, identity: Option<&Identity>) -> Self {
        self.held = identity.and_then(|identity| {
            let answer = identity.trust.bundle(&self.id.trust_domain())?.clone();
            Some(Held {
                leaf: Arc::clone(&identity.leaf),
                trust: answer.clone(),
                valid: identity.leaf.is_valid_at(SystemTime::now()),
                answer,
            })
        });
        self
    }

    /// Waits until there is something new, and returns it.
    ///
    /// # Errors
    /// If the authority gave no leaf.
    ///
    /// # Cancel safety
    /// A leaf that is under way is lost, and asked for again.
    pub async fn next(&mut self) -> Result<Renewed, Failed> {
        loop {
            self.look_at_file();
            if let Some(identity) = self.other_roots() {
                return Ok(Renewed::Roots(identity));
            }
            let now = Instant::now();
            if now >= self.due || self.has_ended() {
                return self.renew().await;
            }
            sleep_until(self.due.min(now + LOOK)).await;
        }
    }

    fn look_at_file(&mut self) {
        let file = read(&self.authority);
        // A file that is not there at the moment is about to be replaced.
        if file.is_empty() || file == self.file {
            return;
        }
        self.file = file;
        self.changing = 0;
        let soon = Instant::now() + self.spread.mul_f64(fastrand::f64());
        self.due = self.due.min(soon);
    }

    /// The same leaf with other roots, if the file says so.
    fn other_roots(&mut self) -> Option<Identity> {
        let held = self.held.as_mut()?;
        let (trust, _) = trusted(&held.leaf, &held.answer, &self.file);
        if trust == held.trust {
            return None;
        }
        let identity = identity(&self.id, &held.leaf, &trust).ok()?;
        held.trust = trust;
        Some(identity)
    }

    /// Whether the clock says, as after a suspension, that the leaf has ended before its renewal was due.
    fn has_ended(&self) -> bool {
        let ended = |held: &Held| held.valid && SystemTime::now() > held.leaf.not_after();
        self.failures == 0 && self.held.as_ref().is_some_and(ended)
    }

    async fn renew(&mut self) -> Result<Renewed, Failed> {
        match Box::pin(self.authority.issue(&self.id)).await {
            Ok((identity, material)) => {
                self.failures = 0;
                Ok(Renewed::Leaf {
                    identity: self.hold(identity),
                    material,
                })
            }
            Err(source) => {
                let retry = retry_delay(self.failures, fastrand::f64());
                self.failures = self.failures.saturating_add(1);
                self.due = Instant::now() + retry;
                Err(Failed { retry, source })
            }
        }
    }

    fn hold(&mut self, fresh: Identity) -> Identity {
        let now = SystemTime::now();
        let leaf = Arc::clone(&fresh.leaf);
        let mut wait = renewal_delay(&leaf, now, fastrand::f64());
        let Some(answer) = fresh.trust.bundle(&self.id.trust_domain()).cloned() else {
            self.due = Instant::now() + wait;
            return fresh;
        };
        let (trust, agreement) = trusted(&leaf, &answer, &self.file);
        if agreement == Agreement::Changing {
            wait = wait.min(changing_delay(self.spread, self.changing, fastrand::f64()));
            self.changing = self.changing.saturating_add(1);
        }
        self.due = Instant::now() + wait;
        let joined = match trust == answer {
            true => fresh,
            false => identity(&self.id, &leaf, &trust).unwrap_or(fresh),
        };
        self.held = Some(Held {
            valid: leaf.is_valid_at(now),
            leaf,
            answer,
            trust,
        });
        joined
    }
}

fn identity(id: &SpiffeId, leaf: &Arc<Leaf>, trust: &Bundle) -> Result<Identity, CertError> {
    let trust = TrustBundles::of(id.trust_domain(), trust.clone());
    Identity::new(Arc::clone(leaf), Arc::new(trust))
}

fn read(authority: &Authority) -> String {
    std::fs::read_to_string(&authority.roots).unwrap_or_default()
}

/// Doubles from [`FIRST_RETRY`] to [`LONGEST_RETRY`]; half of it is random, so that who fails together does not come back together.
fn retry_delay(failures: u32, jitter: f64) -> Duration {
    let full = doubled(FIRST_RETRY, failures).min(LONGEST_RETRY);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

/// Doubles from `spread`, and never ends before the leaf's own renewal is due: roots that overlap for good cost a dozen renewals.
fn changing_delay(spread: Duration, renewals: u32, jitter: f64) -> Duration {
    let full = doubled(spread.max(SHORTEST_SPREAD), renewals);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

fn doubled(first: Duration, times: u32) -> Duration {
    let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
    first.saturating_mul(factor)
}

/// How a change of the roots file is spread where nothing else is said.
pub const SPREAD: Duration = Duration::from_secs(10);
const SHORTEST_SPREAD: Duration = Duration::from_millis(100);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Between two looks at the roots file and the clock.
const LOOK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_limit() {
        let rows = [(0, 200), (1, 400), (7, 25_600), (8, 30_000), (99, 30_000)];
        for (failures, want) in rows {
            let got = retry_delay(failures, 1.0);
            assert_eq!(got, Duration::from_millis(want), "{failures}");
            assert_eq!(retry_delay(failures, 0.0), got / 2, "{failures}");
        }
    }

    #[test]
    fn renewals_while_roots_change_become_rare() {
        let spread = Duration::from_secs(10);
        let waits: Vec<u64> = (0..6)
            .map(|renewals| changing_delay(spread, renewals, 1.0).as_secs())
            .collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320]);
        assert!(changing_delay(Duration::ZERO, 0, 0.0) > Duration::ZERO);
    }
}
