//! How discovery bears a large mesh: simulated watches on one side, subscribers over mutual TLS on the other.
//!
//! Discovery is a process of its own, so that its memory is its own. Each changed endpoint carries the time of its change, by which its
//! subscribers tell how long it took. One more subscriber never reads.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_api::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_api::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_api::workload::{Address, address};
use weft_certs::bundle::{Bundle, TrustBundles};
use weft_certs::identity::Identity;
use weft_certs::leaf::Leaf;
use weft_policy::spiffe::SpiffeId;

use crate::pki::Pki;

pub(crate) mod server;

/// How large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) services: usize,
    /// Of each service.
    pub(crate) endpoints: usize,
    pub(crate) subscribers: usize,
    pub(crate) changes: usize,
}

impl Sizes {
    pub(crate) fn parse(words: &[&str]) -> anyhow::Result<Self> {
        let mut sizes = Self {
            services: 1000,
            endpoints: 10,
            subscribers: 1000,
            changes: 1000,
        };
        let fields = [
            &mut sizes.services,
            &mut sizes.endpoints,
            &mut sizes.subscribers,
            &mut sizes.changes,
        ];
        for (field, word) in fields.into_iter().zip(words) {
            *field = word
                .parse()
                .with_context(|| format!("{word} is no number"))?;
        }
        Ok(sizes)
    }

    fn words(self) -> [String; 4] {
        [
            self.services,
            self.endpoints,
            self.subscribers,
            self.changes,
        ]
        .map(|size| size.to_string())
    }
}

/// Runs it and returns what to print.
pub(crate) fn run(sizes: &Sizes) -> anyhow::Result<String> {
    let dir = std::env::temp_dir().join(format!("weft-bench-discovery-{}", std::process::id()));
    let pki = Pki::create(&dir)?;
    let mut discovery = Discovery::start(sizes, &dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(measured(sizes, &mut discovery, &pki));
    drop(discovery);
    std::fs::remove_dir_all(&dir).context("remove the certificates")?;
    report
}

async fn measured(sizes: &Sizes, discovery: &mut Discovery, pki: &Pki) -> anyhow::Result<String> {
    let idle = discovery.resident()?;
    let own = identity(&pki.first.dir)?;
    let tls = own.client_config(&SpiffeId::parse(&pki.second.spiffe_id)?, &[b"h2"])?;
    let begun = SystemTime::now();
    let stuck = subscribe(discovery.address, &tls, sizes).await?;
    let mut subscribers = Vec::new();
    for _ in 0..sizes.subscribers {
        subscribers.push(subscribe(discovery.address, &tls, sizes).await?);
    }
    let mut reading = JoinSet::new();
    for subscriber in subscribers {
        reading.spawn(subscriber.all(20 * (1 + sizes.endpoints)));
    }
    let mut ready = Vec::new();
    while let Some(subscriber) = reading.join_next().await {
        ready.push(subscriber??);
    }
    let filled = begun.elapsed()?;
    let loaded = discovery.resident()?;
    let cpu = discovery.cpu()?;
    let (told, mut heard) = mpsc::channel(65_536);
    for subscriber in ready {
        reading.spawn(subscriber.follow(told.clone()));
    }
    drop(told);
    discovery.say("go")?;
    let mut latencies = Vec::new();
    while let Ok(Some(latency)) = tokio::time::timeout(Duration::from_secs(5), heard.recv()).await {
        latencies.push(latency);
    }
    let cpu = discovery.cpu()?.saturating_sub(cpu);
    let after = discovery.resident()?;
    drop(stuck);
    report(sizes, &mut latencies, filled, [idle, loaded, after], cpu)
}

fn report(
    sizes: &Sizes,
    latencies: &mut [Duration],
    filled: Duration,
    [idle, loaded, after]: [u64; 3],
    cpu: Duration,
) -> anyhow::Result<String> {
    latencies.sort_unstable();
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below the length"
        )]
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index).copied().unwrap_or_default()
    };
    let mut text = String::new();
    let Sizes {
        services,
        endpoints,
        subscribers,
        changes,
    } = sizes;
    writeln!(
        text,
        "{services} services, {} endpoints, {subscribers} subscribers of 20 services each and one that never reads",
        services * endpoints
    )?;
    writeln!(text, "all subscribed and filled in {filled:.1?}")?;
    writeln!(
        text,
        "{changes} changes, {} notices: p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
        latencies.len(),
        at(0.5),
        at(0.99),
        latencies.last().copied().unwrap_or_default()
    )?;
    writeln!(
        text,
        "discovery: {} MB with the cluster, {} MB with subscribers, {} MB after the changes, which took {cpu:.1?} of CPU",
        idle >> 20,
        loaded >> 20,
        after >> 20
    )?;
    Ok(text)
}

