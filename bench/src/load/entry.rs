//! Where the requests of a chain go in, and how a connection to there is made.

use std::net::SocketAddr;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The way into a chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub address: SocketAddr,
    /// Host or `:authority`.
    pub authority: String,
    /// Where a SOCKS5 proxy at `address` is to connect to; `None` where requests are sent to `address` as they are.
    pub socks_to: Option<SocketAddr>,
    /// A bearer token that every request carries.
    pub token: Option<String>,
}

impl Entry {
    /// The entry of most chains, which take requests for any name.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self {
            address,
            authority: "app".to_owned(),
            socks_to: None,
            token: None,
        }
    }

    /// Connects, through SOCKS5 where the chain wants that.
    pub(crate) async fn connect(&self) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if let Some(SocketAddr::V4(to)) = self.socks_to {
            // RFC 1928 sections 3 and 4: version 5, no authentication; CONNECT to an IPv4 address.
            stream.write_all(&[5, 1, 0]).await?;
            expect(&mut stream, [5, 0]).await?;
            stream.write_all(&[5, 1, 0, 1]).await?;
            stream.write_all(&to.ip().octets()).await?;
            stream.write_all(&to.port().to_be_bytes()).await?;
            expect(&mut stream, [5, 0]).await?;
            let mut bound = [0; 8];
            stream.read_exact(&mut bound).await?;
        }
        Ok(stream)
    }
}

async fn expect(stream: &mut TcpStream, want: [u8; 2]) -> anyhow::Result<()> {
    let mut got = [0; 2];
    stream.read_exact(&mut got).await?;
    ensure!(got == want, "SOCKS5 answered {got:?}");
    Ok(())
}
