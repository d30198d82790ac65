//! Client side of mesh TLS: expects exactly the identity that discovery names.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_policy::spiffe::SpiffeId;

use crate::rewind::Rewind;

/// Who must answer, and what we call it.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) identity: SpiffeId,
    pub(crate) server_name: ServerName<'static>,
}

/// Istio's SNI: `outbound_.<port>_._.<fqdn>`; a name that DNS could not carry is sent without its service.
pub(crate) fn server_name(host: &str, port: u16) -> ServerName<'static> {
    let fallback = || ServerName::try_from(format!("outbound_.{port}_._.invalid"));
    match ServerName::try_from(format!("outbound_.{port}_._.{host}")).or_else(|_not_dns| fallback())
    {
        Ok(name) => name,
        // Digits, dots and underscores are a DNS name, so this arm is only for the type.
        Err(_) => ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
    }
}

/// Does the handshake.
///
/// # Errors
/// The other side is not who it must be, or does not speak TLS 1.3.
pub(crate) async fn connect(
    io: Rewind,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<TlsStream<Rewind>> {
    TlsConnector::from(config).connect(name, io).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_name_is_istios() {
        assert_eq!(
            server_name("orders.shop", 80).to_str(),
            "outbound_.80_._.orders.shop"
        );
        assert_eq!(
            server_name("not a name", 81).to_str(),
            "outbound_.81_._.invalid"
        );
    }
}
