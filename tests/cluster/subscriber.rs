//! A subscriber of discovery that keeps what it is told.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_api::ads::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_api::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use weft_api::workload::{Address, Service, Workload, address};
use weft_tests::eventually::soon;

/// What it knows now.
pub(crate) struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    pub(crate) known: BTreeMap<String, Resource>,
    pub(crate) removed: Vec<String>,
}

impl Subscriber {
    /// Connects with `tls`, and shows `token` if there is one.
    pub(crate) async fn connect(
        address: SocketAddr,
        tls: ClientConfig,
        token: Option<&str>,
    ) -> Result<Self, tonic::Status> {
        let channel = channel(address, tls).await.unwrap();
        let (requests, mut taken) = mpsc::channel(16);
        let outgoing = futures_util::stream::poll_fn(move |cx| taken.poll_recv(cx));
        let mut request = tonic::Request::new(outgoing);
        if let Some(token) = token {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = soon(client.delta_aggregated_resources(request))
            .await?
            .into_inner();
        Ok(Self {
            requests,
            responses,
            known: BTreeMap::new(),
            removed: Vec::new(),
        })
    }

    /// Asks for more.
    pub(crate) async fn subscribe(&self, kind: &str, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            type_url: kind.to_owned(),
            resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// Waits until `reached` is content with what is known.
    pub(crate) async fn until(&mut self, reached: impl Fn(&Self) -> bool) {
        while !reached(self) {
            let response = soon(self.responses.message()).await.unwrap().unwrap();
            for name in response.removed_resources {
                self.known.remove(&name);
                self.removed.push(name);
            }
            self.known.extend(
                response
                    .resources
                    .into_iter()
                    .map(|one| (one.name.clone(), one)),
            );
        }
    }

    /// The content of a resource.
    pub(crate) fn content<T: Message + Default>(&self, name: &str) -> Option<T> {
        let resource = self.known.get(name)?.resource.as_ref()?;
        Some(T::decode(resource.value.clone()).unwrap())
    }

    pub(crate) fn service(&self, name: &str) -> Option<Service> {
        match self.content::<Address>(name)?.r#type? {
            address::Type::Service(service) => Some(service),
            address::Type::Workload(_) => None,
        }
    }

    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let addresses = self
            .known
            .keys()
            .filter_map(|name| self.content::<Address>(name)?.r#type);
        let workloads = addresses.filter_map(|one| match one {
            address::Type::Workload(workload) => Some(workload),
            address::Type::Service(_) => None,
        });
        workloads.collect()
    }
}

async fn channel(
    address: SocketAddr,
    tls: ClientConfig,
) -> Result<Channel, tonic::transport::Error> {
    let name = ServerName::try_from("localhost").unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(std::sync::Arc::new(tls))
        .connect(name, tcp)
        .await
        .unwrap();
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or(io::ErrorKind::ConnectionReset);
        async move { stream.map_err(io::Error::from) }
    });
    Endpoint::from_static("https://localhost")
        .connect_with_connector(connector)
        .await
}
