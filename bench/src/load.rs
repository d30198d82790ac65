//! The load generator: a closed loop of a fixed number of concurrent requests, in a process of its own.
//!
//! It warms up, says `start`, counts for the length of a round, prints its [`Outcome`] as a line of JSON and then holds its
//! connections open, so that memory can be read under load, until its standard input ends.

mod entry;
pub(crate) mod http1;
mod http2;

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, timeout};

pub(crate) use self::entry::Entry;

/// The protocol end to end: from the load generator to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "http1" => Some(Self::Http1),
            "http2" => Some(Self::Http2),
            _ => None,
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// One round of load, as handed to the process that makes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub protocol: Protocol,
    pub entry: Entry,
    pub connections: usize,
    /// Concurrent requests on each connection; 1 for HTTP/1.
    pub streams: usize,
    pub warm_up: Duration,
    pub round: Duration,
}

/// What a round of load saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub requests: u64,
    /// Requests that got no answer, or another one than the app's.
    pub errors: u64,
    pub elapsed: Duration,
    pub p50: Duration,
    pub p99: Duration,
}

/// Runs the plan, as the process that [`crate::measure`] started.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let tally = Rc::new(Tally::default());
        let mut tasks = JoinSet::new();
        start_clients(plan, &tally, &mut tasks).await?;
        sleep(plan.warm_up).await;
        say("start")?;
        let outcome = tally.measure(plan.round).await?;
        say(&serde_json::to_string(&outcome)?)?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    })
}

async fn start_clients(
    plan: &Plan,
    tally: &Rc<Tally>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    for _ in 0..plan.connections {
        match plan.protocol {
            Protocol::Http1 => {
                let client = http1::Client::new(plan.entry.clone()).await?;
                tasks.spawn_local(http1::drive(client, Rc::clone(tally)));
            }
            Protocol::Http2 => {
                let client = http2::Client::new(&plan.entry, tasks).await?;
                for _ in 0..plan.streams {
                    tasks.spawn_local(http2::drive(client.clone(), Rc::clone(tally)));
                }
            }
        }
    }
    Ok(())
}

/// Sends one request through the chain and expects the app's answer: what readiness is probed with.
pub(crate) async fn probe(protocol: Protocol, entry: &Entry) -> anyhow::Result<()> {
    let one = async {
        match protocol {
            Protocol::Http1 => http1::Client::new(entry.clone()).await?.request().await,
            Protocol::Http2 => {
                let mut tasks = JoinSet::new();
                http2::Client::new(entry, &mut tasks).await?.request().await
            }
        }
    };
    timeout(Duration::from_secs(10), LocalSet::new().run_until(one))
        .await
        .context("no answer within 10 s")?
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Counts the requests of all clients of this process, while it is told to.
#[derive(Default)]
pub(crate) struct Tally {
    counting: Cell<bool>,
    stopped: Cell<bool>,
    latencies: RefCell<Vec<Duration>>,
    errors: Cell<u64>,
}

impl Tally {
    /// Whether clients are to go on sending.
    pub(crate) fn running(&self) -> bool {
        !self.stopped.get()
    }

    pub(crate) fn answered(&self, started: Instant) {
        if self.counting.get() {
            self.latencies.borrow_mut().push(started.elapsed());
        }
    }

    pub(crate) fn failed(&self) {
        self.errors.set(self.errors.get() + 1);
    }

    async fn measure(&self, round: Duration) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        self.counting.set(true);
        sleep(round).await;
        self.stopped.set(true);
        let elapsed = started.elapsed();
        let mut latencies = self.latencies.take();
        ensure!(!latencies.is_empty(), "no request was answered");
        latencies.sort_unstable();
        Ok(Outcome {
            requests: latencies.len() as u64,
            errors: self.errors.get(),
            elapsed,
            p50: quantile(&latencies, 50),
            p99: quantile(&latencies, 99),
        })
    }
}

/// Returns the value below or at which `percent` of the sorted values lie (nearest rank).
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_nearest_rank() {
        let values: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let rows = [(50, 100), (99, 198), (100, 200), (0, 1)];
        for (percent, want) in rows {
            assert_eq!(
                quantile(&values, percent),
                Duration::from_millis(want),
                "{percent}"
            );
        }
        assert_eq!(quantile(&[], 50), Duration::ZERO);
    }

    #[tokio::test]
    async fn the_app_answers_both_protocols() {
        let bind = || tokio::net::TcpListener::bind("127.0.0.1:0");
        let [http1, http2, spans] = [
            bind().await.unwrap(),
            bind().await.unwrap(),
            bind().await.unwrap(),
        ];
        let rows = [
            (Protocol::Http1, http1.local_addr().unwrap()),
            (Protocol::Http2, http2.local_addr().unwrap()),
        ];
        LocalSet::new()
            .run_until(async {
                let mut tasks = JoinSet::new();
                tasks.spawn_local(crate::app::serve(http1, http2, spans));
                for (protocol, address) in rows {
                    let entry = Entry::at(address);
                    let plan = Plan {
                        protocol,
                        entry,
                        connections: 2,
                        streams: 1,
                        warm_up: Duration::ZERO,
                        round: Duration::from_millis(50),
                    };
                    let tally = Rc::new(Tally::default());
                    let mut clients = JoinSet::new();
                    start_clients(&plan, &tally, &mut clients).await.unwrap();
                    let outcome = tally.measure(plan.round).await.unwrap();
                    assert!(
                        outcome.requests > 0 && outcome.errors == 0,
                        "{protocol:?}: {outcome:?}"
                    );
                }
            })
            .await;
    }
}