/// Discovery in a process of its own.
struct Discovery {
    child: Child,
    address: SocketAddr,
}

impl Discovery {
    fn start(sizes: &Sizes, dir: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("discovery-server")
            .arg(dir)
            .args(sizes.words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("read its output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().context("read its address")?;
        Ok(Self { child, address })
    }

    fn say(&mut self, word: &str) -> anyhow::Result<()> {
        let input = self.child.stdin.as_mut().context("write to its input")?;
        Ok(writeln!(input, "{word}")?)
    }

    fn resident(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("find VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// `schedstat` begins with nanoseconds on a CPU.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()))?;
        let nanos = text.split(' ').next().context("read schedstat")?.parse()?;
        Ok(Duration::from_nanos(nanos))
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A subscriber of some services.
struct Subscriber {
    responses: Streaming<DeltaDiscoveryResponse>,
    _requests: mpsc::Sender<DeltaDiscoveryRequest>,
}

async fn subscribe(
    address: SocketAddr,
    tls: &Arc<ClientConfig>,
    sizes: &Sizes,
) -> anyhow::Result<Subscriber> {
    let channel = channel(address, tls).await?;
    let (requests, mut taken) = mpsc::channel(4);
    let mut names = std::collections::BTreeSet::new();
    while names.len() < 20.min(sizes.services) {
        names.insert(server::resource(fastrand::usize(..sizes.services)));
    }
    requests
        .send(DeltaDiscoveryRequest {
            type_url: weft_api::ADDRESS.to_owned(),
            resource_names_subscribe: names.into_iter().collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await?;
    let outgoing = futures_util::stream::poll_fn(move |cx| taken.poll_recv(cx));
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let responses = client
        .delta_aggregated_resources(outgoing)
        .await?
        .into_inner();
    Ok(Subscriber {
        responses,
        _requests: requests,
    })
}

impl Subscriber {
    /// Reads until it has `count` resources.
    async fn all(mut self, count: usize) -> anyhow::Result<Self> {
        let mut have = 0;
        while have < count {
            let Some(response) = self.responses.next().await else {
                bail!("the stream ended with {have} of {count}");
            };
            have += response?.resources.len();
        }
        Ok(self)
    }

    /// Tells how old each change is that comes.
    async fn follow(mut self, told: mpsc::Sender<Duration>) -> anyhow::Result<Self> {
        while let Some(Ok(response)) = self.responses.next().await {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            for resource in response.resources {
                let payload = resource.resource.context("a resource without content")?;
                if let Some(address::Type::Workload(workload)) =
                    Address::decode(payload.value)?.r#type
                    && let Ok(nanos) = workload.node.parse()
                {
                    told.send(now.saturating_sub(Duration::from_nanos(nanos)))
                        .await?;
                }
            }
        }
        Ok(self)
    }
}

async fn channel(address: SocketAddr, tls: &Arc<ClientConfig>) -> anyhow::Result<Channel> {
    let tcp = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::clone(tls))
        .connect(ServerName::try_from("localhost")?, tcp)
        .await?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or(io::ErrorKind::ConnectionReset);
        async move { stream.map_err(io::Error::from) }
    });
    let endpoint = Endpoint::from_static("https://localhost");
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// Reads an identity from its directory.
fn identity(dir: &Path) -> anyhow::Result<Identity> {
    let text = |name: &str| std::fs::read_to_string(dir.join(name));
    let leaf = Leaf::from_pem(&text("tls.crt")?, &text("tls.key")?)?;
    let trust = TrustBundles::of(
        leaf.id().trust_domain(),
        Bundle::from_pem(&text("ca.crt")?)?,
    );
    Ok(Identity::new(Arc::new(leaf), Arc::new(trust))?)
}
