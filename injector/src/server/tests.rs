//! Strangers at the door, and how fast it opens for friends. Real sockets and TLS.

use std::net::SocketAddr;

use hyper::client::conn::http2::SendRequest;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_policy::spiffe::TrustDomain;

use super::*;
use crate::own::Source;

struct Running {
    address: SocketAddr,
    roots: String,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

/// Starts a server on the running `LocalSet`.
async fn running() -> Running {
    let directory = tempfile::tempdir().unwrap();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = [
        ("tls.crt", cert.pem()),
        ("ca.crt", cert.pem()),
        ("tls.key", signing_key.serialize_pem()),
    ];
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let (own, stop) = (Own::default(), CancellationToken::new());
    let source = Source::Directory(directory.path().to_owned());
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let cluster = Cluster::unknown(trust_domain);
    let server = Server::new(
        own.clone(),
        cluster,
        Settings::new(),
        Metrics::new().unwrap(),
        stop.clone(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut shown = own.roots();
    let tasks = TaskTracker::new();
    tasks.spawn_local(own.keep(source, Metrics::new().unwrap()));
    tasks.spawn_local(server.run(listener));
    shown.changed().await.unwrap();
    Running {
        address,
        roots: cert.pem(),
        stop,
        _directory: directory,
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    fn tls(&self) -> ClientConfig {
        weft_certs::web::outside_config(&self.roots).unwrap()
    }

    async fn connect(&self, tls: ClientConfig) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await
            .unwrap()
    }

    /// Sends bytes as they are, and returns what comes until the other side has said all.
    async fn exchange(&self, head: &str, body: &[u8]) -> String {
        let mut stream = self.connect(self.tls()).await;
        let request = format!(
            "{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        // Who is refused early may find the way closed.
        let _cut = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _cut = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn review() -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.example/app:1", "ports": [{"name": "http", "containerPort": 8080}],
            "env": (0..20).map(|number| json!({"name": format!("VARIABLE_{number}"), "value": "x".repeat(40)})).collect::<Vec<_>>(),
            "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}}, "readinessProbe": {"tcpSocket": {"port": 8080}},
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        })
    };
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop", "operation": "CREATE",
        "object": {
            "metadata": {"generateName": "orders-7d9f-", "labels": {"app": "orders"}, "annotations": {
                "weft.dev/retry": "{attempts: 3, budget: 10%}", "weft.dev/timeout": "2s", "weft.dev/allow": "web, shop/*",
            }},
            "spec": {"containers": [container("app"), container("helper")], "volumes": [{"name": "data", "emptyDir": {}}]},
        },
    }})
}

async fn locally<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(Box::pin(test)).await
}

#[tokio::test]
async fn a_review_is_answered_over_both_versions_of_tls() {
    locally(async {
        let server = running().await;
        let body = review().to_string();
        let answer = server.exchange("POST /inject?timeout=10s HTTP/1.1\r\ncontent-type: application/json; charset=utf-8", body.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"patchType\":\"JSONPatch\""), "{answer}");
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut roots = rustls::RootCertStore::empty();
            let certificates = rustls_pki_types::pem::PemObject::pem_slice_iter(server.roots.as_bytes());
            roots.add_parsable_certificates(certificates.map(Result::unwrap));
            let tls = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
            let stream = server.connect(tls.with_root_certificates(roots).with_no_client_auth()).await;
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        }
    })
    .await;
}

