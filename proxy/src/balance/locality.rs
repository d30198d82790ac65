//! `balance.locality`: endpoints of the proxy's own zone first, as long as enough of them work.

use weft_policy::balance::Locality;

use crate::discovery::endpoint::{Member, Tier};

/// The parts of `tier` to choose from, one after the other.
///
/// With `prefer` all requests stay near while five of seven near endpoints, by weight, are open; below that the share that
/// stays falls with them, as with Envoy's overprovisioning factor of 1.4: the rest must not be buried.
pub(super) fn parts(
    tier: &Tier,
    locality: Locality,
    open: impl Fn(&Member) -> u32,
) -> [Option<&Tier>; 2] {
    match (locality, tier.zones()) {
        (Locality::Off, _) | (_, None) => [Some(tier), None],
        (Locality::Strict, Some(zones)) => [Some(&zones.near), None],
        (Locality::Prefer, Some(zones)) => {
            let (near, far) = (Some(&zones.near), Some(&zones.far));
            if stays(&zones.near, open) {
                [near, far]
            } else {
                [far, near]
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "weights are far below 2^52")]
fn stays(near: &Tier, open: impl Fn(&Member) -> u32) -> bool {
    let working = near.members().iter().filter(|member| open(member) > 0);
    let working: u64 = working.map(|member| u64::from(member.weight)).sum();
    let share = working as f64 * OVERPROVISIONING / near.total().max(1) as f64;
    share >= 1.0 || fastrand::f64() < share
}

/// How much more than its share an endpoint is trusted to carry.
const OVERPROVISIONING: f64 = 1.4;
