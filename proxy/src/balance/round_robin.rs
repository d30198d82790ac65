//! `round-robin`: one after the other, by weight, counted for the whole proxy.

use std::sync::atomic::{AtomicU64, Ordering};

use super::draw::{admits, draw};
use crate::discovery::endpoint::{Member, Tier};

/// Takes the next turn that falls on a member that is `open`; the turns of the others go on round, so that nobody inherits
/// a neighbour's share.
pub(super) fn choose<'a>(
    tier: &'a Tier,
    turns: &AtomicU64,
    open: impl Fn(&Member) -> u32 + Copy,
) -> Option<&'a Member> {
    let rotation = tier.rotation();
    let mut next = (0..rotation.len().min(MAX_TURNS)).filter_map(|_| {
        let turn = turns.fetch_add(1, Ordering::Relaxed);
        tier.members().get(rotation.at(turn)?)
    });
    next.find(|member| admits(open(member)))
        .or_else(|| draw(tier, open))
}

/// Turns that are looked at before a draw among those that are open.
const MAX_TURNS: usize = 64;
