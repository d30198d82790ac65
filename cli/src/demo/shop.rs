//! The shop as it runs: started in order, waited for, ended together.

use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderMap, StatusCode};

use super::journal::{Death, Journal};
use super::network::Place;
use super::plan::Plan;
use super::process::{self, Ended, Processes};
use crate::client;

/// The running shop.
#[derive(Debug)]
pub(crate) struct Shop {
    /// Before the plan, so that processes go before the files and namespaces they use.
    processes: Processes,
    pub(crate) plan: Plan,
}

impl Shop {
    /// Starts everything, and waits until every proxy is ready.
    ///
    /// # Errors
    /// A process dies, or not all proxies are ready within [`START`] (30 s).
    pub(crate) async fn start(plan: Plan, journal: &Journal) -> anyhow::Result<Self> {
        let mut processes = Processes::new(journal.clone());
        let started = tokio::select! {
            biased;
            death = journal.death() => Err(death.into()),
            started = tokio::time::timeout(START, open(&plan, &mut processes)) => {
                started.context("wait for the proxies to get ready").flatten()
            }
        };
        match started {
            Ok(()) => Ok(Self { processes, plan }),
            Err(error) => {
                processes.stop().await;
                Err(error)
            }
        }
    }

    /// Ends everything.
    pub(crate) async fn stop(self) -> Vec<Ended> {
        self.processes.stop().await
    }
}

async fn open(plan: &Plan, processes: &mut Processes) -> anyhow::Result<()> {
    processes.start(&plan.start_ca())?;
    wait_until(|| plan.published_root().exists()).await;
    plan.hand_out_root()?;
    for place in plan.places() {
        if let Some(redirect) = plan.start_redirect(place) {
            process::run(&redirect).await?;
        }
        processes.start(&plan.start_app(place))?;
        processes.start(&plan.start_proxy(place))?;
    }
    for place in plan.places() {
        wait_until_ready(place).await;
    }
    Ok(())
}

/// Tells whether a start failed because somebody took a port between our picking and using it.
pub(crate) fn lost_a_port(error: &anyhow::Error) -> bool {
    let death = error.downcast_ref::<Death>();
    death.is_some_and(|death| death.output.iter().any(|line| line.contains("in use")))
}

async fn wait_until_ready(place: &Place) {
    let none = HeaderMap::new();
    loop {
        let answer = client::get(place.ready, "localhost", "/ready", &none).await;
        if answer.is_ok_and(|answer| answer.status == StatusCode::OK) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_until(ready: impl Fn() -> bool) {
    while !ready() {
        tokio::time::sleep(POLL).await;
    }
}

const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_taken_port_is_worth_another_try() {
        let death = |line: &str| {
            anyhow::Error::from(Death {
                process: "proxy of web".to_owned(),
                status: "exit status: 1".to_owned(),
                output: vec![line.to_owned()],
            })
        };
        assert!(lost_a_port(&death(
            "bind 127.0.0.1:1: Address already in use (os error 98)"
        )));
        assert!(!lost_a_port(&death("no token file")));
        assert!(!lost_a_port(&anyhow::anyhow!("in use")));
    }
}