#[tokio::test]
async fn strangers_get_a_clear_answer() {
    locally(async {
        let server = running().await;
        let json = "POST /inject HTTP/1.1\r\ncontent-type: application/json";
        let good = review().to_string().into_bytes();
        let large = vec![b' '; 10 * 1024 * 1024];
        let deep = "[".repeat(1_000_000).into_bytes();
        let rows: &[(&str, &str, &[u8], &str, &str)] = &[
            (
                "GET",
                "GET /inject HTTP/1.1",
                b"",
                "405",
                "only POST is served here",
            ),
            (
                "another path",
                "POST / HTTP/1.1\r\ncontent-type: application/json",
                &good,
                "404",
                "AdmissionReviews go to /inject",
            ),
            (
                "no content type",
                "POST /inject HTTP/1.1",
                &good,
                "415",
                "the content type is not application/json",
            ),
            (
                "text",
                "POST /inject HTTP/1.1\r\ncontent-type: text/plain",
                &good,
                "415",
                "the content type is not",
            ),
            (
                "10 MB",
                json,
                &large,
                "413",
                "the body is longer than 7340032 bytes",
            ),
            ("deep", json, &deep, "400", "invalid type: sequence"),
            (
                "not JSON",
                json,
                b"apiVersion: v1",
                "400",
                "the body is no AdmissionReview: ",
            ),
            ("empty", json, b"", "400", "EOF while parsing"),
            (
                "another kind",
                json,
                br#"{"apiVersion":"v1","kind":"Pod","request":{"uid":"1","kind":{}}}"#,
                "400",
                "\"Pod\" of \"v1\"",
            ),
            (
                "wrong types",
                json,
                br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":[]}"#,
                "400",
                "is no AdmissionReview",
            ),
        ];
        for (name, head, body, status, want) in rows {
            let answer = server.exchange(head, body).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{name}: {answer}"
            );
            assert!(answer.contains(want), "{name}: {answer}");
        }
        let answer = server.exchange(json, &good).await;
        assert!(answer.contains("\"allowed\":true"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    locally(async {
        let server = running().await;
        let mut stream = server.connect(server.tls()).await;
        let head = "POST /inject HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = format!("100000\r\n{}\r\n", " ".repeat(0x10_0000));
        for _ in 0..10 {
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                break;
            }
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
    })
    .await;
}

/// One core carries it all, the client included: `cargo test --release -p weft-injector -- --ignored --nocapture admissions`.
#[tokio::test]
#[ignore = "a measurement; run it in release"]
async fn admissions_a_second() {
    locally(async {
        let server = running().await;
        let body = Bytes::from(review().to_string());
        let mut tls = server.tls();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = server.connect(tls).await;
        let io = TokioIo::new(stream);
        let (client, connection): (SendRequest<Full<Bytes>>, _) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .unwrap();
        let tasks = TaskTracker::new();
        tasks.spawn(connection);
        let mut took = Vec::new();
        let begun = Instant::now();
        for number in 0..RATE * SECONDS {
            tokio::time::sleep_until(begun + Duration::from_secs(1) * number / RATE).await;
            let (mut client, body) = (client.clone(), body.clone());
            took.push(tasks.spawn(async move {
                let sent = Instant::now();
                let request = Request::post("https://localhost/inject").header(CONTENT_TYPE, JSON);
                let answer = client
                    .send_request(request.body(Full::from(body)).unwrap())
                    .await
                    .unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                answer.into_body().collect().await.unwrap();
                sent.elapsed()
            }));
        }
        let mut times = Vec::new();
        for one in took {
            times.push(one.await.unwrap());
        }
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        let line = format!(
            "{RATE}/s for {SECONDS} s: p50 {:?}, p99 {:?}, most {:?}\n",
            at(50),
            at(99),
            at(100)
        );
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
        let busy = Instant::now();
        for _ in 0..2000 {
            let mut client = client.clone();
            let request = Request::post("https://localhost/inject").header(CONTENT_TYPE, JSON);
            let answer = client
                .send_request(request.body(Full::from(body.clone())).unwrap())
                .await
                .unwrap();
            answer.into_body().collect().await.unwrap();
        }
        let line = format!(
            "one after another: {:.0}/s\n",
            2000.0 / busy.elapsed().as_secs_f64()
        );
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
        assert!(at(99) < Duration::from_millis(10), "{:?}", at(99));
    })
    .await;
}

const RATE: u32 = 500;
const SECONDS: u32 = 10;
