//! What the bench is asked to do: the command line and the one environment variable. Nothing else reads either.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::discovery::Sizes;
use crate::load::{Plan, Protocol};

pub(crate) const HELP: &str = "\
Runs Weft, Envoy, HAProxy and nginx as the same two-hop mTLS chain, interleaved, and prints cost and ratios.

Usage: cargo run --release -p weft-bench -- [options]

       cargo run --release -p weft-bench -- discovery [SERVICES ENDPOINTS SUBSCRIBERS CHANGES]

  discovery               1000 services with 10 endpoints each and 1000 proxies that call 20 of them: memory of discovery, and how
                          long until a changed endpoint is with each of them; nothing else is run
  --quick                 2 rounds of 1 s instead of 5 rounds of 3 s
  --rounds N              rounds for each peer (5)
  --seconds S             length of a round (3)
  --connections N         concurrent requests; HTTP/1 uses a connection each (64)
  --h2-connections N      HTTP/2 connections that share these (as many)
  --only http1|http2      one protocol
  --peers a,b,...         of weft, envoy, haproxy, nginx, linkerd, ztunnel
  --policy none|full      `full`: Weft with JWT, authorization, rate limit, retries, breaker, timeouts and 1% of traces beside
                          Weft with none of them, and nobody else unless --peers says so; 9 rounds unless --rounds says so
  --telemetry WHAT        Weft with metrics and with 1%, 100% or none of its requests traced (`1%`, `100%`, `metrics`), beside Weft
                          with neither, and nobody else unless --peers says so; 9 rounds unless --rounds says so
  --instructions          counts instructions under valgrind's callgrind in place of time, which other work on the machine does not
                          change: Weft alone unless --peers, --policy, --telemetry or --weft-old say so; 4 connections and 3 rounds
                          unless written
  --json FILE             writes everything measured, round by round
  --weft-proxy PATH       a built weft-proxy (else it is built as for the image)
  --weft-old PATH         a second weft-proxy, measured beside it as `weft-old`
  --ztunnel PATH          a ztunnel joins, built with `--features testing`
  --linkerd PATH          not measured yet; says what it lacks
  --keep                  keeps configurations and logs

WEFT_BENCH_ENVOY names the Envoy binary when it is neither in PATH nor installed with pip.";

/// The program to run: the bench, or one of its own helper processes.
pub(crate) enum Command {
    Help,
    Bench(Settings),
    App,
    Load(Plan),
    Discovery(Sizes),
    DiscoveryServer(Sizes, PathBuf),
}

/// What is asked of Weft beside carrying requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    None,
    /// Everything that a request can be judged by.
    Full,
}

/// Everything a run can be told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub rounds: usize,
    pub round: Duration,
    pub warm_up: Duration,
    pub connections: usize,
    /// HTTP/2 connections that share the concurrent requests; by default each has one.
    pub h2_connections: Option<usize>,
    pub protocols: Vec<Protocol>,
    /// Names of the peers to run; empty means all that are installed.
    pub peers: Vec<String>,
    pub policy: Policy,
    /// What is traced, as `WEFT_TRACE_SAMPLE` has it, of Weft beside Weft without telemetry.
    pub telemetry: Option<&'static str>,
    /// Instructions are counted.
    pub instructions: bool,
    pub json: Option<PathBuf>,
    pub weft_proxy: Option<PathBuf>,
    pub weft_old: Option<PathBuf>,
    pub envoy: Option<PathBuf>,
    pub linkerd: Option<PathBuf>,
    pub ztunnel: Option<PathBuf>,
    pub keep: bool,
}

impl Command {
    /// Reads the command line; the first word names a helper process or is an option of the bench.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let args: Vec<String> = args.collect();
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["app"] => Ok(Self::App),
            ["discovery", sizes @ ..] => Ok(Self::Discovery(Sizes::parse(sizes)?)),
            ["discovery-server", dir, sizes @ ..] => {
                Ok(Self::DiscoveryServer(Sizes::parse(sizes)?, dir.into()))
            }
            ["load", plan] => Ok(Self::Load(
                serde_json::from_str(plan).context("read the load plan")?,
            )),
            options if options.contains(&"--help") || options.contains(&"-h") => Ok(Self::Help),
            options => Settings::parse(options).map(Self::Bench),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rounds: 5,
            round: Duration::from_secs(3),
            warm_up: Duration::from_secs(1),
            connections: 64,
            h2_connections: None,
            protocols: vec![Protocol::Http1, Protocol::Http2],
            peers: Vec::new(),
            policy: Policy::None,
            telemetry: None,
            instructions: false,
            json: None,
            weft_proxy: None,
            weft_old: None,
            envoy: std::env::var_os("WEFT_BENCH_ENVOY").map(PathBuf::from),
            linkerd: None,
            ztunnel: None,
            keep: false,
        }
    }
}

impl Settings {
    fn parse(options: &[&str]) -> anyhow::Result<Self> {
        let mut settings = Self::default();
        let mut words = options.iter().copied();
        while let Some(option) = words.next() {
            match option {
                "--quick" => settings.quicken(),
                "--keep" => settings.keep = true,
                "--instructions" => settings.instructions = true,
                _ => {
                    let value = words
                        .next()
                        .with_context(|| format!("{option} is unknown or lacks its value"))?;
                    settings
                        .set(option, value)
                        .with_context(|| format!("{option} {value}"))?;
                }
            }
        }
        settings.pair(options);
        Ok(settings)
    }

