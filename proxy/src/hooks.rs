//! What the kubelet runs in the proxy's container: `weft-proxy wait` when it starts, where nothing else may start before the proxy is ready,
//! and `weft-proxy drain` when the pod ends.
//!
//! Both ask the proxy that runs beside them, on the addresses that the environment names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;

/// Returns when the proxy is ready.
///
/// # Errors
/// It is not within two minutes.
pub fn wait(config: &Config) -> anyhow::Result<()> {
    let address = local(config.ready_listen);
    block_on(async {
        let begun = Instant::now();
        loop {
            let asked = ask(address, "GET /ready").await;
            if asked.is_ok() || begun.elapsed() > WAIT {
                return asked.context("wait for the proxy");
            }
            sleep(LOOK_AGAIN).await;
        }
    })
}

/// Tells the proxy that its pod ends: from now on it says goodbye to its callers. It goes on until it gets its own signal.
///
/// # Errors
/// There is no proxy.
pub fn drain(config: &Config) -> anyhow::Result<()> {
    let address = local(config.admin_listen);
    block_on(async { ask(address, "POST /drain").await.context("tell the proxy") })
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("make a runtime")?.block_on(work)
}

/// Where this host reaches a listener.
fn local(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // One socket takes both families.
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn ask(address: SocketAddr, line: &str) -> anyhow::Result<()> {
    let exchange = async {
        let mut io = TcpStream::connect(address).await?;
        let request = format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        io.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        io.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(PATIENCE, exchange)
        .await
        .context("wait for an answer")?;
    let answer = answer.with_context(|| format!("reach {address}"))?;
    match answer.starts_with("HTTP/1.1 200 ") {
        true => Ok(()),
        false => bail!("{}", answer.lines().last().unwrap_or("no answer")),
    }
}

const WAIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const MAX_ANSWER: u64 = 4096;
