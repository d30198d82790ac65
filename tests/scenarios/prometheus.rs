//! What a real Prometheus makes of real proxies: the metrics are clean, every query of the dashboards has an answer, the alerts
//! are tested.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::Value;
use weft_tests::app::{self, App, tcp_echo};
use weft_tests::client::{Answer, Http1};
use weft_tests::eventually::eventually;
use weft_tests::mesh::{Endpoint, Mesh, Proxy};
use weft_tests::process::Process;
use weft_tests::scratch::Scratch;
use weft_tests::tools::require;

fn observability() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/observability")
}

/// `web` calls `orders`, one of whose endpoints is dead; a stranger calls both, and `db` in bytes.
struct Shop {
    web: Proxy,
    orders: Proxy,
    db: Proxy,
    _rest: (App, App, Mesh),
}

impl Shop {
    fn open() -> Self {
        let mesh = Mesh::new();
        let app = App::http(async |request| {
            let status: u16 = request.uri().path()[1..].parse().unwrap_or(200);
            let mut response = Response::new(app::text("answer"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        });
        let bytes = tcp_echo();
        let orders = mesh
            .proxy("orders")
            .serves(80, app.address)
            .policy("rate-limit: 10000/s")
            .start();
        let db = mesh.proxy("db").serves(5432, bytes.address).start();
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap();
        let dead = Endpoint {
            address: nobody,
            inbound: Some(nobody),
            ..orders.endpoint()
        };
        mesh.services(&[("orders", 80, "-", &[orders.endpoint(), dead])]);
        let web = mesh.proxy("web").set("WEFT_TRACE_SAMPLE", "always").start();
        Self {
            web,
            orders,
            db,
            _rest: (app, bytes, mesh),
        }
    }

    fn targets(&self) -> [SocketAddr; 3] {
        [self.web.metrics, self.orders.metrics, self.db.metrics]
    }

    /// A little of everything.
    async fn lives(&self) {
        let mut web = Http1::connect(self.web.outbound).await;
        for path in ["/", "/200", "/404", "/500"] {
            web.get("orders", path).await;
        }
        web.post("orders", "/", &[b'x'; 5000]).await;
        web.get("nowhere.invalid", "/").await;
        Http1::connect(self.orders.inbound)
            .await
            .get("orders", "/")
            .await;
        let mut bytes = Http1::connect(self.db.inbound).await;
        bytes.send(b"\x00\x01no HTTP\r\n").await;
        assert!(!bytes.some().await.is_empty());
        bytes.finish().await;
        bytes.rest().await;
    }
}

/// Runs `promtool` and returns what it says.
fn promtool(program: &Path, words: &[&str], input: Option<&str>) -> (bool, String) {
    let scratch = Scratch::new();
    let mut command = Command::new(program);
    command.args(words).current_dir(observability());
    if let Some(input) = input {
        let file = std::fs::File::open(scratch.file("metrics", input)).unwrap();
        command.stdin(Stdio::from(file));
    }
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn the_metrics_are_clean() {
    let Some([program]) = require(["promtool"]) else {
        return;
    };
    let shop = Shop::open();
    shop.lives().await;
    let scrape =
        |target| async move { Http1::connect(target).await.get("proxy", "/metrics").await };
    let text = scrape(shop.web.metrics).await.text().to_owned();
    let (_, said) = promtool(&program, &["check", "metrics"], Some(&text));
    // Istio's name for it is older than the rule.
    let want =
        "istio_request_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"";
    assert_eq!(said.trim(), want);
}

#[test]
fn alerts_fire_when_their_time_has_come() {
    let Some([program]) = require(["promtool"]) else {
        return;
    };
    for words in [
        ["check", "rules", "weft.rules.yaml"],
        ["test", "rules", "weft.rules.test.yaml"],
    ] {
        let (well, said) = promtool(&program, &words, None);
        assert!(well, "{words:?}: {said}");
    }
}

#[test]
fn alerts_ask_for_metrics_that_there_are() {
    let rules = std::fs::read_to_string(observability().join("weft.rules.yaml")).unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let asked = rules
        .lines()
        .filter(|line| !line.trim_start().starts_with('#') && !line.contains("description"));
    for name in asked.flat_map(names) {
        let bare = ["_bucket", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let known = [Some(name), bare]
            .into_iter()
            .flatten()
            .any(|name| docs.contains(&format!("`{name}`")));
        assert!(known, "{name} is in no table of docs/metrics.md");
    }
}

/// Words that look like our metrics.
fn names(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let ours = |word: &&str| {
        ["weft_", "istio_", "process_"]
            .iter()
            .any(|start| word.starts_with(start))
    };
    words.filter(ours).collect()
}

/// A Prometheus that scrapes a mesh.
struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _data: Scratch,
}

impl Prometheus {
    async fn start(program: &Path, targets: &[SocketAddr]) -> Self {
        let data = Scratch::new();
        let mut config = String::from(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [RULES]\nscrape_configs:\n- job_name: weft\n  static_configs:\n  - targets:\n",
        );
        for target in targets {
            let _ = writeln!(config, "    - \"{target}\"");
        }
        let rules = observability().join("weft.rules.yaml");
        let config = config.replace("RULES", rules.to_str().unwrap());
        let file = data.file("prometheus.yml", config);
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap();
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                data.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=warn"]);
        let process = Process::start("Prometheus", command);
        let up = async || tokio::net::TcpStream::connect(address).await.is_ok();
        eventually(Duration::from_secs(20), up, |up| *up).await;
        Self {
            address,
            _process: process,
            _data: data,
        }
    }

    async fn ask(&self, path: &str, query: &str) -> Value {
        let query: String = query.bytes().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "%{byte:02X}");
            text
        });
        let answer: Answer = Http1::connect(self.address)
            .await
            .get("prometheus", &format!("{path}{query}"))
            .await;
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    /// How many series a query has as its answer.
    async fn count(&self, query: &str) -> Result<usize, String> {
        let answer = self.ask("/api/v1/query?query=", query).await;
        match answer["data"]["result"].as_array() {
            Some(series) => Ok(series.len()),
            None => Err(format!("{query}: {answer}")),
        }
    }
}

/// Every query of the dashboards, with the variables that Grafana fills.
fn queries() -> BTreeSet<String> {
    let mut queries = BTreeSet::new();
    for name in ["mesh", "service", "workload", "proxy"] {
        let file = observability().join(format!("dashboards/{name}.json"));
        let board: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: two panels with one id"
            );
            for target in panel["targets"].as_array().into_iter().flatten() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}");
                queries.insert(filled(target["expr"].as_str().unwrap()));
            }
        }
        assert!(ids.len() > 5, "{name} shows something");
        for variable in board["templating"]["list"].as_array().unwrap() {
            let Some(query) = variable["definition"].as_str() else {
                continue;
            };
            let query = query
                .strip_prefix("label_values(")
                .unwrap()
                .strip_suffix(')')
                .unwrap();
            let (series, label) = query.rsplit_once(", ").unwrap();
            queries.insert(format!("count by ({label}) ({})", filled(series)));
        }
    }
    queries
}

