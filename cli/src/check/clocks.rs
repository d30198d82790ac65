//! Clocks: certificates begin and end by them, so those of nodes and API server must agree.
//!
//! A node says its time in its lease every ten seconds, and the API server notes by its own when that was said.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::finding::{Findings, some};
use super::seen::Seen;
use super::webhook::{made_at, seconds};
use crate::objects::{array, name, text};

/// Compares the clocks of the nodes with the API server's.
pub(super) fn look(seen: &Seen, findings: &mut Findings) {
    let (mut off, mut far) = (Vec::new(), Vec::new());
    let mut known = 0;
    for lease in &seen.leases {
        let Some(skew) = skew(lease) else { continue };
        known += 1;
        let told = format!("{} by {} s", name(lease), skew.as_secs());
        match skew {
            skew if skew >= BACKDATED => far.push(told),
            skew if skew >= TOLERATED => off.push(told),
            _ => {}
        }
    }
    let remedy = "set the nodes' clocks, by NTP: leafs of 24 hours begin five minutes before they are made, no more";
    if !far.is_empty() {
        let what = format!(
            "clocks of nodes are off so far that certificates do not count there: {}",
            some(&far)
        );
        findings.problem(AREA, "", (what, remedy));
    }
    if !off.is_empty() {
        findings.warning(
            AREA,
            "",
            (format!("clocks of nodes are off: {}", some(&off)), remedy),
        );
    }
    if known > 0 && off.is_empty() && far.is_empty() {
        findings.good(AREA, "", format!("{known} nodes agree with the API server"));
    }
}

/// How far apart the two times are; the way from one to the other takes a part of a second.
fn skew(lease: &Value) -> Option<Duration> {
    let said = seconds(text(lease, "/spec/renewTime"))?;
    let notes = array(lease, "/metadata/managedFields").iter();
    let noted = notes.filter_map(|one| seconds(text(one, "/time"))).max()?;
    Some(apart(said, noted))
}

/// Compares the clock of this machine, by which expiry is judged here, with the API server's.
pub(super) fn here(made: &Value, now: SystemTime, findings: &mut Findings) {
    let Some(made) = made_at(made) else { return };
    let skew = apart(made, now);
    if skew >= PATIENCE {
        let what = format!(
            "this machine's clock and the API server's are {} s apart",
            skew.as_secs()
        );
        findings.warning(
            AREA,
            "this machine",
            (
                what,
                "set its clock; what is said here of expiry is off by as much",
            ),
        );
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other)
        .unwrap_or_else(|later| later.duration())
}

const AREA: &str = "clocks";
/// The API server notes whole seconds, and a lease may be on its way for a while.
const TOLERATED: Duration = Duration::from_secs(5);
/// So much earlier than it is made does a leaf begin.
const BACKDATED: Duration = Duration::from_secs(300);
/// A check takes a while itself.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(name: &str, said: &str, noted: &str) -> Value {
        json!({"metadata": {"name": name, "managedFields": [{"time": "2026-01-01T00:00:00Z"}, {"time": noted}]}, "spec": {"renewTime": said}})
    }

    #[test]
    fn nodes_whose_clocks_are_off_are_named() {
        let noted = "2026-05-01T12:00:00Z";
        let seen = Seen {
            leases: vec![
                lease("well", "2026-05-01T12:00:00.9Z", noted),
                lease("late", "2026-05-01T11:59:20Z", noted),
                lease("lost", "2026-05-01T13:00:00Z", noted),
                json!({"metadata": {"name": "silent"}}),
            ],
            ..Seen::default()
        };
        let mut findings = Findings::default();
        look(&seen, &mut findings);
        let want = [
            "Problem : clocks of nodes are off so far that certificates do not count there: lost by 3600 s",
            "Warning : clocks of nodes are off: late by 40 s",
        ];
        assert_eq!(findings.bad(), want);
    }

    #[test]
    fn this_machine_is_compared_too() {
        let made = json!({"metadata": {"creationTimestamp": "1970-01-01T01:00:00Z"}});
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (now, want) in [(3605, 0), (7200, 1), (0, 1)] {
            let mut findings = Findings::default();
            here(&made, at(now), &mut findings);
            assert_eq!(findings.bad().len(), want, "{now}");
        }
    }
}
