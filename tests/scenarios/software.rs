//! Real servers and clients through both proxies, redirected, over IPv4 and IPv6.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use weft_tests::netns::{Host, User, scenario};
use weft_tests::pair::{Offer, Pair, in_url, serve_on, services_of_app};
use weft_tests::process::Process;
use weft_tests::sidecar::{counted, scrape};
use weft_tests::tools;

use crate::PROXY;

/// Labels of what `app`'s proxy counts for calls of `web` over mutual TLS.
const FROM_WEB: [&str; 3] = [
    r#"reporter="destination""#,
    r#"connection_security_policy="mutual_tls""#,
    r#"source_principal="spiffe://cluster.local/ns/default/sa/web""#,
];

fn pair(ports: &[(u16, &str)], mtls: &str) -> Pair {
    Pair::new(PROXY.as_ref(), Offer { ports, mtls })
}

/// Runs `program` on `host` and returns what it wrote, which must be a success.
fn output(host: &Host, program: &PathBuf, arguments: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = host.run(program, arguments);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(
        status.success(),
        "{program:?} {arguments:?}: {status}\n{stdout}\n{stderr}"
    );
    stdout.into_owned()
}

fn nginx(pair: &Pair, program: &PathBuf) -> Process {
    nginx_on(&pair.app, pair, program)
}

fn nginx_on(host: &Host, pair: &Pair, program: &PathBuf) -> Process {
    let folder = pair.folder("nginx");
    let write =
        |name: &str, bytes: &[u8]| std::fs::write(format!("{folder}/{name}"), bytes).unwrap();
    let (certificate, key) = self_signed();
    write("small.txt", b"hello from nginx\n");
    write("large.bin", &large());
    write("tls.crt", certificate.as_bytes());
    write("tls.key", key.as_bytes());
    write(
        "nginx.conf",
        include_str!("software/nginx.conf")
            .replace("FOLDER", &folder)
            .as_bytes(),
    );
    let mut command = host.command(User::APP, program);
    command.args([
        "-p",
        &folder,
        "-c",
        &format!("{folder}/nginx.conf"),
        "-e",
        "stderr",
    ]);
    serve_on(host, "nginx", command, &[80, 8081, 443])
}

