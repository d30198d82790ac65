//! The rounds: every chain takes its turn in each round, so that a change of the machine's mood meets them all.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::args::Settings;
use crate::chain::{Chain, Site};
use crate::load::{Outcome, Plan, Protocol};
use crate::peer::{Missing, Peer};
use crate::process::Process;

/// All that was measured with one protocol.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Section {
    pub protocol: Protocol,
    /// Connections of the load generator, and concurrent requests on each.
    pub connections: usize,
    pub streams: usize,
    pub chains: Vec<Measured>,
    /// Peers that do not speak this protocol on all hops.
    pub not_spoken: Vec<String>,
    /// Peers whose chain did not come up.
    pub failed: Vec<Missing>,
}

/// All that was measured of one chain, a value for each of its processes, the one next to the client first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub name: String,
    /// After the first request has passed.
    pub idle_rss_bytes: Vec<u64>,
    /// After the last round, with its connections open.
    pub loaded_rss_bytes: Vec<u64>,
    pub rounds: Vec<Round>,
}

/// One round of one chain.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub cpu: Vec<Duration>,
    /// `None` where they are not counted.
    pub instructions: Option<Vec<u64>>,
    pub load: Outcome,
}

impl Round {
    /// CPU time of all proxies, in microseconds a request.
    pub(crate) fn cpu_micros(&self) -> f64 {
        self.cpu_micros_each().iter().sum()
    }

    pub(crate) fn cpu_micros_each(&self) -> Vec<f64> {
        self.cpu
            .iter()
            .map(|cpu| cpu.as_secs_f64() * 1e6 / self.load.requests as f64)
            .collect()
    }

    /// Instructions of all proxies a request; `None` where they are not counted.
    pub(crate) fn instructions_a_request(&self) -> Option<f64> {
        let all: u64 = self.instructions.as_ref()?.iter().sum();
        Some(all as f64 / self.load.requests as f64)
    }

    pub(crate) fn requests_per_second(&self) -> f64 {
        self.load.requests as f64 / self.load.elapsed.as_secs_f64()
    }
}

/// Starts a chain for every peer, measures them in turns and ends them.
pub(crate) async fn run(
    protocol: Protocol,
    peers: &[Peer],
    settings: &Settings,
) -> anyhow::Result<Section> {
    let site = Site::start(settings)?;
    let mut chains = Vec::new();
    let (mut not_spoken, mut failed) = (Vec::new(), Vec::new());
    for peer in peers {
        match Chain::start(peer, protocol, &site).await {
            Ok(Some(chain)) => chains.push(chain),
            Ok(None) => not_spoken.push(peer.name.clone()),
            Err(error) => {
                eprintln!("{error:#}");
                failed.push(Missing {
                    name: peer.name.clone(),
                    reason: format!("{error:#}"),
                });
            }
        }
    }
    let mut measured = chains
        .iter()
        .map(Measured::idle)
        .collect::<anyhow::Result<Vec<_>>>()?;
    if settings.instructions {
        // The first requests of a process cost more than all others: connections, caches, tables that grow.
        eprintln!("{}: warm-up", protocol.title());
        for chain in &chains {
            drop(take(chain, settings)?);
        }
    }
    for round in 1..=settings.rounds {
        eprintln!("{}: round {round} of {}", protocol.title(), settings.rounds);
        for (chain, measured) in chains.iter().zip(&mut measured) {
            let failed = || {
                format!(
                    "{} over {}\n{}",
                    chain.name,
                    protocol.title(),
                    chain.last_words()
                )
            };
            measured.round(chain, settings).with_context(failed)?;
        }
    }
    let (connections, streams) = settings.connections_and_streams(protocol);
    Ok(Section {
        protocol,
        connections,
        streams,
        chains: measured,
        not_spoken,
        failed,
    })
}

impl Measured {
    fn idle(chain: &Chain) -> anyhow::Result<Self> {
        let idle_rss_bytes = chain.each(Process::resident_bytes)?;
        Ok(Self {
            name: chain.name.clone(),
            idle_rss_bytes,
            loaded_rss_bytes: Vec::new(),
            rounds: Vec::new(),
        })
    }

    fn round(&mut self, chain: &Chain, settings: &Settings) -> anyhow::Result<()> {
        let (round, loaded_rss_bytes) = take(chain, settings)?;
        self.loaded_rss_bytes = loaded_rss_bytes;
        self.rounds.push(round);
        Ok(())
    }
}

/// A chain's turn, and the memory of its processes at the end of it.
fn take(chain: &Chain, settings: &Settings) -> anyhow::Result<(Round, Vec<u64>)> {
    let mut load = Load::start(&plan(chain, settings))?;
    ensure!(load.line()? == "start", "the load generator did not start");
    let before = chain.each(Process::cpu)?;
    let outcome: Outcome = serde_json::from_str(&load.line()?)?;
    let after = chain.each(Process::cpu)?;
    let memory = chain.each(Process::resident_bytes)?;
    let instructions = chain.proxies.iter().map(Process::instructions);
    let instructions: Option<Vec<u64>> = instructions.collect::<anyhow::Result<_>>()?;
    let round = Round {
        cpu: after
            .iter()
            .zip(before)
            .map(|(after, before)| *after - before)
            .collect(),
        instructions,
        load: outcome,
    };
    Ok((round, memory))
}

fn plan(chain: &Chain, settings: &Settings) -> Plan {
    let (connections, streams) = settings.connections_and_streams(chain.protocol);
    Plan {
        protocol: chain.protocol,
        entry: chain.entry.clone(),
        connections,
        streams,
        warm_up: settings.warm_up,
        round: settings.round,
    }
}

/// The load generator's process; it holds its connections until its input is closed, which dropping does.
struct Load {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Load {
    fn start(plan: &Plan) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["load", &serde_json::to_string(plan)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(
            child
                .stdout
                .take()
                .context("the load generator has no output")?,
        );
        Ok(Self { child, lines })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.child.stdin.take().map(|mut input| input.flush()));
        let _ended = self.child.wait();
    }
}
