//! `random`: a member drawn by weight. Also the first step of `least-loaded`.

use crate::discovery::endpoint::{Member, Tier};

/// Draws by weight among the members that are `open`, which says how much of a member's weight counts, in thousandths.
pub(super) fn draw(tier: &Tier, open: impl Fn(&Member) -> u32) -> Option<&Member> {
    let total = tier.total();
    if total == 0 {
        return None;
    }
    // A rejected draw is repeated, which keeps the weights' proportions; most members are open most of the time.
    let mut draws = (0..MAX_DRAWS).filter_map(|_| tier.drawn(fastrand::u64(..total)));
    draws
        .find(|member| admits(open(member)))
        .or_else(|| draw_from_open(tier, &open))
}

/// Whether a member takes a turn that fell on it: always, never, or in so many of a thousand cases.
pub(super) fn admits(open: u32) -> bool {
    open >= WHOLE || (open > 0 && fastrand::u32(..WHOLE) < open)
}

/// Draws by weight when few are open: exact, but walks the whole tier.
fn draw_from_open(tier: &Tier, open: impl Fn(&Member) -> u32) -> Option<&Member> {
    let share = |member: &Member| u64::from(member.weight) * u64::from(open(member));
    let total: u64 = tier.members().iter().map(share).sum();
    let mut at = (total > 0).then(|| fastrand::u64(..total))?;
    tier.members().iter().find(|member| {
        let share = share(member);
        let found = at < share;
        at = at.saturating_sub(share);
        found
    })
}

/// All of a member's weight counts.
pub(super) const WHOLE: u32 = 1_000;

/// Draws before the tier is walked.
const MAX_DRAWS: usize = 8;
