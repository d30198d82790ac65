//! The demo's processes: this same binary, started again with a hidden command, each attended by a task that reads
//! what it writes, notices its end, and ends it when told to.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::journal::{Death, Journal};
use crate::app::Seen;

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// As people should read it, such as `proxy of orders`.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub(crate) env: Vec<(String, String)>,
}

/// How a process ended after it was told to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) how: How,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum How {
    Clean,
    Failed(String),
    /// It did not end within [`PATIENCE`] and was killed.
    Killed,
}

/// The running processes. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Processes {
    journal: Journal,
    attendants: JoinSet<Ended>,
    stop: CancellationToken,
}

impl Processes {
    pub(crate) fn new(journal: Journal) -> Self {
        Self {
            journal,
            attendants: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Starts a process; its unexpected end becomes a [`Death`] in the journal.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub(crate) fn start(&mut self, start: &Start) -> anyhow::Result<()> {
        let mut child = command(start)
            .spawn()
            .with_context(|| format!("execute {} for {}", start.program.display(), start.name))?;
        let attendant = Attendant {
            name: start.name.clone(),
            journal: self.journal.clone(),
            stop: self.stop.clone(),
            output: Output::of(&mut child)?,
            last: VecDeque::new(),
        };
        self.attendants.spawn(attendant.attend(child));
        Ok(())
    }

    /// Tells all processes to end, and waits until they have.
    pub(crate) async fn stop(mut self) -> Vec<Ended> {
        self.stop.cancel();
        let mut all = Vec::new();
        while let Some(ended) = self.attendants.join_next().await {
            all.extend(ended);
        }
        all
    }
}

/// Runs a process to its end.
///
/// # Errors
/// It cannot be executed, or fails; with what it wrote.
pub(crate) async fn run(start: &Start) -> anyhow::Result<()> {
    let output = command(start).output().await;
    let output = output.with_context(|| format!("execute {}", start.program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let written = [output.stdout, output.stderr].concat();
    let written = String::from_utf8_lossy(&written);
    Err(anyhow::Error::from(Death {
        process: start.name.clone(),
        status: output.status.to_string(),
        output: written.lines().map(str::to_owned).collect(),
    }))
}

fn command(start: &Start) -> Command {
    let mut command = Command::new(&start.program);
    command
        .args(&start.args)
        .env_clear()
        .envs(start.env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for us; we end the others in order.
        .process_group(0)
        .kill_on_drop(true);
    command
}

struct Attendant {
    name: String,
    journal: Journal,
    stop: CancellationToken,
    output: Output,
    last: VecDeque<String>,
}

impl Attendant {
    async fn attend(mut self, mut child: Child) -> Ended {
        let stop = self.stop.clone();
        let died = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            status = self.read_until_exit(&mut child) => Some(status),
        };
        let how = match died {
            Some(status) => self.report(&status).await,
            None => self.end(&mut child).await,
        };
        Ended {
            name: self.name,
            how,
        }
    }

    async fn report(&mut self, status: &str) -> How {
        self.read_rest().await;
        let death = Death {
            process: self.name.clone(),
            status: status.to_owned(),
            output: std::mem::take(&mut self.last).into(),
        };
        // The first death is the cause; what follows from it is of less interest.
        self.journal
            .write(|entries| entries.death.get_or_insert(death).clone());
        How::Failed(status.to_owned())
    }

    async fn end(&mut self, child: &mut Child) -> How {
        terminate(child);
        let exit = tokio::time::timeout(PATIENCE, self.read_until_exit(child)).await;
        let Ok(status) = exit else {
            let _already_gone = child.kill().await;
            return How::Killed;
        };
        match child.try_wait() {
            Ok(Some(exit)) if exit.success() => How::Clean,
            _ => How::Failed(status),
        }
    }

    /// Reads what the process writes until it ends; returns its status in words.
    async fn read_until_exit(&mut self, child: &mut Child) -> String {
        loop {
            tokio::select! {
                biased;
                Some(line) = self.output.next() => self.keep(line),
                status = child.wait() => return words(status),
            }
        }
    }

    /// Reads what a process that has ended had still written.
    async fn read_rest(&mut self) {
        let deadline = Instant::now() + REST;
        while let Ok(Some(line)) = tokio::time::timeout_at(deadline, self.output.next()).await {
            self.keep(line);
        }
    }

    fn keep(&mut self, line: String) {
        if let Ok(seen) = serde_json::from_str::<Seen>(&line) {
            self.journal
                .write(|entries| entries.add_seen(seen, Instant::now()));
            return;
        }
        if self.last.len() == KEPT_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

/// Both outputs of a process, line by line.
struct Output {
    out: Option<Lines<BufReader<ChildStdout>>>,
    err: Option<Lines<BufReader<ChildStderr>>>,
}

impl Output {
    fn of(child: &mut Child) -> anyhow::Result<Self> {
        let out = child.stdout.take().context("take the standard output")?;
        let err = child.stderr.take().context("take the standard error")?;
        Ok(Self {
            out: Some(BufReader::new(out).lines()),
            err: Some(BufReader::new(err).lines()),
        })
    }

    /// Returns the next line of either; `None` when both are closed.
    ///
    /// # Cancel safety
    /// Cancel safe, as reading a line is.
    async fn next(&mut self) -> Option<String> {
        while self.out.is_some() || self.err.is_some() {
            let line = tokio::select! {
                line = next_line(&mut self.out) => line,
                line = next_line(&mut self.err) => line,
            };
            if line.is_some() {
                return line;
            }
        }
        None
    }
}

/// Returns the next line, or `None` once at the end; then `lines` is taken away, and nothing more comes.
async fn next_line<R: AsyncRead + Unpin>(
    lines: &mut Option<Lines<BufReader<R>>>,
) -> Option<String> {
    let Some(open) = lines else {
        return std::future::pending().await;
    };
    let line = open.next_line().await.ok().flatten();
    if line.is_none() {
        *lines = None;
    }
    line
}

fn terminate(child: &Child) {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = id.and_then(Pid::from_raw) {
        let _already_gone = kill_process(pid, Signal::TERM);
    }
}

fn words(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("no status: {error}"),
    }
}

/// How long a process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to read on after a process has ended; somebody else may hold its outputs open.
const REST: Duration = Duration::from_secs(1);
/// How many of its last lines are shown when a process dies.
const KEPT_LINES: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Start {
        Start {
            name: "a shell".to_owned(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("GREETING".to_owned(), "hello".to_owned())],
        }
    }

    async fn death_of(script: &str) -> Death {
        let journal = Journal::new();
        let mut processes = Processes::new(journal.clone());
        processes.start(&shell(script)).unwrap();
        let death = tokio::time::timeout(Duration::from_secs(10), journal.death()).await;
        processes.stop().await;
        death.unwrap()
    }

    async fn stopped(script: &str) -> How {
        let journal = Journal::new();
        let mut processes = Processes::new(journal.clone());
        processes.start(&shell(script)).unwrap();
        let heard = |entries: &super::super::journal::Entries| {
            entries.trace("4bf92f3577b34da6a3ce929d0e0e4736").cloned()
        };
        journal.find(Duration::from_secs(10), heard).await.unwrap();
        processes.stop().await.pop().unwrap().how
    }

    const ANNOUNCE: &str = r#"echo '{"app":"web","call":"GET /","protocol":"HTTP/1.1","client_cert":null,
        "traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}' | tr -d '\n'; echo; "#;

    #[tokio::test]
    async fn a_process_that_dies_is_reported_with_what_it_wrote() {
        let death = death_of("echo $GREETING; echo oh no >&2; exit 3").await;
        assert_eq!(death.process, "a shell");
        assert_eq!(death.status, "exit status: 3");
        assert!(death.output.contains(&"hello".to_owned()), "{death}");
        assert!(death.output.contains(&"oh no".to_owned()), "{death}");
    }

    #[tokio::test]
    async fn nothing_of_our_environment_is_inherited() {
        let death = death_of("echo \"cargo: $CARGO_MANIFEST_DIR.\"").await;
        assert_eq!(death.output, ["cargo: ."]);
    }

    #[tokio::test]
    async fn a_process_that_is_told_to_end_ends_by_itself() {
        let script = format!("trap 'exit 0' TERM; {ANNOUNCE} while :; do sleep 0.05; done");
        assert_eq!(stopped(&script).await, How::Clean);
    }

    #[tokio::test]
    async fn what_a_process_ends_with_is_told() {
        let script = format!("trap 'exit 4' TERM; {ANNOUNCE} while :; do sleep 0.05; done");
        assert_eq!(
            stopped(&script).await,
            How::Failed("exit status: 4".to_owned())
        );
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_executed_is_named() {
        let mut start = shell("");
        start.program = "/nowhere/weft".into();
        let error = Processes::new(Journal::new()).start(&start).unwrap_err();
        assert_eq!(error.to_string(), "execute /nowhere/weft for a shell");
    }
}
