//! Discovery with a made-up cluster, whose watches tell what this program makes up.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_api::workload::AppProtocol;
use weft_discovery::board::Shared;
use weft_discovery::cluster::{
    Change, Condition, Key, OwnerRef, Pod, Service, ServicePort, Slice, SliceEndpoint,
};
use weft_discovery::keep::{Keeper, News};
use weft_discovery::metrics::Metrics;
use weft_discovery::model::{Model, Names};
use weft_discovery::own::Own;
use weft_discovery::serve::Server;

use super::{Sizes, identity};

/// Serves until it is killed; makes the changes when its input says so.
pub(crate) fn run(sizes: &Sizes, dir: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(*sizes, dir))
}

async fn serve(sizes: Sizes, dir: &Path) -> anyhow::Result<()> {
    let (own, shared, metrics) = (Own::default(), Shared::default(), Metrics::new()?);
    own.set(&identity(&dir.join("app"))?)?;
    let (news, told) = mpsc::channel(4096);
    let (words, _unread) = mpsc::channel(1);
    let names = Names {
        cluster_domain: "cluster.local".to_owned(),
        trust_domain: "cluster.local".parse()?,
    };
    let keeper = Keeper {
        model: Model::new(names),
        shared: shared.clone(),
        metrics: metrics.clone(),
        missing: [ALL].into(),
        words,
    };
    let server = Server {
        shared: shared.clone(),
        own,
        tokens: None,
        metrics,
        stop: CancellationToken::new(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let tell = async {
        fill(sizes, &news).await?;
        while !shared.is_ready() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut output = std::io::stdout();
        writeln!(output, "{address}").context("tell the address")?;
        tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new()))
            .await??;
        change(sizes, &news).await?;
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        () = keeper.run(told) => anyhow::bail!("the keeper ended"),
        () = server.run(listener) => anyhow::bail!("the server ended"),
        told = tell => told,
    }
}

/// The whole cluster, as watches list it.
async fn fill(sizes: Sizes, news: &mpsc::Sender<News>) -> anyhow::Result<()> {
    for number in 0..sizes.services {
        let port = ServicePort {
            name: "http".to_owned(),
            port: 80,
            protocol: AppProtocol::Http11,
        };
        let service = Service {
            addresses: vec![[10, 96, high(number), low(number)].into()],
            ports: vec![port],
            ..Service::default()
        };
        say(news, Change::Service(key(number), Some(service))).await?;
        let endpoint = |index| SliceEndpoint {
            addresses: vec![address(number * sizes.endpoints + index)],
            condition: Condition::Ready,
            pod: Some(pod_key(number, index)),
            zone: Some("eu-west-1a".to_owned()),
            hints: Vec::new(),
        };
        let slice = Slice {
            service: key(number),
            ports: vec![("http".to_owned(), 8080)],
            endpoints: (0..sizes.endpoints).map(endpoint).collect(),
        };
        say(news, Change::Slice(key(number), Some(slice))).await?;
        for index in 0..sizes.endpoints {
            let pod = pod(sizes, number, index, "node-1".to_owned());
            say(news, Change::Pod(pod_key(number, index), Some(pod))).await?;
        }
    }
    news.send(News::Synced(ALL))
        .await
        .context("the keeper ended")
}

/// A hundred changes a second, each with its time.
async fn change(sizes: Sizes, news: &mpsc::Sender<News>) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..sizes.changes {
        ticks.tick().await;
        let (number, index) = (
            fastrand::usize(..sizes.services),
            fastrand::usize(..sizes.endpoints),
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let pod = pod(sizes, number, index, now.to_string());
        say(news, Change::Pod(pod_key(number, index), Some(pod))).await?;
    }
    Ok(())
}

async fn say(news: &mpsc::Sender<News>, change: Change) -> anyhow::Result<()> {
    news.send(News::Change(Box::new(change)))
        .await
        .context("the keeper ended")
}

fn pod(sizes: Sizes, number: usize, index: usize, node: String) -> Pod {
    Pod {
        addresses: vec![address(number * sizes.endpoints + index)],
        account: format!("service-{number}"),
        node,
        meshed: true,
        owner: Some(OwnerRef {
            kind: "ReplicaSet".into(),
            key: key(number),
        }),
        canonical_name: format!("service-{number}"),
        canonical_revision: "v1".to_owned(),
        ..Pod::default()
    }
}

fn key(number: usize) -> Key {
    Key::new(
        &format!("namespace-{}", number % 50),
        &format!("service-{number}"),
    )
}

fn pod_key(number: usize, index: usize) -> Key {
    Key::new(
        &format!("namespace-{}", number % 50),
        &format!("service-{number}-5d8f9c7b6-{index}"),
    )
}

/// The name of a service in the mesh.
pub(super) fn resource(number: usize) -> String {
    let Key { namespace, name } = key(number);
    format!("{namespace}/{name}.{namespace}.svc.cluster.local")
}

fn address(number: usize) -> std::net::IpAddr {
    [
        10,
        u8::try_from(number >> 16 & 63).unwrap_or(0),
        high(number),
        low(number),
    ]
    .into()
}

fn high(number: usize) -> u8 {
    u8::try_from(number >> 8 & 255).unwrap_or(0)
}

fn low(number: usize) -> u8 {
    u8::try_from(number & 255).unwrap_or(0)
}

const ALL: &str = "all";
