//! A child process of the bench: its output in a log, its CPU time and memory read from `/proc`, ended with all of its own
//! children when dropped.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

/// A running process that belongs to the bench.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    /// Where its instructions are written, if they are counted.
    counts: Option<Counts>,
}

/// The dumps of a process that runs under callgrind: `<file>.1`, `<file>.2`, ...
struct Counts {
    file: PathBuf,
    dumps: Cell<u32>,
}

impl Process {
    /// Starts `command` with both outputs in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
            counts: None,
        })
    }

    /// Starts `command` under callgrind, with both outputs in `log`; its environment must have been cleared.
    pub(crate) fn start_counted(command: &Command, log: &Path) -> anyhow::Result<Self> {
        let file = log.with_extension("instructions");
        let mut counted = Command::new("valgrind");
        counted
            .env_clear()
            .args(["--tool=callgrind", "-q"])
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            counted.envs(value.map(|value| (name, value)));
        }
        let mut process = Self::start(&mut counted, log)?;
        process.counts = Some(Counts {
            file,
            dumps: Cell::new(0),
        });
        Ok(process)
    }

    /// The instructions since the last call; `None` where they are not counted.
    pub(crate) fn instructions(&self) -> anyhow::Result<Option<u64>> {
        let Some(counts) = &self.counts else {
            return Ok(None);
        };
        let status = Command::new("callgrind_control")
            .args(["--dump", &self.child.id().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("run callgrind_control")?;
        anyhow::ensure!(status.success(), "callgrind_control: {status}");
        let number = counts.dumps.get() + 1;
        counts.dumps.set(number);
        let file = format!("{}.{number}", counts.file.display());
        let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        let total = text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("totals:"));
        let total = total.and_then(first_number);
        Ok(Some(
            total.with_context(|| format!("{file} has no totals"))?,
        ))
    }

    /// Returns what the process has said last, for a message about its failure.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Fails when the process has ended by itself.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!(
                "{} ended early: {status}\n{}",
                self.log.display(),
                self.last_words()
            ),
        }
    }

    /// Returns the CPU time of the process and its children so far, over all threads that still run.
    ///
    /// Read from `schedstat`, whose first field is nanoseconds on a CPU (kernel's sched-stats.rst).
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let mut total = Duration::ZERO;
        for task in self.tasks()? {
            let text = fs::read_to_string(task.join("schedstat"))?;
            total += Duration::from_nanos(first_number(&text).unwrap_or(0));
        }
        Ok(total)
    }

    /// Returns the resident memory of the process and its children in bytes (`VmRSS`, proc(5)).
    pub(crate) fn resident_bytes(&self) -> io::Result<u64> {
        let mut total = 0;
        for pid in self.tree()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            total += line.and_then(first_number).unwrap_or(0) * 1024;
        }
        Ok(total)
    }

    fn tasks(&self) -> io::Result<Vec<PathBuf>> {
        let mut tasks = Vec::new();
        for pid in self.tree()? {
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                tasks.push(entry?.path());
            }
        }
        Ok(tasks)
    }

    /// Returns the process and all below it, parents first.
    fn tree(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        let mut waiting = vec![self.child.id()];
        while let Some(pid) = waiting.pop() {
            found.push(pid);
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                let children = fs::read_to_string(entry?.path().join("children"))?;
                waiting.extend(
                    children
                        .split_whitespace()
                        .filter_map(|child| child.parse::<u32>().ok()),
                );
            }
        }
        Ok(found)
    }
}

impl Drop for Process {
    /// Ends the process at once: what it drains is of no interest. Failures mean that it has ended already.
    fn drop(&mut self) {
        for pid in self.tree().unwrap_or_default() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
        let _ended = self.child.wait();
    }
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_live_process_are_read() {
        let log = std::env::temp_dir().join(format!("weft-bench-test-{}.log", std::process::id()));
        let mut process =
            Process::start(Command::new("sh").args(["-c", "while :; do :; done"]), &log).unwrap();
        drop(fs::remove_file(&log));
        process.check_alive().unwrap();
        assert!(process.resident_bytes().unwrap() > 0);
        while process.cpu().unwrap() == Duration::ZERO {}
    }
}
