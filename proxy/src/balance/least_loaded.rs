//! `least-loaded`: two endpoints are drawn by weight and the less loaded one wins (power of two choices).
//!
//! The load is the expected latency times what runs there already. Differences in latency that mean nothing, below a
//! factor of two, are left to the draw: so equals get equal shares, and weights hold.

use std::time::Duration;

use tokio::time::Instant;

use super::draw::{WHOLE, draw};
use crate::discovery::endpoint::{Endpoint, Member, Tier};

/// Chooses among the members that are `open`, which says how much of a member's weight counts, in thousandths.
pub(super) fn choose(
    tier: &Tier,
    now: Instant,
    open: impl Fn(&Member) -> u32 + Copy,
) -> Option<&Member> {
    let first = draw(tier, open)?;
    if tier.members().len() == 1 {
        return Some(first);
    }
    let another = |member: &Member| {
        if member.endpoint.id == first.endpoint.id {
            0
        } else {
            open(member)
        }
    };
    let Some(second) = draw(tier, another) else {
        return Some(first);
    };
    // The first where they are equal, as it was drawn by weight.
    let (one, other) = latencies(&first.endpoint, &second.endpoint, now);
    let lighter = load(tier, second, open(second), other) < load(tier, first, open(first), one);
    Some(if lighter { second } else { first })
}

/// Expected latencies in seconds, made equal where the difference is too small to act on.
fn latencies(first: &Endpoint, second: &Endpoint, now: Instant) -> (f64, f64) {
    // What was never measured counts like its rival: a new endpoint gets its share from the start.
    let (Some(first), Some(second)) = (first.latency(now), second.latency(now)) else {
        return (1.0, 1.0);
    };
    let (first, second) = (
        (first + NEGLIGIBLE).as_secs_f64(),
        (second + NEGLIGIBLE).as_secs_f64(),
    );
    if first < second * COMPARABLE && second < first * COMPARABLE {
        return (1.0, 1.0);
    }
    (first, second)
}

/// What a further request would wait for: latency times the queue, which may be longer where the weight is higher.
#[expect(
    clippy::cast_precision_loss,
    reason = "weights and counts are far below 2^52"
)]
fn load(tier: &Tier, member: &Member, open: u32, latency: f64) -> f64 {
    let mean = tier.total() as f64 / tier.members().len().max(1) as f64;
    let weight = f64::from(member.weight.max(1)) * f64::from(open.max(1)) / f64::from(WHOLE);
    latency * (1.0 + f64::from(member.endpoint.pending()) * mean / weight)
}

/// Latencies are told apart only above this.
const NEGLIGIBLE: Duration = Duration::from_millis(1);

/// Ratio up to which latencies count as equal.
const COMPARABLE: f64 = 2.0;
