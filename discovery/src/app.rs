//! Wiring of discovery: what is watched, kept and served.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use weft_certs::authority::Authority;
use weft_policy::spiffe::SpiffeId;

use crate::board::Shared;
use crate::config::Config;
use crate::metrics::{self, Metrics};
use crate::model::{Model, Names};
use crate::own::Own;
use crate::serve::Server;
use crate::token::Tokens;
use crate::watch::{KINDS, News, SILENCE, Watches};
use crate::writer::{Word, Writer};

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If a socket cannot be bound, or nothing says where the API server is.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
        let ended = {
            let stop = stop.clone();
            async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop.cancel();
            }
        };
        let listeners = [config.listen, config.metrics_listen].map(bind);
        let [listener, metrics] = listeners;
        let cluster = kube::Config::infer().await;
        let cluster = cluster.context("find the API server")?;
        let served = serve(config, cluster, [listener?, metrics?], stop.clone());
        let (served, ()) = tokio::join!(served, ended);
        served
    })
}

/// Watches `cluster`, keeps what follows from it and serves that on the first listener, with metrics on the second, until `stop`.
///
/// # Errors
/// If the address of the API server or of the CA cannot be used.
pub async fn serve(
    config: Config,
    mut cluster: kube::Config,
    [listener, metrics_listener]: [TcpListener; 2],
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // A watch that is silent for longer is not there any more.
    cluster.read_timeout = Some(SILENCE);
    let client = Client::try_from(cluster).context("use the API server's address")?;
    let metrics = Metrics::new()?;
    let (shared, own) = (Shared::default(), Own::default());
    let tasks = TaskTracker::new();
    let (news, told) = mpsc::channel(NEWS);
    let watches = Watches {
        client: client.clone(),
        system: config.system_namespace.clone(),
        news,
        metrics: metrics.clone(),
    };
    watches.start(&tasks);
    drop(watches);
    let (words, said) = mpsc::channel(WORDS);
    let writer = Writer::new(client.clone());
    let keeper = Keeper {
        model: Model::new(Names {
            cluster_domain: config.cluster_domain.clone(),
            trust_domain: config.trust_domain.clone(),
        }),
        shared: shared.clone(),
        metrics: metrics.clone(),
        missing: KINDS.into_iter().collect(),
        words,
    };
    let (authority, id) = identity(&config)?;
    let server = Server {
        shared: shared.clone(),
        own: own.clone(),
        tokens: Some(Tokens::new(
            client,
            config.trust_domain.clone(),
            &config.audience,
        )),
        metrics: metrics.clone(),
        stop: stop.clone(),
    };
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let metrics_listener = tokio::net::TcpListener::from_std(metrics_listener)?;
    info!(listen = %listener.local_addr()?, "discovery starts");
    let ready = {
        let own = own.clone();
        Arc::new(move || shared.is_ready() && own.is_ready())
    };
    tokio::join!(
        server.run(listener),
        metrics::serve(metrics_listener, metrics, ready, stop.clone()),
        stop.run_until_cancelled(own.renew(authority, id)),
        stop.run_until_cancelled(keeper.run(told)),
        stop.run_until_cancelled(writer.run(said)),
    );
    Ok(())
}

fn identity(config: &Config) -> anyhow::Result<(Authority, SpiffeId)> {
    let id = SpiffeId::workload(
        &config.trust_domain,
        &config.system_namespace,
        &config.service_account,
    )?;
    let authority = Authority {
        address: config.ca_address.parse().context("read WEFT_CA_ADDRESS")?,
        roots: config.ca_root.clone(),
        name: config.ca_name.clone(),
        token_file: config.token_file.clone(),
        lifetime: config.cert_ttl,
    };
    Ok((authority, id))
}

/// Takes in what the watches say and keeps the board.
struct Keeper {
    model: Model,
    shared: Shared,
    metrics: Metrics,
    /// Kinds that have not been read whole yet.
    missing: HashSet<&'static str>,
    words: mpsc::Sender<Word>,
}

impl Keeper {
    async fn run(mut self, mut told: mpsc::Receiver<News>) {
        while let Some(news) = told.recv().await {
            self.take(news);
            // What comes together is told together.
            let latest = Instant::now() + LONGEST_WAIT;
            while let Ok(Some(news)) =
                timeout_at(latest.min(Instant::now() + QUIET), told.recv()).await
            {
                self.take(news);
            }
            self.flush();
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Change(change) => self.model.apply(*change),
            News::Synced(kind) => {
                if self.missing.remove(kind) && self.missing.is_empty() {
                    info!("the cluster is read");
                }
            }
        }
    }

    fn flush(&mut self) {
        if !self.missing.is_empty() {
            return;
        }
        let (model, metrics) = (&mut self.model, &self.metrics);
        self.shared.write(|board| {
            model.flush(board);
            let addresses = board.len(crate::board::Kind::Address);
            metrics
                .addresses
                .set(i64::try_from(addresses).unwrap_or(i64::MAX));
        });
        self.metrics
            .problems
            .set(i64::try_from(self.model.problems()).unwrap_or(i64::MAX));
        for problem in self.model.take_problems() {
            warn!(object = %problem.source, problem = problem.text, "annotations refused, the last good ones stay");
            self.say(Word::Problem(problem));
        }
        for verdict in self.model.take_verdicts() {
            self.say(Word::Verdict(verdict));
        }
    }

    /// Endpoints must not wait for what is written.
    fn say(&self, word: Word) {
        if let Err(error) = self.words.try_send(word) {
            warn!(%error, "too much to write, something is left out");
        }
    }
}

/// Binds; all addresses of both families become those of IPv4 where there is no IPv6.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let unspecified = address.is_ipv6() && address.ip().is_unspecified();
    let listener = match TcpListener::bind(address) {
        Err(_) if unspecified => TcpListener::bind(("0.0.0.0", address.port()))?,
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Changes that wait to be taken in; watches wait beyond it.
const NEWS: usize = 4096;
/// What waits to be written.
const WORDS: usize = 4096;
/// Nothing came for so long: time to tell.
const QUIET: Duration = Duration::from_millis(20);
/// It never becomes quiet: tell nevertheless.
const LONGEST_WAIT: Duration = Duration::from_millis(200);
