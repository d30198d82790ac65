//! Names that are in no file: DNS says where they lead, its TTL for how long, and its silence changes nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use weft_tests::client::Http1;
use weft_tests::eventually::eventually;
use weft_tests::metrics::Scrape;
use weft_tests::netns::{Host, Network, User, scenario};
use weft_tests::process::Process;
use weft_tests::scratch::Scratch;

use crate::PROXY;

/// What the name server does.
#[derive(Clone, Copy, Debug)]
enum Zone {
    /// `shop.test` is there.
    At(Ipv4Addr),
    /// Nothing is answered.
    Silent,
}

#[test]
fn a_name_is_followed_by_its_ttl_and_kept_while_dns_is_silent() {
    scenario(|| {
        let network = Network::new();
        let host = network.host();
        let (one, two) = (Ipv4Addr::new(127, 0, 0, 11), Ipv4Addr::new(127, 0, 0, 12));
        app(&host, one, "one");
        app(&host, two, "two");
        let zone = Arc::new(Mutex::new(Zone::At(one)));
        name_server(&host, &zone);
        let scratch = Scratch::new();
        let _proxy = proxy(&host, &scratch);
        host.enter(User::ROOT, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(follow(&zone, one, two));
        });
    });
}

async fn follow(zone: &Mutex<Zone>, one: Ipv4Addr, two: Ipv4Addr) {
    let mut client = Http1::connect(OUTBOUND).await;
    let answer = client.get("nowhere.test:8080", "/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.reject()),
        (404, "unknown_service")
    );
    assert_eq!(called(&mut client).await, "one");
    *zone.lock() = Zone::At(two);
    let who = async || called(&mut client).await;
    eventually(PATIENCE, who, |name| name == "two").await;
    // A lookup fails, and what was last good is used on.
    *zone.lock() = Zone::Silent;
    let before = failed_lookups().await;
    let look = async || {
        assert_eq!(called(&mut client).await, "two");
        failed_lookups().await
    };
    eventually(PATIENCE, look, |count| *count > before).await;
    *zone.lock() = Zone::At(one);
    let who = async || called(&mut client).await;
    eventually(PATIENCE, who, |name| name == "one").await;
}

/// Calls, and says who has answered.
async fn called(client: &mut Http1) -> String {
    let answer = client.get("shop.test:8080", "/").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text().to_owned()
}

async fn failed_lookups() -> f64 {
    let scrape = Scrape::of(METRICS).await;
    scrape.sum("weft_dns_lookups_total", &["result=\"failed\""])
}

/// Starts the proxy where `/etc/resolv.conf` is one that names our server.
fn proxy(host: &Host, scratch: &Scratch) -> Process {
    let settings = scratch.file("resolv.conf", "nameserver 127.0.0.1\n");
    let mut command = host.command(User::ROOT, "unshare");
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    command
        .args(["--mount", "sh", "-c", script])
        .arg(settings)
        .arg(PROXY);
    command
        .env("WEFT_OUTBOUND_LISTEN", OUTBOUND.to_string())
        .env("WEFT_METRICS_LISTEN", METRICS.to_string());
    let mut process = Process::start("the proxy", command);
    host.until_listening(&mut process, OUTBOUND);
    process
}

/// Starts an app that says its name.
fn app(host: &Host, ip: Ipv4Addr, name: &'static str) {
    let listener = host.enter(User::ROOT, || TcpListener::bind((ip, 8080)).unwrap());
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let mut io = io.unwrap();
            // A request without content is in the first segment.
            let read = io.read(&mut [0; 4096]).is_ok_and(|count| count > 0);
            let length = name.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{name}"
            );
            if read {
                let _gone = io.write_all(answer.as_bytes());
            }
        }
    });
}

/// Starts a name server of the host for `zone`.
fn name_server(host: &Host, zone: &Arc<Mutex<Zone>>) {
    let socket = host.enter(User::ROOT, || UdpSocket::bind("127.0.0.1:53").unwrap());
    let zone = Arc::clone(zone);
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let seen = *zone.lock();
            if let Some(reply) = reply(&packet[..length], seen) {
                socket.send_to(&reply, from).unwrap();
            }
        }
    });
}

/// RFC 1035 section 4.1: a header of 12 bytes, the question, and here one answer at most.
fn reply(query: &[u8], zone: Zone) -> Option<Vec<u8>> {
    let Zone::At(address) = zone else {
        return None;
    };
    let name = query[12..].iter().position(|byte| *byte == 0).unwrap() + 13;
    let question = &query[12..name + 4];
    let known = question.starts_with(b"\x04shop\x04test\0");
    let wanted = known && question[question.len() - 4..] == *b"\0\x01\0\x01";
    let code = if known { 0 } else { 3 };
    let flags = [0x85, 0x80 | code, 0, 1, 0, u8::from(wanted), 0, 0, 0, 0];
    let mut reply = [&query[..2], &flags, question].concat();
    if wanted {
        // The name as a pointer, A, IN, a TTL of one second, four bytes.
        reply.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04");
        reply.extend(address.octets());
    }
    Some(reply)
}

const OUTBOUND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15001);
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);
/// A second of TTL, the limits of a lookup, and its next try after some seconds.
const PATIENCE: Duration = Duration::from_secs(20);
