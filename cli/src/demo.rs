//! `weft demo`: a shop of three apps behind the mesh, on this machine, without root.
//!
//! One process each for the certificate authority, every app and every proxy, all of them this program started again.
//! This one listens for the proxies' spans, shows what happens, and ends the others.

mod collector;
mod forward;
mod identities;
mod journal;
mod netns;
mod network;
mod paint;
mod plan;
mod process;
mod scratch;
mod script;
mod shop;
mod tell;
mod trace;
mod waterfall;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use self::collector::Collector;
use self::journal::Journal;
use self::netns::Namespaces;
use self::network::Network;
pub(crate) use self::paint::Paint;
use self::plan::Plan;
use self::scratch::Scratch;
use self::script::{Check, Visitor};
use self::shop::Shop;
use self::tell::Teller;
use crate::config::DemoConfig;

/// How the demo ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All checks hold, or the watcher had seen enough.
    Good,
    /// Something was not as it must be; it has been printed.
    Different,
}

/// Runs the demo until its script is over, or Ctrl-C.
///
/// # Errors
/// The shop does not start, or a process of it dies.
pub(crate) fn run(config: &DemoConfig) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("start the demo's runtime")?;
    runtime.block_on(Box::pin(demo(config)))
}

async fn demo(config: &DemoConfig) -> anyhow::Result<Outcome> {
    let teller = Teller::new(config.paint);
    let mut interrupts = Interrupts::watch()?;
    let journal = Journal::new();
    let mut background = JoinSet::new();
    let shop = tokio::select! {
        biased;
        () = interrupts.next() => anyhow::bail!("interrupted while starting"),
        shop = start(config, &journal, &mut background, &teller) => shop?,
    };
    let shown = tokio::select! {
        biased;
        () = interrupts.next() => None,
        shown = show(config, &shop.plan, &journal, &teller) => Some(shown),
    };
    let ended = tokio::select! {
        biased;
        () = interrupts.next() => anyhow::bail!("interrupted while ending"),
        ended = shop.stop() => script::all_ended(&ended),
    };
    match shown {
        Some(checks) => Ok(teller.verdict(&[checks?, vec![ended]].concat())),
        None if config.args.once => anyhow::bail!("interrupted"),
        None => Ok(teller.farewell(&ended)),
    }
}

/// Starts to listen for spans on `hub`; returns where.
async fn collect(
    config: &DemoConfig,
    hub: IpAddr,
    journal: &Journal,
    background: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<SocketAddr> {
    let collector = Collector::bind(SocketAddr::new(hub, 0)).await?;
    let address = collector.address();
    let onward = config.collector.clone().map(|endpoint| {
        let (onward, exports) = mpsc::channel(forward::WAITING);
        let forwarding = forward::forward(endpoint, exports, journal.clone());
        background.spawn(async move {
            forwarding.await;
            Ok(())
        });
        onward
    });
    background.spawn(collector.serve(journal.clone(), onward));
    Ok(address)
}

/// Starts the shop, again on other ports when somebody took one of ours first.
async fn start(
    config: &DemoConfig,
    journal: &Journal,
    background: &mut JoinSet<anyhow::Result<()>>,
    teller: &Teller,
) -> anyhow::Result<Shop> {
    teller.starting();
    for _ in 0..TRIES {
        let network = match config.args.netns {
            true => Network::Namespaces(Namespaces::create()?),
            false => Network::Loopback,
        };
        let collector = collect(config, network.hub(), journal, background).await?;
        let plan = Plan::new(network, Scratch::create(&config.temporary)?, collector)?;
        match Shop::start(plan, journal).await {
            Err(error) if shop::lost_a_port(&error) => {
                journal.write(|entries| entries.death = None);
                teller.again();
            }
            started => return started,
        }
    }
    anyhow::bail!("somebody takes every port before we can use it; tried {TRIES} times")
}

/// Shows the first call; then plays the script, or shows whatever else happens, for ever.
async fn show(
    config: &DemoConfig,
    plan: &Plan,
    journal: &Journal,
    teller: &Teller,
) -> anyhow::Result<Vec<Check>> {
    teller.places(plan);
    let visitor = Visitor { plan, journal };
    if config.args.once {
        let (trace, checks) = script::play(&visitor).await;
        trace.iter().for_each(|trace| teller.trace(trace));
        return Ok(checks);
    }
    teller.hints(plan);
    visitor.visit().await.answered()?;
    tokio::select! {
        biased;
        death = journal.death() => Err(death.into()),
        never = watch(journal, teller) => match never {},
    }
}

/// Prints every trace that has settled.
async fn watch(journal: &Journal, teller: &Teller) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        let (settled, trouble) = journal.write(|entries| {
            let settled = entries.take_settled(now, QUIET);
            (settled, entries.not_forwarded.take())
        });
        settled.iter().for_each(|trace| teller.trace(trace));
        trouble
            .iter()
            .for_each(|reason| teller.not_forwarded(reason));
    }
}

/// Ctrl-C, SIGTERM and the end of the terminal.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn watch() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("watch for signals");
        Ok(Self([
            watch(SignalKind::interrupt())?,
            watch(SignalKind::terminate())?,
            watch(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the next of them.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// How often the shop is started on new ports before we give up.
const TRIES: u32 = 3;
/// How often we look for traces to show.
const LOOK: Duration = Duration::from_millis(100);
/// A trace nothing was added to for this long is complete: twice what the proxies wait before they export.
const QUIET: Duration = Duration::from_millis(400);