fn self_signed() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["nginx.test".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// 8 MiB in which no two blocks are alike.
fn large() -> Vec<u8> {
    (0_u32..2 << 20)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect()
}

#[test]
fn curl_reads_from_nginx_over_both_families() {
    let Some([server, curl]) = tools::require(["nginx", "curl"]) else {
        return;
    };
    scenario(|| {
        let pair = pair(&[(80, "-"), (8081, "-")], "strict");
        let _nginx = nginx(&pair, &server);
        for address in services_of_app().into_iter().chain(pair.app.addresses()) {
            let url = |path: &str| format!("http://{}{path}", in_url(address));
            let get = |arguments: &[&str]| {
                output(
                    &pair.web,
                    &curl,
                    &[&["-sS", "--max-time", "20"], arguments].concat(),
                )
            };
            assert_eq!(
                get(&[&url("/small.txt")]),
                "hello from nginx\n",
                "{address}"
            );
            assert_eq!(
                get(&["-0", &url("/small.txt")]),
                "hello from nginx\n",
                "HTTP/1.0 {address}"
            );
            let h2c = url(":8081/small.txt");
            assert_eq!(
                get(&["--http2-prior-knowledge", &h2c]),
                "hello from nginx\n",
                "HTTP/2 {address}"
            );
            let twice = get(&[
                "-w",
                "%{num_connects} ",
                &url("/small.txt"),
                &url("/small.txt"),
            ]);
            assert_eq!(
                twice, "hello from nginx\n1 hello from nginx\n0 ",
                "kept alive {address}"
            );
            let head = get(&["-I", &url("/small.txt")]);
            let head = head.to_lowercase();
            assert!(
                head.starts_with("http/1.1 200 ok\r\n") && head.contains("content-length: 17\r\n"),
                "{head}"
            );
            assert_eq!(
                get(&["-o", "/dev/null", "-w", "%{http_code}", &url("/missing")]),
                "404"
            );
            assert_eq!(get(&["-d", "a=b", &url("/echo")]), "POST a=b", "{address}");
        }
        counted(&pair.app, "istio_requests_total", &FROM_WEB, 32.0);
    });
}

#[test]
fn large_bodies_arrive_unchanged_in_both_directions() {
    let Some([server, curl]) = tools::require(["nginx", "curl"]) else {
        return;
    };
    scenario(|| {
        let pair = pair(&[(80, "-"), (8081, "-")], "strict");
        let _nginx = nginx(&pair, &server);
        let (up, down) = (pair.scratch.file("up", large()), pair.folder("down"));
        for address in services_of_app() {
            for (version, port) in [("--http1.1", 80), ("--http2-prior-knowledge", 8081)] {
                let url = |path: &str| format!("http://{}:{port}{path}", in_url(address));
                let file = format!("{down}/file");
                output(
                    &pair.web,
                    &curl,
                    &["-sS", version, "-o", &file, &url("/large.bin")],
                );
                assert!(
                    std::fs::read(&file).unwrap() == large(),
                    "download {version} {address}"
                );
                let upload = format!("@{}", up.display());
                output(
                    &pair.web,
                    &curl,
                    &[
                        "-sS",
                        version,
                        "--data-binary",
                        &upload,
                        "-o",
                        &file,
                        &url("/echo"),
                    ],
                );
                assert!(
                    std::fs::read(&file).unwrap() == [b"POST ".as_slice(), &large()].concat(),
                    "upload {version} {address}"
                );
            }
        }
    });
}

#[test]
fn h2load_loses_no_request() {
    let Some([server, h2load]) = tools::require(["nginx", "h2load"]) else {
        return;
    };
    scenario(|| {
        let pair = pair(&[(80, "-"), (8081, "-")], "strict");
        let _nginx = nginx(&pair, &server);
        for address in services_of_app() {
            for (version, port) in [("--h1", 80), ("--no-tls-proto=h2c", 8081)] {
                // h2load would write an IPv6 address into Host without its brackets, which is refused.
                let url = format!("http://app-v4:{port}/small.txt");
                let to = format!("--connect-to={}:{port}", in_url(address));
                let told = output(
                    &pair.web,
                    &h2load,
                    &[version, &to, "-n", "2000", "-c", "20", "-m", "5", &url],
                );
                let want = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout";
                assert!(told.contains(want), "{version} {to}:\n{told}");
                assert!(
                    told.contains("status codes: 2000 2xx"),
                    "{version} {to}:\n{told}"
                );
            }
        }
    });
}

#[test]
fn app_tls_passes_untouched_when_permissive_and_is_closed_when_strict() {
    let Some([server, curl]) = tools::require(["nginx", "curl"]) else {
        return;
    };
    scenario(|| {
        for (mtls, served) in [("permissive", true), ("strict", false)] {
            let pair = pair(&[(443, "-")], mtls);
            let _nginx = nginx(&pair, &server);
            let certificate = format!("{}/nginx/tls.crt", pair.scratch.path().display());
            for address in services_of_app() {
                let to = format!("nginx.test:443:{address}");
                let trust = ["--cacert", &certificate, "https://nginx.test/small.txt"];
                let arguments =
                    [&["-sS", "--max-time", "5", "--resolve", &to], &trust[..]].concat();
                let got = pair.web.run(&curl, &arguments);
                let body = String::from_utf8_lossy(&got.stdout);
                assert_eq!(
                    body == "hello from nginx\n",
                    served,
                    "{mtls} {address}: {got:?}"
                );
            }
        }
    });
}

#[test]
fn plaintext_from_outside_is_served_when_permissive_and_refused_when_strict() {
    let Some([server, curl]) = tools::require(["nginx", "curl"]) else {
        return;
    };
    scenario(|| {
        for (mtls, served) in [("permissive", true), ("strict", false)] {
            let pair = pair(&[(80, "-")], mtls);
            let _nginx = nginx(&pair, &server);
            for address in pair.app.addresses() {
                for url in ["http://HOST/small.txt", "https://HOST/small.txt"] {
                    let url = url.replace("HOST", &in_url(address));
                    let got = pair.outside.run(&curl, &["-sSk", "--max-time", "5", &url]);
                    let body = String::from_utf8_lossy(&got.stdout);
                    assert_eq!(
                        body == "hello from nginx\n",
                        served,
                        "{mtls} {url}: {got:?}"
                    );
                }
            }
            let mutual = scrape(&pair.app).sum("istio_requests_total", &FROM_WEB[1..2]);
            assert!(mutual < 0.5, "no mutual TLS from outside");
        }
    });
}

#[test]
fn addresses_outside_the_mesh_are_reached_as_without_it() {
    let Some([server, curl]) = tools::require(["nginx", "curl"]) else {
        return;
    };
    scenario(|| {
        let pair = pair(&[], "strict");
        let _nginx = nginx_on(&pair.outside, &pair, &server);
        for address in pair.outside.addresses() {
            let url = format!("http://{}/small.txt", in_url(address));
            assert_eq!(
                output(&pair.web, &curl, &["-sS", &url]),
                "hello from nginx\n"
            );
        }
    });
}

#[test]
fn pod_that_calls_its_own_service_goes_through_its_own_inbound_policy() {
    let Some([server, curl]) = tools::require(["nginx", "curl"]) else {
        return;
    };
    scenario(|| {
        let pair = pair(&[(80, "-")], "strict");
        let _nginx = nginx(&pair, &server);
        for address in services_of_app() {
            let url = format!("http://{}/small.txt", in_url(address));
            assert_eq!(
                output(&pair.app, &curl, &["-sS", &url]),
                "hello from nginx\n"
            );
        }
        let itself = r#"source_principal="spiffe://cluster.local/ns/default/sa/app""#;
        counted(
            &pair.app,
            "istio_requests_total",
            &[FROM_WEB[0], FROM_WEB[1], itself],
            2.0,
        );
    });
}

#[test]
fn redis_answers_on_a_declared_and_on_an_undeclared_port() {
    let Some([server, cli]) = tools::require(["redis-server", "redis-cli"]) else {
        return;
    };
    scenario(|| {
        let pair = pair(&[(6379, "-"), (7000, "-")], "strict");
        let folder = pair.folder("redis");
        for port in ["6379", "7000"] {
            let mut command = pair.app.command(User::APP, &server);
            command.args([
                "--port",
                port,
                "--bind",
                "*",
                "-::*",
                "--protected-mode",
                "no",
                "--save",
                "",
                "--dir",
                &folder,
            ]);
            let _redis = pair.serve("redis", command, &[port.parse().unwrap()]);
            for address in services_of_app() {
                let host = address.to_string();
                let call = |arguments: &[&str]| {
                    output(
                        &pair.web,
                        &cli,
                        &[&["-h", &host, "-p", port], arguments].concat(),
                    )
                };
                let value = "x".repeat(100_000);
                assert_eq!(call(&["set", "key", &value]), "OK\n", "{host}:{port}");
                assert_eq!(call(&["get", "key"]), value + "\n", "{host}:{port}");
                assert_eq!(
                    call(&["-r", "100", "incr", &format!("n{host}")])
                        .lines()
                        .last(),
                    Some("100"),
                    "{host}:{port}"
                );
            }
        }
        counted(
            &pair.app,
            "istio_tcp_connections_opened_total",
            &FROM_WEB,
            12.0,
        );
    });
}

#[test]
fn postgres_answers_on_a_declared_and_on_an_undeclared_port() {
    let Some([initdb, server, psql]) = tools::require(["initdb", "postgres", "psql"]) else {
        return;
    };
    scenario(|| {
        let pair = pair(&[(5432, "-"), (15432, "-")], "strict");
        let data = pair.folder("postgres") + "/data";
        output(
            &pair.app,
            &initdb,
            &[
                "-D",
                &data,
                "-U",
                "weft",
                "--auth=trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--no-locale",
            ],
        );
        std::fs::write(
            format!("{data}/pg_hba.conf"),
            "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n",
        )
        .unwrap();
        for port in ["5432", "15432"] {
            let mut command = pair.app.command(User::APP, &server);
            command.args([
                "-D",
                &data,
                "-p",
                port,
                "-c",
                "listen_addresses=*",
                "-c",
                "unix_socket_directories=",
                "-c",
                "fsync=off",
            ]);
            let _postgres = pair
                .serve("postgres", command, &[port.parse().unwrap()])
                .stopped_with(Signal::INT);
            for address in services_of_app() {
                let url = format!("postgresql://weft@{}:{port}/postgres", in_url(address));
                let sum = "select sum(n), string_agg(md5(n::text), '') = '' from generate_series(1, 20000) n";
                assert_eq!(
                    output(&pair.web, &psql, &["-X", "-A", "-t", "-c", sum, &url]),
                    "200010000|f\n",
                    "{url}"
                );
            }
        }
        counted(
            &pair.app,
            "istio_tcp_connections_opened_total",
            &FROM_WEB,
            4.0,
        );
    });
}

#[test]
fn server_that_speaks_first_is_not_kept_waiting() {
    let Some([server, client]) = tools::require(["mariadbd", "mariadb"]) else {
        return;
    };
    scenario(|| {
        let pair = pair(&[(3306, "-"), (13306, "-")], "strict");
        for port in [3306, 13306] {
            let _mariadb = mariadb(&pair, &server, port);
            for address in services_of_app() {
                let waited = greeting(&pair.web, address, port);
                assert!(
                    waited < Duration::from_millis(500),
                    "greeting of {address}:{port} after {waited:?}"
                );
                let (host, port) = (address.to_string(), port.to_string());
                let query = "select repeat('y', 100000) = concat(repeat('y', 99999), 'y'), version() like '%MariaDB%'";
                let arguments = [
                    "--no-defaults",
                    "--protocol=tcp",
                    "-h",
                    &host,
                    "-P",
                    &port,
                    "-u",
                    "root",
                    "-N",
                    "-B",
                    "-e",
                    query,
                ];
                assert_eq!(
                    output(&pair.web, &client, &arguments),
                    "1\t1\n",
                    "{host}:{port}"
                );
            }
        }
        counted(
            &pair.app,
            "istio_tcp_connections_opened_total",
            &FROM_WEB,
            8.0,
        );
    });
}

fn mariadb(pair: &Pair, server: &PathBuf, port: u16) -> Process {
    let folder = pair.folder(&format!("mariadb-{port}"));
    let mut command: Command = pair.app.command(User::APP, server);
    command.args([
        "--no-defaults",
        "--skip-grant-tables",
        "--skip-name-resolve",
        "--skip-networking=0",
        "--bind-address=*",
        "--innodb-flush-method=nosync",
    ]);
    command.args([
        format!("--datadir={folder}"),
        format!("--socket={folder}/socket"),
        format!("--port={port}"),
    ]);
    command.args([
        format!("--pid-file={folder}/pid"),
        format!("--tmpdir={folder}"),
    ]);
    pair.serve("mariadb", command, &[port])
}

/// Returns how long the server's first byte took to come to a client that says nothing.
fn greeting(host: &Host, address: IpAddr, port: u16) -> Duration {
    host.enter(User::APP, || {
        let start = Instant::now();
        let mut stream = TcpStream::connect(SocketAddr::new(address, port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        start.elapsed()
    })
}
