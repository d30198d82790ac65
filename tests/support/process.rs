//! A program that a test started: it ends with the test, and what it said is shown when the test fails.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::scratch::Scratch;

/// Owns a running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Scratch,
    stop: Signal,
}

impl Process {
    /// Starts `command`; what it writes is kept in a file until the process is dropped.
    pub fn start(name: &str, mut command: Command) -> Self {
        let output = Scratch::new();
        let log = File::create(output.path().join("log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {name} ({command:?}): {error}"));
        Self {
            name: name.to_owned(),
            child,
            output,
            stop: Signal::TERM,
        }
    }

    /// Says with which signal the program is asked to end; `TERM` unless said otherwise.
    #[must_use]
    pub fn stopped_with(mut self, signal: Signal) -> Self {
        self.stop = signal;
        self
    }

    /// Waits until `ready` returns something, and returns that.
    ///
    /// # Panics
    /// When the program ends before, or after 20 s.
    pub fn until<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        eventually(Duration::from_secs(20), || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!(
                    "{} ended ({status}) before {what}:\n{}",
                    self.name,
                    self.log()
                );
            }
            ready().ok_or_else(|| format!("{} did not get to: {what}\n{}", self.name, self.log()))
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    /// Waits until the program has ended by itself.
    ///
    /// # Panics
    /// After `within`.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        let name = self.name.clone();
        eventually(within, || {
            self.child
                .try_wait()
                .unwrap()
                .ok_or_else(|| format!("{name} still runs"))
        })
    }

    /// Returns all that the program has written so far, standard output and error in one.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output.path().join("log")).unwrap_or_default())
            .into_owned()
    }

    /// Returns the file into which it writes.
    pub fn output(&self) -> PathBuf {
        self.output.path().join("log")
    }

    /// Returns the process number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = io::stderr()
                .write_all(format!("--- {} said:\n{}\n", self.name, tail(&self.log())).as_bytes());
        }
        self.signal(self.stop);
        if !poll(Duration::from_secs(3), || {
            self.child.try_wait().is_ok_and(|status| status.is_some())
        }) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Tries until `attempt` succeeds and returns what it returned.
///
/// # Panics
/// After `within`, with the last thing that `attempt` said.
pub fn eventually<T>(within: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let mut last = Err(String::new());
    poll(within, || {
        last = attempt();
        last.is_ok()
    });
    last.unwrap_or_else(|error| panic!("not within {within:?}: {error}"))
}

/// The one place that waits by the clock: a program of others tells nobody when it is ready.
#[expect(
    clippy::disallowed_methods,
    reason = "what an outside program does can only be polled"
)]
fn poll(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + within;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn tail(text: &str) -> &str {
    const SHOWN: usize = 8000;
    let start = text.len().saturating_sub(SHOWN);
    text.get(text.ceil_char_boundary(start)..).unwrap_or(text)
}
