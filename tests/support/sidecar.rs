//! A real proxy process beside the apps of a host, with the host's connections redirected to it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::metrics::Scrape;
use crate::netns::{Host, User};
use rustix::process::Signal;

use crate::process::{Process, eventually};

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
}

impl Sidecar {
    /// Redirects `host` and starts `program` there as the proxy's user, with `variables` as its whole environment.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn start(host: &Host, program: &Path, variables: &[(&str, &str)]) -> Self {
        host.enter(User::ROOT, || weft_proxy::redirect::run([]))
            .unwrap();
        let mut command = host.command(User::PROXY, program);
        command
            .env_clear()
            .env("WEFT_REDIRECT", "on")
            .env("WEFT_LOG_FORMAT", "text")
            .env("WEFT_LOG", "info,weft_proxy=debug");
        command.envs(variables.iter().copied());
        let mut process = Process::start("the proxy", command);
        process.until("being ready", || {
            status(host, READY, "/ready").filter(|status| *status == 200)
        });
        // A drain takes its time, and nothing here waits for its end.
        Self {
            process: process.stopped_with(Signal::KILL),
        }
    }

    /// Returns the process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Asks the proxy of `host` for its metrics.
pub fn scrape(host: &Host) -> Scrape {
    host.block_on(Scrape::of(SocketAddr::new(
        Ipv4Addr::LOCALHOST.into(),
        METRICS,
    )))
}

/// Waits until the proxy of `host` has counted at least `count` in the series of `name` with `labels` (`reason="expired"`).
///
/// # Panics
/// When it has not within 5 s.
pub fn counted(host: &Host, name: &str, labels: &[&str], count: f64) {
    eventually(Duration::from_secs(5), || {
        let found = scrape(host).sum(name, labels);
        if found >= count {
            Ok(())
        } else {
            Err(format!("{name} {labels:?} is {found}, wanted {count}"))
        }
    });
}

fn status(host: &Host, port: u16, path: &str) -> Option<u16> {
    get(host, port, path)?.split(' ').nth(1)?.parse().ok()
}

fn get(host: &Host, port: u16, path: &str) -> Option<String> {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    host.enter(User::ROOT, || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: proxy\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
}

const METRICS: u16 = 15020;
const READY: u16 = 15021;