fn filled(query: &str) -> String {
    let query = query.replace("$__rate_interval", "30s");
    ["$workload", "$namespace", "$instance"]
        .iter()
        .fold(query, |query, variable| query.replace(variable, ".*"))
}

#[tokio::test]
async fn every_query_of_the_dashboards_has_an_answer() {
    let Some([program]) = require(["prometheus"]) else {
        return;
    };
    let shop = Shop::open();
    shop.lives().await;
    let prometheus = Prometheus::start(&program, &shop.targets()).await;
    let scraped = async || {
        shop.lives().await;
        prometheus
            .count("count_over_time(weft_build_info[1m]) > 2")
            .await
            .unwrap_or(0)
    };
    eventually(Duration::from_secs(30), scraped, |count| *count == 3).await;
    for query in queries() {
        let answered = async || prometheus.count(&query).await.unwrap();
        let count = tokio::time::timeout(
            Duration::from_secs(5),
            eventually(Duration::from_secs(10), answered, |count| *count > 0),
        )
        .await;
        assert!(count.is_ok(), "no data: {query}");
    }
    let recorded = async || {
        prometheus
            .count("weft:service_errors:ratio5m > 0")
            .await
            .unwrap()
    };
    eventually(Duration::from_secs(10), recorded, |count| *count > 0).await;
    let exemplars = "/api/v1/query_exemplars?start=0&end=9999999999&query=";
    let answer = prometheus
        .ask(exemplars, "istio_request_duration_milliseconds_bucket")
        .await;
    let one = &answer["data"][0]["exemplars"][0]["labels"]["trace_id"];
    assert_eq!(one.as_str().map(str::len), Some(32), "{answer}");
}
