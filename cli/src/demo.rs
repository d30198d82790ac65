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
mod scenes;
mod scratch;
mod script;
mod shop;
mod spans;
mod tell;
pub(crate) mod trace;
pub(crate) mod waterfall;

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use self::journal::Journal;
use self::netns::Namespaces;
use self::network::Network;
pub(crate) use self::paint::Paint;
use self::plan::Plan;
use self::scratch::Scratch;
use self::script::{Check, Visitor};
use self::shop::Shop;
use self::spans::Spans;
use self::tell::Teller;
use crate::config::DemoConfig;
use crate::dashboard;
use crate::insight::Proxies;

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
    let (shop, mut spans) = tokio::select! {
        biased;
        () = interrupts.next() => anyhow::bail!("interrupted while starting"),
        started = start(config, &journal, &teller) => started?,
    };
    let shown = tokio::select! {
        biased;
        () = interrupts.next() => None,
        failure = spans.failure() => Some(Err(failure)),
        shown = show(config, &shop.plan, &journal, &teller) => Some(shown),
    };
    let ended = tokio::select! {
        biased;
        () = interrupts.next() => anyhow::bail!("interrupted while ending"),
        ended = end(config, shop, spans, &journal) => ended,
    };
    match shown {
        Some(checks) => Ok(teller.verdict(&[checks?, ended].concat())),
        None if config.args.once => anyhow::bail!("interrupted"),
        None => Ok(teller.farewell(&ended)),
    }
}

/// Starts the shop, again on other ports when somebody took one of ours first.
async fn start(
    config: &DemoConfig,
    journal: &Journal,
    teller: &Teller,
) -> anyhow::Result<(Shop, Spans)> {
    teller.starting();
    for _ in 0..TRIES {
        let network = match config.args.netns {
            true => Network::Namespaces(Namespaces::create()?),
            false => Network::Loopback,
        };
        let spans = Spans::receive(network.hub(), config.collector.clone(), journal).await?;
        let scratch = Scratch::create(&config.temporary)?;
        let plan = Plan::new(network, scratch, spans.address())?;
        match Shop::start(plan, journal).await {
            Err(error) if shop::lost_a_port(&error) => {
                journal.write(|entries| entries.death = None);
                teller.again();
            }
            started => return started.map(|shop| (shop, spans)),
        }
    }
    anyhow::bail!("somebody takes every port before we can use it; tried {TRIES} times")
}

/// Ends the processes, whose last spans still come in, and then the rest.
async fn end(config: &DemoConfig, shop: Shop, spans: Spans, journal: &Journal) -> Vec<Check> {
    let mut checks = vec![script::all_ended(&shop.stop().await)];
    spans.finish().await;
    if config.collector.is_some() {
        checks.push(script::all_forwarded(journal));
    }
    checks
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
    let page = dashboard::listener()
        .await
        .context("listen for the dashboard")?;
    let address = page.local_addr().context("read the dashboard's address")?;
    teller.hints(plan);
    teller.dashboard(address);
    let admins = plan.places().map(|place| place.admin);
    visitor.visit().await.answered()?;
    tokio::select! {
        biased;
        death = journal.death() => Err(death.into()),
        never = watch(journal, teller) => match never {},
        () = dashboard::serve(page, Proxies::at(admins.to_vec())) => anyhow::bail!("the dashboard ended"),
    }
}

/// Prints every trace that has settled.
async fn watch(journal: &Journal, teller: &Teller) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(LOOK);
    let mut told = None;
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        let (settled, trouble) = journal.write(|entries| {
            let settled = entries.take_settled(now, QUIET);
            (settled, entries.not_forwarded.clone())
        });
        settled.iter().for_each(|trace| teller.trace(trace));
        if trouble != told {
            trouble
                .iter()
                .for_each(|reason| teller.not_forwarded(reason));
            told = trouble;
        }
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
