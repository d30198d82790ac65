//! What Weft is to reach, and whether this run did.

use std::fmt::{Display, Formatter};

use super::Results;
use crate::load::Protocol;

/// CPU time a request, as a ratio to another proxy in the same run: at most this.
const CPU_RATIOS: &[(Protocol, &str, &str, f64)] = &[
    (Protocol::Http1, "weft", "envoy", 0.30),
    (Protocol::Http1, "weft", "haproxy", 1.0),
    (Protocol::Http2, "weft", "envoy", 0.45),
    (Protocol::Http1, "weft-full", "weft", 1.15),
    (Protocol::Http2, "weft-full", "weft", 1.15),
    (Protocol::Http1, "weft-telling", "weft-silent", 1.05),
    (Protocol::Http2, "weft-telling", "weft-silent", 1.05),
    (Protocol::Http1, "weft-traced", "weft-silent", 1.25),
    (Protocol::Http2, "weft-traced", "weft-silent", 1.25),
];

/// Idle memory of a proxy, in megabytes of 10^6 bytes: at most this.
const IDLE_MEGABYTES: f64 = 12.0;

const MEGABYTES_A_MIB: f64 = 1.048_576;

/// One goal beside the figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Goal {
    what: String,
    figure: f64,
    limit: f64,
}

/// Returns the goals that this protocol's results can tell of; none without Weft.
pub(super) fn reached(results: &Results) -> Vec<Goal> {
    let cpu = results.ratios.iter().filter_map(|ratio| {
        let (_, _, to, limit) = CPU_RATIOS.iter().find(|(protocol, of, to, _)| {
            *protocol == results.protocol && *of == ratio.of && *to == ratio.to
        })?;
        Some(Goal {
            what: format!("CPU {} / {to}", ratio.of),
            figure: ratio.cpu,
            limit: *limit,
        })
    });
    let weft = results
        .summaries
        .iter()
        // What counts instructions is in the process too.
        .filter(|summary| summary.name == "weft" && summary.instructions_per_request.is_none());
    let idle = weft.map(|summary| Goal {
        what: "idle MB of a proxy".to_owned(),
        figure: summary
            .idle_rss_mib_each
            .iter()
            .copied()
            .fold(0.0, f64::max)
            * MEGABYTES_A_MIB,
        limit: IDLE_MEGABYTES,
    });
    cpu.chain(idle).collect()
}

impl Display for Goal {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.figure <= self.limit {
            "met"
        } else {
            "MISSED"
        };
        write!(
            f,
            "goal: {} {:.2}, at most {:.2}: {verdict}",
            self.what, self.figure, self.limit
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_says_whether_it_is_met() {
        let rows = [(0.30, "met"), (0.31, "MISSED")];
        for (figure, verdict) in rows {
            let goal = Goal {
                what: "CPU weft / envoy".to_owned(),
                figure,
                limit: 0.30,
            };
            assert!(goal.to_string().ends_with(verdict), "{goal}");
        }
    }
}