    /// A ratio between two of our own needs more rounds than one to a peer, and no peers.
    fn pair(&mut self, given: &[&str]) {
        let pair = match (self.policy, self.telemetry) {
            (_, Some("always")) => Some(["weft-traced", "weft-silent"]),
            (_, Some(_)) => Some(["weft-telling", "weft-silent"]),
            (Policy::Full, None) => Some(["weft-full", "weft"]),
            (Policy::None, None) => None,
        };
        if let Some(pair) = pair {
            if !given.contains(&"--peers") {
                self.peers = pair.map(str::to_owned).to_vec();
            }
            if !given.contains(&"--rounds") {
                self.rounds = PAIRS;
            }
        }
        if self.instructions {
            self.count(given);
        }
    }

    /// Counting is slow and repeatable: fewer rounds of fewer requests tell as much.
    fn count(&mut self, given: &[&str]) {
        if self.peers.is_empty() {
            self.peers = vec!["weft".to_owned(), "weft-old".to_owned()];
        }
        if !given.contains(&"--connections") {
            self.connections = 4;
        }
        if !given.contains(&"--rounds") {
            self.rounds = 3;
        }
        // What is not counted by the load generator would still be counted of the proxies.
        self.warm_up = Duration::ZERO;
    }

    fn quicken(&mut self) {
        self.rounds = 2;
        self.round = Duration::from_secs(1);
        self.warm_up = Duration::from_millis(500);
    }

    fn set(&mut self, option: &str, value: &str) -> anyhow::Result<()> {
        match option {
            "--rounds" => self.rounds = at_least_one(value)?,
            "--seconds" => self.round = Duration::try_from_secs_f64(value.parse()?)?,
            "--connections" => self.connections = at_least_one(value)?,
            "--h2-connections" => self.h2_connections = Some(at_least_one(value)?),
            "--only" => {
                self.protocols = vec![Protocol::named(value).context("not http1 or http2")?];
            }
            "--peers" => self.peers = value.split(',').map(str::to_owned).collect(),
            "--policy" => self.policy = Policy::named(value).context("not none or full")?,
            "--telemetry" => self.telemetry = Some(sample(value)?),
            "--json" => self.json = Some(value.into()),
            "--weft-proxy" => self.weft_proxy = Some(value.into()),
            "--weft-old" => self.weft_old = Some(value.into()),
            "--linkerd" => self.linkerd = Some(value.into()),
            "--ztunnel" => self.ztunnel = Some(value.into()),
            _ => bail!("unknown option; --help lists them"),
        }
        Ok(())
    }

    /// Returns how many connections the concurrent requests share, and how many of these each carries.
    pub(crate) fn connections_and_streams(&self, protocol: Protocol) -> (usize, usize) {
        let connections = match protocol {
            Protocol::Http1 => self.connections,
            Protocol::Http2 => self
                .h2_connections
                .unwrap_or(self.connections)
                .min(self.connections),
        };
        (connections, self.connections.div_ceil(connections))
    }

    /// Whether `--peers` lets this one join.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|wanted| wanted == name)
    }
}

impl Policy {
    fn named(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "full" => Some(Self::Full),
            _ => None,
        }
    }
}

fn sample(value: &str) -> anyhow::Result<&'static str> {
    match value {
        "1%" => Ok("1%"),
        "100%" => Ok("always"),
        "metrics" => Ok("never"),
        _ => bail!("not 1%, 100% or metrics"),
    }
}

/// Rounds from which the median has an interval that means something.
const PAIRS: usize = 9;

fn at_least_one(value: &str) -> anyhow::Result<usize> {
    let number: std::num::NonZeroUsize = value.parse()?;
    Ok(number.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> anyhow::Result<Settings> {
        Settings::parse(words)
    }

    #[test]
    fn options_set_what_they_name() {
        let settings = parse(&[
            "--quick",
            "--rounds",
            "7",
            "--only",
            "http2",
            "--peers",
            "weft,envoy",
        ])
        .unwrap();
        assert_eq!(settings.rounds, 7);
        assert_eq!(settings.round, Duration::from_secs(1));
        assert_eq!(settings.protocols, [Protocol::Http2]);
        assert!(settings.wants("envoy") && !settings.wants("nginx"));
    }

    #[test]
    fn policy_is_measured_in_pairs_unless_told_otherwise() {
        let settings = parse(&["--policy", "full"]).unwrap();
        assert_eq!((settings.policy, settings.rounds), (Policy::Full, 9));
        assert!(settings.wants("weft-full") && settings.wants("weft") && !settings.wants("envoy"));
        let settings =
            parse(&["--policy", "full", "--rounds", "3", "--peers", "weft,envoy"]).unwrap();
        assert_eq!(settings.rounds, 3);
        assert!(settings.wants("envoy"));
    }

    #[test]
    fn counting_is_of_weft_alone_unless_told_otherwise() {
        let settings = parse(&["--instructions"]).unwrap();
        assert_eq!((settings.rounds, settings.connections), (3, 4));
        assert!(settings.wants("weft") && !settings.wants("envoy"));
        let settings =
            parse(&["--policy", "full", "--instructions", "--connections", "1"]).unwrap();
        assert_eq!((settings.rounds, settings.connections), (3, 1));
        assert!(settings.wants("weft-full") && settings.warm_up.is_zero());
    }

    #[test]
    fn a_mistake_is_named() {
        let rows: &[(&[&str], &str)] = &[
            (&["--rounds", "0"], "--rounds 0"),
            (&["--rounds"], "--rounds is unknown or lacks its value"),
            (&["--only", "spdy"], "--only spdy"),
            (&["--policy", "some"], "--policy some"),
            (&["--telemetry", "some"], "--telemetry some"),
            (&["--frobnicate", "x"], "--frobnicate x"),
        ];
        for (words, want) in rows {
            assert_eq!(parse(words).unwrap_err().to_string(), *want);
        }
    }
}
