//! Where the proxies' spans come in and go on: the collector and the forwarder, as tasks with an end in order.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::collector::Collector;
use super::forward;
use super::journal::Journal;
use crate::config;

/// The running collector, and the forwarder if the operator has a collector too.
#[derive(Debug)]
pub(crate) struct Spans {
    address: SocketAddr,
    collecting: JoinSet<anyhow::Result<()>>,
    forwarding: JoinSet<()>,
}

impl Spans {
    /// Starts to listen on a free port of `hub`.
    ///
    /// # Errors
    /// The address is not to be had.
    pub(crate) async fn receive(
        hub: IpAddr,
        onward: Option<config::Collector>,
        journal: &Journal,
    ) -> anyhow::Result<Self> {
        let collector = Collector::bind(SocketAddr::new(hub, 0)).await?;
        let address = collector.address();
        let (mut collecting, mut forwarding) = (JoinSet::new(), JoinSet::new());
        let onward = onward.map(|theirs| {
            let (onward, exports) = mpsc::channel(forward::WAITING);
            forwarding.spawn(forward::forward(theirs, exports, journal.clone()));
            onward
        });
        collecting.spawn(collector.serve(journal.clone(), onward));
        Ok(Self {
            address,
            collecting,
            forwarding,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the collector fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        match self.collecting.join_next().await {
            Some(Ok(Err(error))) => error.context("the demo's collector failed"),
            ended => anyhow::anyhow!("the demo's collector ended: {ended:?}"),
        }
    }

    /// Takes no more, and hands on what has come in.
    pub(crate) async fn finish(mut self) {
        // The way onward closes with the collector, and the forwarder ends when it is empty.
        self.collecting.shutdown().await;
        let _too_slow = tokio::time::timeout(PATIENCE, self.forwarding.join_next()).await;
    }
}

/// How long the operator's collector may take for the last spans.
const PATIENCE: Duration = Duration::from_secs(5);
