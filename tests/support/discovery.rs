//! `weft-discovery` in the test's process, with a cluster that the test makes up: it goes and comes back at the same address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use weft_discovery::board::Shared;
use weft_discovery::cluster::{
    Change, Condition, Key, Notes, Pod, Service, ServicePort, Slice, SliceEndpoint,
};
use weft_discovery::metrics::Metrics;
use weft_discovery::model::{Model, Names};
use weft_discovery::own::Own;
use weft_discovery::serve::Server;

use crate::ca::id;
use crate::mesh::{Mesh, Starting};

/// The control plane and the cluster it sees.
pub struct Discovery {
    model: Arc<Mutex<Model>>,
    shared: Shared,
    own: Own,
    address: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

/// A pod of the cluster, as a row: its address, its proxy's account if it has one, and how it is.
pub type Row<'a> = (SocketAddr, Option<&'a str>, Condition);

impl Discovery {
    /// Starts with an empty cluster, with an identity of `mesh`.
    pub fn new(mesh: &Mesh) -> Self {
        let model = Model::new(Names {
            cluster_domain: "cluster.local".to_owned(),
            trust_domain: "cluster.local".parse().unwrap(),
        });
        let own = Own::default();
        own.set(&mesh.ca.files(ACCOUNT).identity()).unwrap();
        let mut discovery = Self {
            model: Arc::new(Mutex::new(model)),
            shared: Shared::default(),
            own,
            address: "127.0.0.1:0".parse().unwrap(),
            running: None,
        };
        discovery.flush();
        discovery.start();
        discovery
    }

    /// Starts it again: same address, same cluster.
    pub fn start(&mut self) {
        let listener = std::net::TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = Server {
            shared: self.shared.clone(),
            own: self.own.clone(),
            tokens: None,
            metrics: Metrics::new().unwrap(),
            stop: stop.clone(),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                server
                    .run(tokio::net::TcpListener::from_std(listener).unwrap())
                    .await;
            });
        });
        self.running = Some((stop, thread));
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.cancel();
            thread.join().unwrap();
        }
    }

    /// Makes `starting` take services and policy from here, as a pod of its account's name.
    pub fn supplies<'a>(&self, starting: Starting<'a>, pod: &str) -> Starting<'a> {
        starting
            .set(
                "WEFT_DISCOVERY_ADDRESS",
                format!("https://{}", self.address),
            )
            .set("WEFT_DISCOVERY_IDENTITY", id(ACCOUNT))
            .set("WEFT_POD_NAME", pod)
    }

    /// Changes the cluster.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        changes
            .into_iter()
            .for_each(|change| self.model.lock().apply(change));
        self.flush();
    }

    /// The service `name` of the namespace `default`, on port 80, with a pod a row.
    pub fn service(&self, name: &str, annotations: &[(&str, &str)], rows: &[Row<'_>]) {
        let port = ServicePort {
            name: String::new(),
            port: 80,
            protocol: weft_api::workload::AppProtocol::Unknown,
        };
        let service = Service {
            ports: vec![port],
            notes: notes(annotations),
            ..Service::default()
        };
        let key = Key::new("default", name);
        self.apply([Change::Service(key.clone(), Some(service))]);
        for (number, row) in rows.iter().enumerate() {
            self.endpoint(&key, number, row);
        }
        // Rows that are not there any more.
        for number in rows.len()..MAX_ROWS {
            let slice = Key::new("default", &format!("{name}-{number}"));
            self.apply([Change::Slice(slice.clone(), None), Change::Pod(slice, None)]);
        }
    }

    fn endpoint(&self, service: &Key, number: usize, (address, account, condition): &Row<'_>) {
        let key = Key::new("default", &format!("{}-{number}", service.name));
        let endpoint = SliceEndpoint {
            addresses: vec![address.ip()],
            condition: *condition,
            pod: Some(key.clone()),
            zone: None,
            hints: Vec::new(),
        };
        let slice = Slice {
            service: service.clone(),
            ports: vec![(String::new(), address.port())],
            endpoints: vec![endpoint],
        };
        let pod = Pod {
            addresses: vec![address.ip()],
            account: account.unwrap_or("default").to_owned(),
            meshed: account.is_some(),
            // All are on one address here, which so names nobody.
            host_network: true,
            ..Pod::default()
        };
        self.apply([
            Change::Pod(key.clone(), Some(pod)),
            Change::Slice(key, Some(slice)),
        ]);
    }

    fn flush(&self) {
        self.shared.write(|board| self.model.lock().flush(board));
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Annotations as an object has them.
pub fn notes(annotations: &[(&str, &str)]) -> Notes {
    let owned = annotations
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Notes {
        annotations: owned.collect(),
        ..Notes::default()
    }
}

const ACCOUNT: &str = "weft-discovery";
const MAX_ROWS: usize = 4;
