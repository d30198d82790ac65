//! What was measured, as JSON and (in `table`) as text: medians over the rounds, and the first chain's ratio to every other.
//!
//! A ratio is the median of the rounds' own ratios: both chains of a round met the same machine.

mod goal;
mod table;

use std::fs;
use std::time::Duration;

use serde::Serialize;

use crate::args::Settings;
use crate::load::Protocol;
use crate::measure::{Measured, Round, Section};
use crate::peer::{Missing, Peer};

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    method: Method,
    peers: Vec<Version>,
    missing: Vec<Missing>,
    results: Vec<Results>,
}

/// What the run was made on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    /// Over the last minute, read when the run began: figures of a busy machine are to be taken with care.
    load_average_before: String,
}

#[derive(Clone, Debug, Serialize)]
struct Method {
    rounds: usize,
    round_seconds: f64,
    warm_up_seconds: f64,
    concurrent_requests: usize,
    body_bytes: usize,
}

#[derive(Clone, Debug, Serialize)]
struct Version {
    name: String,
    version: String,
}

/// One protocol's figures.
#[derive(Clone, Debug, Serialize)]
struct Results {
    protocol: Protocol,
    connections: usize,
    streams: usize,
    summaries: Vec<Summary>,
    ratios: Vec<Ratio>,
    not_spoken: Vec<String>,
    failed: Vec<Missing>,
    measured: Vec<Measured>,
}

/// Medians of one chain over its rounds. `_each` has a value for each process, the one next to the client first.
#[derive(Clone, Debug, Serialize)]
struct Summary {
    name: String,
    cpu_micros_per_request: f64,
    cpu_micros_per_request_each: Vec<f64>,
    requests_per_second: f64,
    p50_millis: f64,
    p99_millis: f64,
    idle_rss_mib: f64,
    idle_rss_mib_each: Vec<f64>,
    loaded_rss_mib: f64,
    loaded_rss_mib_each: Vec<f64>,
    errors: u64,
    /// Of all processes; `None` where they are not counted.
    instructions_per_request: Option<f64>,
}

/// The first chain's figures divided by another's.
#[derive(Clone, Debug, Serialize)]
struct Ratio {
    of: String,
    to: String,
    cpu: f64,
    /// Around `cpu`, with at least 95% confidence; `None` with fewer than 6 rounds.
    cpu_interval: Option<[f64; 2]>,
    requests_per_second: f64,
    p50: f64,
    p99: f64,
    idle_rss: f64,
    loaded_rss: f64,
    instructions: Option<f64>,
}

impl Report {
    pub(crate) fn new(
        settings: &Settings,
        machine: Machine,
        peers: &[Peer],
        missing: Vec<Missing>,
        sections: Vec<Section>,
    ) -> Self {
        let version = |peer: &Peer| Version {
            name: peer.name.clone(),
            version: peer.version.clone(),
        };
        Self {
            machine,
            method: Method {
                rounds: settings.rounds,
                round_seconds: settings.round.as_secs_f64(),
                warm_up_seconds: settings.warm_up.as_secs_f64(),
                concurrent_requests: settings.connections,
                body_bytes: crate::app::BODY_BYTES,
            },
            peers: peers.iter().map(version).collect(),
            missing,
            results: sections.into_iter().map(Results::new).collect(),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// Returns the chains that were to be measured and could not be.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &Missing> {
        self.results.iter().flat_map(|results| &results.failed)
    }
}

impl Machine {
    pub(crate) fn before_the_run() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: model.map_or("unknown CPU", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            load_average_before: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .chars()
                .take_while(|part| !part.is_whitespace())
                .collect(),
        }
    }
}

impl Results {
    fn new(section: Section) -> Self {
        let ratios = match section.chains.split_first() {
            Some((first, others)) => others
                .iter()
                .map(|other| Ratio::new(first, other))
                .collect(),
            None => Vec::new(),
        };
        Self {
            protocol: section.protocol,
            connections: section.connections,
            streams: section.streams,
            summaries: section.chains.iter().map(Summary::new).collect(),
            ratios,
            not_spoken: section.not_spoken,
            failed: section.failed,
            measured: section.chains,
        }
    }
}

impl Summary {
    fn new(chain: &Measured) -> Self {
        let over = |value: &dyn Fn(&Round) -> f64| median(chain.rounds.iter().map(value).collect());
        let sides = 0..chain.idle_rss_bytes.len();
        let side =
            |side: usize| over(&|round| round.cpu_micros_each().get(side).copied().unwrap_or(0.0));
        Self {
            name: chain.name.clone(),
            cpu_micros_per_request: over(&Round::cpu_micros),
            cpu_micros_per_request_each: sides.map(side).collect(),
            requests_per_second: over(&Round::requests_per_second),
            p50_millis: over(&|round| millis(round.load.p50)),
            p99_millis: over(&|round| millis(round.load.p99)),
            idle_rss_mib: mib(chain.idle_rss_bytes.iter().sum()),
            idle_rss_mib_each: each_mib(&chain.idle_rss_bytes),
            loaded_rss_mib: mib(chain.loaded_rss_bytes.iter().sum()),
            loaded_rss_mib_each: each_mib(&chain.loaded_rss_bytes),
            errors: chain.rounds.iter().map(|round| round.load.errors).sum(),
            instructions_per_request: chain.instructions(),
        }
    }
}

impl Ratio {
    fn new(first: &Measured, other: &Measured) -> Self {
        let pairs = |value: &dyn Fn(&Round) -> f64| -> Vec<f64> {
            let pairs = first.rounds.iter().zip(&other.rounds);
            pairs.map(|(a, b)| value(a) / value(b)).collect()
        };
        let over = |value: &dyn Fn(&Round) -> f64| median(pairs(value));
        let memory = |bytes: fn(&Measured) -> &[u64]| {
            let [of, to] = [first, other].map(|chain| bytes(chain).iter().sum());
            mib(of) / mib(to)
        };
        Self {
            of: first.name.clone(),
            to: other.name.clone(),
            cpu: over(&Round::cpu_micros),
            cpu_interval: interval(pairs(&Round::cpu_micros)),
            requests_per_second: over(&Round::requests_per_second),
            p50: over(&|round| millis(round.load.p50)),
            p99: over(&|round| millis(round.load.p99)),
            idle_rss: memory(|chain| &chain.idle_rss_bytes),
            loaded_rss: memory(|chain| &chain.loaded_rss_bytes),
            instructions: first
                .instructions()
                .zip(other.instructions())
                .map(|(of, to)| of / to),
        }
    }
}

impl Measured {
    /// A request's instructions, the median over the rounds.
    fn instructions(&self) -> Option<f64> {
        let rounds = self.rounds.iter().map(Round::instructions_a_request);
        let rounds: Option<Vec<f64>> = rounds.collect();
        rounds.filter(|rounds| !rounds.is_empty()).map(median)
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn each_mib(bytes: &[u64]) -> Vec<f64> {
    bytes.iter().copied().map(mib).collect()
}

/// Returns the middle value, or the mean of both; 0 for none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or(0.0);
    if values.len() % 2 == 1 {
        return upper;
    }
    let lower = middle
        .checked_sub(1)
        .and_then(|below| values.get(below))
        .copied()
        .unwrap_or(upper);
    f64::midpoint(lower, upper)
}

/// Returns the order statistics between which the median of what was sampled lies with at least 95% confidence: the number
/// of values below it is binomial with one half.
fn interval(mut values: Vec<f64>) -> Option<[f64; 2]> {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let mut outside = 0.0;
    let mut chance = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut left_out = None;
    for rank in 0..count / 2 {
        outside += 2.0 * chance;
        if outside > 0.05 {
            break;
        }
        left_out = Some(rank);
        chance *= (count - rank) as f64 / (rank + 1) as f64;
    }
    let rank = left_out?;
    Some([*values.get(rank)?, *values.get(count - 1 - rank)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Outcome;

    fn measured(name: &str, cpu_millis: &[u64]) -> Measured {
        let round = |cpu: &u64| Round {
            cpu: vec![Duration::from_millis(*cpu), Duration::from_millis(*cpu)],
            instructions: Some(vec![cpu * 1000, cpu * 2000]),
            load: Outcome {
                requests: 1000,
                errors: 0,
                elapsed: Duration::from_secs(1),
                p50: Duration::from_millis(1),
                p99: Duration::from_millis(2),
            },
        };
        let memory = vec![10 * 1024 * 1024; 2];
        Measured {
            name: name.to_owned(),
            idle_rss_bytes: memory.clone(),
            loaded_rss_bytes: memory,
            rounds: cpu_millis.iter().map(round).collect(),
        }
    }

    #[test]
    fn a_slow_round_of_all_does_not_move_the_ratio() {
        let ratio = Ratio::new(
            &measured("weft", &[10, 40, 12]),
            &measured("envoy", &[40, 160, 48]),
        );
        assert!((ratio.cpu - 0.25).abs() < 1e-9, "{ratio:?}");
        assert!((ratio.idle_rss - 1.0).abs() < 1e-9, "{ratio:?}");
        assert!(
            (ratio.instructions.unwrap() - 0.25).abs() < 1e-9,
            "{ratio:?}"
        );
    }

    #[test]
    fn cpu_is_summed_over_both_proxies_and_told_apart() {
        let summary = Summary::new(&measured("weft", &[10, 30, 20]));
        assert!(
            (summary.cpu_micros_per_request - 40.0).abs() < 1e-9,
            "{summary:?}"
        );
        assert_eq!(
            summary.to_string().split_whitespace().nth(1),
            Some("40.0"),
            "{summary}"
        );
        assert!(summary.to_string().contains(" 20.0 + 20.0 "), "{summary}");
    }

    #[test]
    fn the_interval_leaves_out_what_chance_may() {
        let upto = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        let rows = [
            (5, None),
            (6, Some([1.0, 6.0])),
            (9, Some([2.0, 8.0])),
            (17, Some([5.0, 13.0])),
        ];
        for (count, want) in rows {
            assert_eq!(interval(upto(count)), want, "{count}");
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        let rows: &[(&[f64], f64)] = &[
            (&[], 0.0),
            (&[3.0], 3.0),
            (&[4.0, 1.0], 2.5),
            (&[9.0, 1.0, 2.0], 2.0),
        ];
        for (values, want) in rows {
            assert!((median(values.to_vec()) - want).abs() < 1e-9, "{values:?}");
        }
    }
}
